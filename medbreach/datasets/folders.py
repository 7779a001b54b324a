"""Folders of files: what lies in them, of which class, in which split and of which patient."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from medbreach.errors import DataError

Labels = Literal["folders", "arbitrary"]

ALONE_NOTE = "each image is taken for a patient of its own"
IGNORED = frozenset({"thumbs.db", "desktop.ini", "__macosx"})


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
        word: What one is called.
        suffixes: How their names end, in lower case.
    """

    word: str
    suffixes: tuple[str, ...]

    def fits(self, path: Path) -> bool:
        """Return whether a file's name ends as it should."""
        return path.name.lower().endswith(self.suffixes)


class Found(NamedTuple):
    """A file of a data set.

    Attributes:
        path: Where it lies.
        name: Its path below the data set's folder, for messages.
        label: Number of its class; None if classes are not asked for.
        split: The split that it lies in, or ``""``.
    """

    path: Path
    name: str
    label: int | None
    split: str


class Listing(NamedTuple):
    """The files of a data set, in order of name.

    Attributes:
        files: The files, one split after the other.
        classes: Names of the classes, sorted; None if they are not asked for.
    """

    files: tuple[Found, ...]
    classes: tuple[str, ...] | None


def list_files(
    folder: Path, kind: Kind, labels: Labels, splits: Mapping[str, Path] | None = None
) -> Listing:
    """Return every file below a folder; hidden files and what file browsers leave are skipped.

    Args:
        folder: The data set's folder.
        kind: What the files must be.
        labels: ``folders``: the first level of subfolders are the classes; ``arbitrary``: none.
        splits: Folder of each split; None if there is only ``folder``.

    Raises:
        DataError: A folder is missing or empty, a file is of another kind, or classes are missing.
    """
    splits = splits or {"": folder}
    if labels == "arbitrary":
        files = [
            Found(path, name_below(folder, path), None, split)
            for split, part in splits.items()
            for path in _files_below(folder, part, kind)
        ]
        return Listing(tuple(files), None)
    of_split = {split: _class_folders(folder, part, kind) for split, part in splits.items()}
    classes = tuple(sorted({c.name for folders in of_split.values() for c in folders}))
    if len(classes) < 2:
        raise DataError(
            f"{folder} has the one class folder {classes[0]}: make one for each class, or set "
            "case.data.labels=arbitrary"
        )
    files = [
        Found(path, name_below(folder, path), classes.index(class_folder.name), split)
        for split, folders in of_split.items()
        for class_folder in folders
        for path in _files_below(folder, class_folder, kind)
    ]
    return Listing(tuple(files), classes)


def children(folder: Path) -> list[Path]:
    """Return what lies in a folder, in order of name, without hidden files.

    Raises:
        DataError: There is no such folder, it cannot be listed, or it is empty.
    """
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {what}: set case.data.path to the folder of the images")
    try:
        inside = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {error.strerror}") from error
    visible = [p for p in inside if not p.name.startswith(".") and p.name.lower() not in IGNORED]
    if not visible:
        raise DataError(f"{folder} is empty: put images there, or remove it")
    return visible


def check_pattern(pattern: str | None) -> None:
    """Check a regular expression that tells the patient from a file's path.

    Raises:
        ValueError: It is no regular expression, or has not exactly one group.
    """
    if pattern is None:
        return
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"patients is no regular expression: {error}") from error
    if groups != 1:
        raise ValueError(f"patients needs exactly one group, {pattern!r} has {groups}")


def patient_of(name: str, pattern: str | None) -> str:
    """Return whose a file is: the pattern's group in its path, or the path without a pattern.

    Raises:
        DataError: The pattern does not match.
    """
    if pattern is None:
        return name
    match = re.search(pattern, name)
    if match is None or match.group(1) is None:
        raise DataError(f"{name} does not match case.data.patients, which is {pattern!r}")
    return match.group(1)


def name_below(folder: Path, path: Path) -> str:
    """Return a path below a folder, with slashes; the folder's own name for itself."""
    return path.relative_to(folder).as_posix() if path != folder else path.resolve().name


def _class_folders(folder: Path, part: Path, kind: Kind) -> list[Path]:
    inside = children(part)
    folders = [path for path in inside if path.is_dir()]
    loose = next((p for p in inside if not p.is_dir() and kind.fits(p)), None)
    if not folders:
        raise DataError(
            f"{part} has no class subfolders: make one for each class, or set "
            "case.data.labels=arbitrary"
        )
    if loose is not None:
        raise DataError(
            f"{name_below(folder, loose)} lies beside the class folders: move it into one, or "
            "remove it"
        )
    return folders


def _files_below(folder: Path, part: Path, kind: Kind) -> Iterator[Path]:
    for path in children(part):
        if path.is_dir():
            yield from _files_below(folder, path, kind)
        elif kind.fits(path):
            yield path
        else:
            known = ", ".join(suffix.lstrip(".") for suffix in kind.suffixes)
            raise DataError(
                f"{name_below(folder, path)} is no {kind.word} ({known}): remove it from the folder"
            )
