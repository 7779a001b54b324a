"""Recorded images as pictures: PNG inside the page, volumes as three planes through the centre."""

import base64
import io
import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from medbreach.types import ImageSpec

PIXELS: Final = 1_200_000  # of all pictures of a page together: less than 5 MB even in colour
SMALLEST, LARGEST = 48, 256  # longer side that pictures are reduced to


class Picture(NamedTuple):
    """One picture of an image.

    Attributes:
        plane: Name of the plane through a volume; empty for 2D.
        uri: The PNG as a data URI.
        width: Width, as a share of the widest picture of the same image.
        aspect: Width over height, in mm if the pixel size is known.
    """

    plane: str
    uri: str
    width: float
    aspect: float


class _Cut(NamedTuple):
    """A plane of an image: its pixels, rows downwards, and their height and width."""

    name: str
    pixels: Float[np.ndarray, "rows columns channels"]
    pixel: tuple[float, float]


def pictures_of(
    image: Float[Tensor, "channels *space"],
    spec: ImageSpec,
    side: int = LARGEST,
    places: Sequence[int] | None = None,
) -> tuple[Picture, ...]:
    """Return an image as pictures: itself, or three planes through a volume.

    The bounds of the spec are black and white, so that pictures of different images compare. Images
    of three channels are in colour; of other numbers of channels the first is shown.

    Args:
        image: Intensities in the spec's unit.
        spec: What is known about the image.
        side: Pixels of the longer side at most; larger pictures are reduced.
        places: Where a volume's planes lie along its axes; None for its centre.
    """
    shown = image if len(image) == 3 else image[:1]
    low, high = spec.bounds
    pixels = ((shown - low) / (high - low)).clamp(0, 1).numpy() * 255
    places = places or [size // 2 for size in spec.space]
    cuts = _planes(pixels, spec, places) if pixels.ndim == 4 else [_whole(pixels, spec)]
    widest = max(cut.pixels.shape[1] * cut.pixel[1] for cut in cuts)
    return tuple(_picture(cut, widest, side) for cut in cuts)


def side_for(images: int, spec: ImageSpec) -> int:
    """Return the longer side of pictures with which a number of images keeps a page small."""
    planes = 3 if len(spec.space) == 3 else 1
    return max(SMALLEST, min(LARGEST, math.isqrt(PIXELS // max(1, images * planes))))


def liveliest(image: Float[Tensor, "channels *space"]) -> tuple[int, ...]:
    """Return where along each spatial axis the plane across it varies most: it shows most."""
    first = image[0]
    planes = (first.movedim(axis, 0).flatten(1) for axis in range(first.ndim))
    return tuple(int(across.std(1).argmax()) for across in planes)


def is_reduced(spec: ImageSpec, side: int) -> bool:
    """Return whether pictures have fewer pixels than the images."""
    return max(spec.space) > side


def is_oriented(spec: ImageSpec) -> bool:
    """Return whether it is known how the images lie in the patient.

    Volumes with a voxel size come from files that say so, and have been turned to depth rising to
    the head, height to the front, and width to the patient's right.
    """
    return len(spec.space) == 3 and spec.spacing is not None


def _whole(pixels: Float[np.ndarray, "channels height width"], spec: ImageSpec) -> _Cut:
    height, width = spec.spacing or (1.0, 1.0)
    return _Cut("", np.moveaxis(pixels, 0, -1), (height, width))


def _planes(
    pixels: Float[np.ndarray, "channels depth height width"],
    spec: ImageSpec,
    places: Sequence[int],
) -> list[_Cut]:
    """Return the planes as radiologists look at them, or as stored if the orientation is unknown.

    Depth is z, height y, width x. Radiologists look at an axial plane from the feet and at a
    coronal one from the front, so the patient's right is on the left; a sagittal plane has the
    front on the left.
    """
    z, y, x = places
    stored = np.moveaxis(pixels, 0, -1)
    if not is_oriented(spec):
        return [
            _Cut("across depth", stored[z], (1.0, 1.0)),
            _Cut("across height", stored[:, y], (1.0, 1.0)),
            _Cut("across width", stored[:, :, x], (1.0, 1.0)),
        ]
    assert spec.spacing is not None
    dz, dy, dx = spec.spacing
    return [
        _Cut("axial", stored[z, ::-1, ::-1], (dy, dx)),
        _Cut("coronal", stored[::-1, y, ::-1], (dz, dx)),
        _Cut("sagittal", stored[::-1, ::-1, x], (dz, dy)),
    ]


def _picture(cut: _Cut, widest: float, side: int) -> Picture:
    rows, columns = cut.pixels.shape[:2]
    height, width = rows * cut.pixel[0], columns * cut.pixel[1]
    return Picture(cut.name, _data_uri(cut.pixels, side), width / widest, width / height)


def _data_uri(pixels: Float[np.ndarray, "rows columns channels"], side: int) -> str:
    from PIL import Image

    eight_bit = np.ascontiguousarray(pixels.round().astype(np.uint8))
    picture = Image.fromarray(eight_bit[..., 0] if eight_bit.shape[-1] == 1 else eight_bit)
    if max(picture.size) > side:
        factor = side / max(picture.size)
        width, height = (max(1, round(length * factor)) for length in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BOX)
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def explain(spec: ImageSpec, side: int) -> Sequence[str]:
    """Return what a reader has to know about the pictures, a sentence each."""
    low, high = spec.bounds
    unit = "" if spec.unit in ("1", "arbitrary") else f" {spec.unit}"
    sentences = [f"Black is {low:g}{unit} and white {high:g}{unit} in every picture."]
    if spec.channels == 3:
        sentences = []
    elif spec.channels != 1:
        sentences.append(f"The first of {spec.channels} channels is shown.")
    if is_oriented(spec):
        sentences.append(
            "Each volume is shown as three planes, each where the private original varies most "
            "along its axis. Axial: front up, the patient's right on the left. Coronal: head up, "
            "the patient's right on the left. Sagittal: head up, front on the left."
        )
    elif len(spec.space) == 3:
        sentences.append(
            "Each volume is shown as three planes, each where the private original varies most "
            "along its axis, as stored: voxel size and orientation are not known, or not the same "
            "in all."
        )
    if is_reduced(spec, side):
        sentences.append(f"Pictures are reduced to {side} pixels on the longer side.")
    return sentences
