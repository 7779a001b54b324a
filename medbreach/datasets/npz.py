"""Arrays in MedMNIST's layout."""

import functools
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medbreach.collection import Collection, Entry
from medbreach.components import Dataset
from medbreach.datasets.folders import ALONE_NOTE
from medbreach.errors import DataError
from medbreach.types import ImageSpec

MOST_CLASSES: Final = 100_000
SPLITS: Final = {"train": "training", "val": "validation", "test": "test"}
DAMAGED: Final = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)


class Member(NamedTuple):
    """What an archive says about one of its arrays.

    Attributes:
        shape: Its shape.
        dtype: Type of its numbers.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Npz(Dataset):
    """A file with arrays ``train_images``, ``train_labels``, and so with ``val`` and ``test``.

    Images are (N, H, W), (N, H, W, C), (N, D, H, W) or (N, D, H, W, C) with 1 or 3 channels C: with
    four axes, a last axis of 1 or 3 is taken for channels, any other for the width of volumes.
    Integers of 8 or 16 bits without sign are scaled to 0 to 1 by their range; floats must lie
    between 0 and 1. Labels are (N,) or (N, 1). Splits: training, validation, test. Each image is a
    patient of its own, as the layout has no patients. A split is read when its first image is.

    Attributes:
        path: The file.
        classes: Names of the classes, in order; null: ``class 0`` and so on.
    """

    name: ClassVar[str] = "npz"
    source: ClassVar[str] = "the user"
    licence: ClassVar[str] = "the user's"

    path: Path
    classes: tuple[str, ...] | None = None

    def open(self) -> Collection:
        """Return the images, unread.

        Raises:
            DataError: The file is missing or damaged, or an array is not as it should be.
        """
        return open_npz(self.path, self.classes)


def open_npz(path: Path, classes: tuple[str, ...] | None, note: str = "") -> Collection:
    """Return the images in a file of MedMNIST's layout.

    Raises:
        DataError: The file is missing or damaged, or an array is not as it should be.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"{path} {what}: set case.data.path to a file in npz format")
    members = _members(path)
    there = [short for short in SPLITS if f"{short}_images" in members]
    if not there:
        raise DataError(f"{path.name} has none of the arrays train_images, val_images, test_images")
    spec = _spec(path.name, {f"{short}_images": members[f"{short}_images"] for short in there})
    entries: list[Entry] = []
    for short in there:
        labels = _labels(path, short, members)
        images = functools.cache(functools.partial(_array, path, f"{short}_images"))
        entries += _entries(path.name, short, labels, images, spec)
    top = max(entry.label or 0 for entry in entries)
    if top >= MOST_CLASSES:
        raise DataError(f"{path.name} has a label {top}: classes are numbered from 0 on")
    names = classes or tuple(f"class {k}" for k in range(max(top, 1) + 1))
    return Collection(spec, entries, names, note or ALONE_NOTE, "images")


def _entries(
    file: str, short: str, labels: list[int], images: Callable[[], NDArray[Any]], spec: ImageSpec
) -> Iterator[Entry]:
    for k, label in enumerate(labels):
        place = f"{file}, image {k} of {short}_images"
        yield Entry(
            read=functools.partial(_read, images, k, place, spec),
            place=place,
            patient=f"{short} {k}",
            label=label,
            split=SPLITS[short],
        )


def _members(path: Path) -> dict[str, Member]:
    """Return what the archive holds, from the arrays' headers.

    Raises:
        DataError: It is no archive of arrays, or one holds Python objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {
                name.removesuffix(".npy"): _header(archive, name)
                for name in archive.namelist()
                if name.endswith(".npy")
            }
    except DAMAGED as error:
        raise DataError(f"{path.name} is no npz file, or is damaged: replace it") from error
    for name, member in members.items():
        if member.dtype.hasobject:
            raise DataError(
                f"{path.name} holds Python objects in {name}, which are never loaded as they can "
                "run code: save it as numbers"
            )
    return members


def _header(archive: zipfile.ZipFile, name: str) -> Member:
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read(file)
    return Member(shape, dtype)


def _spec(file: str, images: dict[str, Member]) -> ImageSpec:
    """Return what is known about the images.

    Raises:
        DataError: They have another number of axes, differ between splits, or are no intensities.
    """
    layouts = {name: _layout(file, name, member) for name, member in images.items()}
    first = next(iter(layouts))
    for name, layout in layouts.items():
        if layout != layouts[first]:
            raise DataError(f"{file} has images of different shape in {name} and in {first}")
        dtype = images[name].dtype
        if dtype.kind != "f" and dtype not in (np.uint8, np.uint16):
            raise DataError(f"{file} has {dtype} in {name}: save uint8, or floats from 0 to 1")
    channels, space = layouts[first]
    return ImageSpec(channels, space)


def _layout(file: str, name: str, member: Member) -> tuple[int, tuple[int, ...]]:
    image = member.shape[1:]
    if len(image) in (3, 4) and image[-1] in (1, 3):
        return image[-1], image[:-1]
    if len(image) in (2, 3):
        return 1, image
    sides = " x ".join(map(str, member.shape))
    raise DataError(
        f"{file} has {name} of {sides}: it must be (N, H, W), (N, D, H, W), or either with 1 or 3 "
        "channels last"
    )


def _labels(path: Path, short: str, members: dict[str, Member]) -> list[int]:
    """Return the labels of one split.

    Raises:
        DataError: There are none, too many, or several for an image.
    """
    name = f"{short}_labels"
    count = members[f"{short}_images"].shape[0]
    if name not in members:
        raise DataError(f"{path.name} has {short}_images but no {name}")
    shape, dtype = members[name]
    if len(shape) == 2 and shape[1] > 1:
        raise DataError(f"{path.name} has {shape[1]} labels for each image: one class is needed")
    if dtype.kind not in "iu" or shape not in ((count,), (count, 1)):
        sides = " x ".join(map(str, shape))
        raise DataError(f"{path.name} has {name} of {sides} {dtype}: {count} integers are needed")
    labels: list[int] = _array(path, name).reshape(-1).tolist()
    if min(labels, default=0) < 0:
        raise DataError(f"{path.name} has the label {min(labels)} in {name}: classes start at 0")
    return labels


def _array(path: Path, name: str) -> NDArray[Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return np.asarray(archive[name])
    except DAMAGED as error:
        raise DataError(f"{path.name} is damaged in {name}: replace it by a whole file") from error


def _read(images: Callable[[], NDArray[Any]], k: int, place: str, spec: ImageSpec) -> Tensor:
    stored = images()[k]
    if stored.dtype.kind == "u":
        scaled = stored.astype(np.float32) / np.iinfo(stored.dtype).max
    else:
        scaled = stored.astype(np.float32)
        if scaled.min() < 0 or scaled.max() > 1:
            raise DataError(
                f"{place} ranges from {scaled.min():g} to {scaled.max():g}: floats must lie "
                "between 0 and 1"
            )
    image = torch.from_numpy(scaled.reshape(*spec.space, spec.channels))
    return image.movedim(-1, 0).contiguous()
