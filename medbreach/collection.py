"""What a data set hands over: its images, whose they are, and what is known about them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from medbreach.errors import DataError
from medbreach.text import blaming
from medbreach.types import ImageSpec

Affine = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Entry:
    """One image, not yet read.

    Attributes:
        read: Returns the image, ``channels *space``, in the spec's unit.
        place: Where it comes from (file, slice), for errors; never shown in a report.
        patient: Whose it is; images that share it never straddle clients or splits.
        label: Its class, or None if there is no certain one.
        split: The split that the data set itself puts it in; ``""`` if it has none.
        affine: Rows of the 4x4 matrix from voxel to millimetres, axes as in ``space`` reversed
            (x, y, z); None for images without a position.
    """

    read: Callable[[], Tensor]
    place: str
    patient: str
    label: int | None = None
    split: str = ""
    affine: Affine | None = None


@dataclass(frozen=True)
class Collection:
    """The images of a data set.

    Attributes:
        spec: What is known about them. Images are clipped to its bounds when they are read.
        entries: The images.
        classes: Names of the classes; None if the images have no labels.
        note: What a reader of a report should know about them; one sentence or none.
        patients_are: What each entry's ``patient`` stands for, in the plural.
    """

    spec: ImageSpec
    entries: Sequence[Entry]
    classes: tuple[str, ...] | None = None
    note: str = ""
    patients_are: str = "patients"

    def __post_init__(self) -> None:
        if not self.entries:
            raise DataError("the data set holds no images")
        labels = range(len(self.classes or ()))
        for entry in self.entries:
            if entry.label is not None and entry.label not in labels:
                raise DataError(
                    f"{entry.place} has label {entry.label}, but there are {len(labels)} classes"
                )
            if not entry.patient:
                raise DataError(f"{entry.place} has no patient")

    def image(self, index: int) -> Float[Tensor, "channels *space"]:
        """Read one image.

        Raises:
            DataError: It is damaged, has the wrong shape, holds NaN, or is the same everywhere.
        """
        entry = self.entries[index]
        with blaming(DataError, f"{entry.place} cannot be read"):
            image = entry.read().to(torch.float32)
        if tuple(image.shape) != self.spec.shape:
            raise DataError(
                f"{entry.place} has shape {tuple(image.shape)}, the others {self.spec.shape}"
            )
        if not image.isfinite().all():
            raise DataError(f"{entry.place} holds NaN or infinite intensities: repair or remove it")
        clipped = image.clamp(*self.spec.bounds)
        if clipped.min() == clipped.max():
            raise DataError(f"{entry.place} is {clipped.min():g} everywhere: remove it")
        return clipped

    def images(self, indices: Sequence[int]) -> Float[Tensor, "n channels *space"]:
        """Read several images into one tensor."""
        if not indices:
            return torch.empty(0, *self.spec.shape)
        return torch.stack([self.image(i) for i in indices])
