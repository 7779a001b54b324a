"""MedMNIST's data sets, checked against their published sums."""

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from medbreach.collection import Collection
from medbreach.components import Dataset
from medbreach.datasets.npz import open_npz
from medbreach.errors import ConfigError, DataError
from medbreach.settings import nearest


@dataclass(frozen=True)
class MedMNIST(Dataset):
    """One of MedMNIST's data sets with a class an image, in 2D or 3D, scaled to 0 to 1.

    The file's MD5 sum must be the published one. Nothing is downloaded unless asked for. Splits:
    training, validation, test. Each image is a patient of its own, as MedMNIST tells no patients,
    although several of its sets have more than one image a person.

    Attributes:
        flag: MedMNIST's name of the data set, such as ``organmnist3d``.
        size: Pixels or voxels along each side; 3D sets come in 28 and 64.
        path: The folder of MedMNIST's files.
        download: Download the file if it is not there.
    """

    name: ClassVar[str] = "medmnist"
    source: ClassVar[str] = "Yang et al. 2023, doi:10.1038/s41597-022-01721-8"
    licence: ClassVar[str] = "CC BY 4.0 (dermamnist: CC BY-NC 4.0)"

    flag: str = "pneumoniamnist"
    size: Literal[28, 64, 128, 224] = 28
    path: Path = Path("~/.medmnist")
    download: bool = False

    def open(self) -> Collection:
        """Return the images, unread.

        Raises:
            DataError: The file is not there, is not the published one, or has several labels an
                image.
            ConfigError: MedMNIST has no such set, or not of this size.
        """
        info = self._info()
        if "multi-label" in info["task"]:
            raise DataError(f"{self.flag} has several labels for each image: one class is needed")
        if not self.file.is_file():
            if not self.download:
                raise DataError(self._remedy())
            self._download(info)
        if _md5(self.file) != info[f"MD5{self._suffix}"]:
            raise DataError(
                f"{self.file} is not MedMNIST's published file (its MD5 sum differs): remove it "
                "and set case.data.download=true, or open it with case/data=npz"
            )
        names = sorted(info["label"].items(), key=lambda item: int(item[0]))
        return open_npz(
            self.file,
            tuple(str(name) for _, name in names),
            "each image is taken for a patient of its own, as MedMNIST tells no patients",
        )

    @property
    def file(self) -> Path:
        """Where the file lies."""
        return self.path.expanduser() / f"{self.flag}{self._suffix}.npz"

    @classmethod
    def missing(cls) -> str:
        """Return that the default data set is not in its default folder, or ``""``."""
        default = cls()
        return "" if default.file.is_file() else default._remedy()

    @classmethod
    def fetch(cls) -> str:
        """Download the default data set; return where it lies.

        Raises:
            DataError: It cannot be downloaded.
        """
        default = cls(download=True)
        default.open()
        return str(default.file)

    @property
    def _suffix(self) -> str:
        return "" if self.size == 28 else f"_{self.size}"

    def _remedy(self) -> str:
        return (
            f"{self.file} is not there: set case.data.download=true, or put MedMNIST's "
            f"{self.file.name} into {self.file.parent}"
        )

    def _info(self) -> dict[str, Any]:
        with warnings.catch_warnings():  # of a home that cannot be written, or is made just now
            warnings.filterwarnings("ignore", "Failed to setup default root")
            from medmnist import INFO

        if self.flag not in INFO:
            raise ConfigError(f"MedMNIST has no {self.flag!r}; {nearest(self.flag, INFO)}")
        info: dict[str, Any] = INFO[self.flag]
        if f"MD5{self._suffix}" not in info:
            raise ConfigError(
                f"{self.flag} has no size {self.size}: set case.data.size to 28 or 64"
            )
        return info

    def _download(self, info: dict[str, Any]) -> None:
        from torchvision.datasets.utils import download_url

        try:
            download_url(
                info[f"url{self._suffix}"],
                root=str(self.file.parent),
                filename=self.file.name,
                md5=info[f"MD5{self._suffix}"],
            )
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"{self.file.name} cannot be downloaded ({error}): put it into {self.file.parent}"
            ) from error


def _md5(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "md5").hexdigest()
