"""A folder of 2D image files, one subfolder a class."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Final, Literal

from torch import Tensor

from medbreach.collection import Collection, Entry
from medbreach.components import Dataset
from medbreach.datasets.folders import (
    ALONE_NOTE,
    Found,
    Labels,
    check_pattern,
    children,
    list_files,
    patient_of,
)
from medbreach.datasets.pictures import PICTURE, fit, is_coloured, read_header, read_picture
from medbreach.errors import DataError
from medbreach.types import ImageSpec

SAMPLE: Final = 32  # images that are looked at to tell grey from colour
SPLITS: Final = {"Training": "training", "Testing": "test"}


@dataclass(frozen=True)
class ImageFolder(Dataset):
    """PNG, JPEG, BMP and TIFF files with 8 or 16 bits, scaled to 0 to 1 by the format's range.

    Files may lie at any depth below their class folder. Hidden files are skipped; any other file
    that is no image is an error, as is a damaged one when it is read.

    Attributes:
        path: The folder.
        preset: ``BrainTumorMRI``: ``Training`` and ``Testing`` with the class folders inside are
            the splits, if they are there. Null: the class folders lie in ``path``.
        size: Height and width that every image gets: cut around its centre to this aspect, then
            scaled, antialiased. Null: as stored; all must then have the same size.
        channels: 1 (colour becomes luminance) or 3 (grey is repeated). Null: 1 if none of 32 images
            spread over the folder has colour, otherwise 3.
        labels: ``folders``: the class is the subfolder, classes in order of name; ``arbitrary``:
            folders mean nothing, and the case makes labels up.
        patients: Regular expression, searched for in each file's path below ``path``; its one group
            is the patient. Null: each image is a patient of its own, which is wrong where several
            are of one person.
    """

    name: ClassVar[str] = "image_folder"
    source: ClassVar[str] = "the user"
    licence: ClassVar[str] = "the user's"

    path: Path
    preset: Literal["BrainTumorMRI"] | None = None
    size: tuple[int, int] | None = None
    channels: Literal[1, 3] | None = None
    labels: Labels = "folders"
    patients: str | None = None

    def __post_init__(self) -> None:
        check_pattern(self.patients)
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"size must be positive, got {list(self.size)}")

    def open(self) -> Collection:
        """Return the images, unread.

        Raises:
            DataError: The folder is not as it should be; the message names the file.
        """
        files, classes = list_files(self.path, PICTURE, self.labels, self._splits())
        size = self._size(files)
        channels = self.channels or _channels(files)
        entries = [
            Entry(
                read=partial(_read, file, channels, size),
                place=file.name,
                patient=patient_of(file.name, self.patients),
                label=file.label,
                split=file.split,
            )
            for file in files
        ]
        note, patients = ("", "patients") if self.patients else (ALONE_NOTE, "images")
        return Collection(ImageSpec(channels, size), entries, classes, note, patients)

    def _splits(self) -> dict[str, Path] | None:
        folders = {path.name: path for path in children(self.path) if path.is_dir()}
        if not SPLITS.keys() <= folders.keys():
            return None
        if self.preset is None and self.labels == "folders":
            raise DataError(
                f"{self.path} holds Training and Testing, which are splits and no classes: set "
                "case.data.preset=BrainTumorMRI, or case.data.path to one of them"
            )
        return {split: folders[name] for name, split in SPLITS.items()}

    def _size(self, files: tuple[Found, ...]) -> tuple[int, int]:
        """Return the size of every image, having looked at each file's header.

        Raises:
            DataError: A file is no image, or sizes differ and none is asked for.
        """
        sizes = [tuple(read_header(file.path, file.name)) for file in files]
        odd = next((k for k, size in enumerate(sizes) if size != sizes[0]), 0)
        if self.size is None and odd:
            raise DataError(
                f"{files[odd].name} has {sizes[odd][0]} x {sizes[odd][1]} pixels, {files[0].name} "
                f"{sizes[0][0]} x {sizes[0][1]}: set case.data.size to the size that all shall get"
            )
        return self.size or (sizes[0][0], sizes[0][1])


def _channels(files: tuple[Found, ...]) -> Literal[1, 3]:
    step = max(1, len(files) // SAMPLE)
    sample = files[::step][:SAMPLE]
    return 3 if any(is_coloured(file.path, file.name) for file in sample) else 1


def _read(file: Found, channels: int, size: tuple[int, int]) -> Tensor:
    return fit(read_picture(file.path, file.name, channels), size)
