"""CIFAR, so that breaching's cases can be replayed."""

import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from medbreach.collection import Collection, Entry
from medbreach.components import Dataset
from medbreach.errors import DataError
from medbreach.types import ImageSpec


@dataclass(frozen=True)
class CIFAR(Dataset):
    """Natural images, 32 x 32 pixels in colour, scaled to 0 to 1.

    torchvision's files, whose MD5 sums it checks before it reads them. Splits: training (50 000)
    and validation (10 000), which is what breaching calls the published test split.

    Attributes:
        path: The folder of torchvision's files.
        download: Download the files if they are not there.
    """

    source: ClassVar[str] = "Krizhevsky 2009, Learning multiple layers of features"
    licence: ClassVar[str] = "none stated"
    folder: ClassVar[str]

    path: Path = Path("~/data")
    download: bool = False

    def open(self) -> Collection:
        """Return the images.

        Raises:
            DataError: The files are not there, or are not the published ones.
        """
        parts = {"training": self._part(train=True), "validation": self._part(train=False)}
        entries = [
            Entry(
                read=partial(_read, part.data, k),
                place=f"{self.name}, image {k} of {split}",
                patient=f"{split} {k}",
                label=int(label),
                split=split,
            )
            for split, part in parts.items()
            for k, label in enumerate(part.targets)
        ]
        classes = tuple(parts["training"].classes)
        return Collection(
            ImageSpec(3, (32, 32)), entries, classes, "natural images, no patients", "images"
        )

    @classmethod
    def missing(cls) -> str:
        """Return that the files are not in the default folder, or ``""``."""
        default = cls()
        there = (default.path.expanduser() / default.folder).is_dir()
        return "" if there else default._remedy()

    @classmethod
    def fetch(cls) -> str:
        """Download the files into the default folder; return where they lie.

        Raises:
            DataError: They cannot be downloaded.
        """
        default = cls(download=True)
        default._part(train=True)
        return str(default.path.expanduser())

    def _part(self, *, train: bool) -> Any:
        from torchvision import datasets

        folder = self.path.expanduser()
        kind = getattr(datasets, self.name)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # numpy's, about how the old files were pickled
                return kind(str(folder), train=train, download=self.download)
        except (OSError, RuntimeError) as error:
            if self.download:
                raise DataError(f"{self.name} cannot be downloaded: {error}") from error
            raise DataError(self._remedy()) from error

    def _remedy(self) -> str:
        return (
            f"{self.name} is not whole in {self.path.expanduser()}: set case.data.download=true, "
            f"or put torchvision's folder {self.folder} there"
        )


@dataclass(frozen=True)
class CIFAR10(CIFAR):
    """CIFAR-10: natural images of 10 classes."""

    name: ClassVar[str] = "CIFAR10"
    folder: ClassVar[str] = "cifar-10-batches-py"


@dataclass(frozen=True)
class CIFAR100(CIFAR):
    """CIFAR-100: natural images of 100 classes."""

    name: ClassVar[str] = "CIFAR100"
    folder: ClassVar[str] = "cifar-100-python"


def _read(images: Any, k: int) -> Tensor:
    return torch.from_numpy(images[k]).permute(2, 0, 1).float() / 255
