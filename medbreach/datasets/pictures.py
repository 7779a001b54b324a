"""Single image files: PNG, JPEG, BMP and TIFF, 8 and 16 bit."""

import contextlib
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from medbreach.datasets.folders import Kind
from medbreach.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURE: Final = Kind("image", (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"))
EIGHT_BIT: Final = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
ORIENTATION: Final = 0x0112  # EXIF tag
GREY: Final = 8  # a JPEG keeps grey stored as RGB within this many of 255 steps


class Header(NamedTuple):
    """What a file says about its image.

    Attributes:
        height: Number of rows, upright.
        width: Number of columns, upright.
    """

    height: int
    width: int


def read_header(path: Path, name: str) -> Header:
    """Return an image's size without decoding it.

    Raises:
        DataError: It is no image, a stack of pages, or has more than 16 bits a channel.
    """
    with _opened(path, name) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise DataError(f"{name} is a stack of {image.n_frames} pages: save each as a file")  # type: ignore[attr-defined]
        if not _is_known(image):
            raise DataError(f"{name} has pixels of mode {image.mode}: save it with 8 or 16 bits")
        on_its_side = image.format == "JPEG" and image.getexif().get(ORIENTATION, 1) >= 5
        width, height = image.size[::-1] if on_its_side else image.size
        return Header(height, width)


def is_coloured(path: Path, name: str) -> bool:
    """Return whether any pixel's channels differ by more than a JPEG's rounding.

    Raises:
        DataError: The image is damaged.
    """
    with _opened(path, name) as image:
        if image.mode in ("1", "L", "LA") or image.mode.startswith("I"):
            return False
        pixels = np.asarray(image.convert("RGB"), dtype=np.int16)
        return bool(np.ptp(pixels, axis=-1).max() > GREY)


def read_picture(path: Path, name: str, channels: int) -> Float[Tensor, "channels height width"]:
    """Return an image, its full range of 8 or 16 bits scaled to 0 to 1.

    A JPEG is turned upright by its EXIF tag (Pillow itself does so for TIFF). Colour becomes
    luminance (ITU-R 601) where one channel is asked for; transparency is dropped.

    Raises:
        DataError: The file is damaged, even where the Pillow library is set to overlook it.
    """
    from PIL import ImageOps

    with _opened(path, name) as image:
        upright = ImageOps.exif_transpose(image) if image.format == "JPEG" else image
        if upright.mode in EIGHT_BIT:
            pixels = np.asarray(upright.convert("L" if channels == 1 else "RGB"), np.float32) / 255
        else:
            pixels = np.asarray(upright).astype(np.float32) / 65535
    if pixels.ndim == 2:
        return torch.from_numpy(pixels).expand(channels, -1, -1).clone()
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def fit(
    image: Float[Tensor, "channels height width"], size: tuple[int, int]
) -> Float[Tensor, "channels height2 width2"]:
    """Return an image of another size: cut around its centre to the aspect, then scaled.

    Scaling is bilinear, and antialiased where it makes the image smaller.
    """
    height, width = image.shape[1:]
    if (height, width) == size:
        return image
    rows = min(height, max(1, round(width * size[0] / size[1])))
    columns = min(width, max(1, round(height * size[1] / size[0])))
    top, left = (height - rows) // 2, (width - columns) // 2
    cut = image[None, :, top : top + rows, left : left + columns]
    scaled: Tensor = torch.nn.functional.interpolate(
        cut, size, mode="bilinear", antialias=True, align_corners=False
    )
    return scaled[0]


def _is_known(image: "Image") -> bool:
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
    return sixteen or image.mode in EIGHT_BIT


@contextlib.contextmanager
def _opened(path: Path, name: str) -> Iterator["Image"]:
    """Open an image so that a truncated one is an error.

    Other libraries set ``LOAD_TRUNCATED_IMAGES`` for the whole process, and Pillow then fills up
    with grey what is missing; it is off here, and afterwards as it was.
    """
    from PIL import Image, ImageFile, UnidentifiedImageError

    lenient = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                yield image
    except UnidentifiedImageError as error:
        raise DataError(f"{name} is no image, whatever its name says: remove it") from error
    except (
        OSError,
        SyntaxError,
        TypeError,
        ValueError,
        EOFError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        raise DataError(f"{name} cannot be read ({error}): replace it by a whole file") from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient
