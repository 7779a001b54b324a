"""Public images from a folder, to try a network on."""

from dataclasses import replace
from pathlib import Path
from typing import Final, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from medbreach.components import Dataset
from medbreach.datasets.image_folder import ImageFolder
from medbreach.datasets.nifti_folder import NiftiFolder
from medbreach.errors import DataError
from medbreach.types import ImageSpec

FEWEST: Final = 8
MOST: Final = 64


class Public(NamedTuple):
    """Public images, and what they say of images.

    Attributes:
        images: The images.
        spec: The architecture's, with the images' bounds, means and deviations.
    """

    images: Float[Tensor, "public channels *space"]
    spec: ImageSpec


def read_public(folder: Path, spec: ImageSpec) -> Public:
    """Read images from a folder, at the size that the architecture takes.

    Pictures are read for 2D images, NIfTI volumes for 3D ones, at any depth below the folder.

    Raises:
        DataError: The folder is missing, holds too few images, or they have other channels.
    """
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise DataError(f"--public {folder} {what}")
    if not any(path.is_file() for path in folder.rglob("*")):
        raise DataError(f"--public {folder} holds no files")
    collection = _dataset(folder, spec).open()
    if collection.spec.shape != spec.shape:
        raise DataError(
            f"the images in --public {folder} are {_shape(collection.spec)} (channels first), but "
            f"the model takes {_shape(spec)}"
        )
    count = len(collection.entries)
    if count < FEWEST:
        raise DataError(f"--public {folder} holds {count} images: it takes at least {FEWEST}")
    step = max(1, count // MOST)
    images = collection.images(range(0, count, step)[:MOST])
    deviation, mean = torch.std_mean(images, [0, *range(2, images.dim())])
    known = replace(
        spec,
        bounds=collection.spec.bounds,
        mean=tuple(mean.tolist()),
        std=tuple(deviation.clamp_min(1e-6).tolist()),
    )
    return Public(images, known)


def _dataset(folder: Path, spec: ImageSpec) -> Dataset:
    if len(spec.space) == 3:
        return NiftiFolder(path=folder, space=spec.space, labels="arbitrary")
    height, width = spec.space
    channels: Literal[1, 3] = 1 if spec.channels == 1 else 3
    return ImageFolder(folder, size=(height, width), channels=channels, labels="arbitrary")


def _shape(spec: ImageSpec) -> str:
    return " x ".join(map(str, spec.shape))
