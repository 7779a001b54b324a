"""Files that a kill or a full disk leaves whole: the old or the new ones, never half of one."""

import contextlib
import fcntl
import gzip
import io
import json
import os
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from medbreach.collection import Affine
from medbreach.errors import RecordError
from medbreach.types import ImageSpec

PARTIAL: Final = ".partial"
LOCK: Final = ".lock"


def write_whole(file: Path, content: bytes) -> None:
    """Write a file under another name and rename it when it is on the disk; make its folder.

    Raises:
        OSError: It cannot be written; nothing is left of it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}{PARTIAL}")
    try:
        with partial.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(file)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def claim(folder: Path, name: str, settings: object, what: str) -> None:
    """Make a folder that holds settings, or check that it holds these already.

    Args:
        folder: The folder; its files are left alone if it holds something else.
        name: Of the file of settings in it.
        settings: As JSON has them.
        what: The folder is for, with its article.

    Raises:
        RecordError: The folder holds something else, or is damaged, or cannot be written.
    """
    there = settings_in(folder, name)
    if there is None:
        with speaking_of(folder):
            write_whole(folder / name, json.dumps(settings, indent=1).encode())
    elif there != settings:
        raise RecordError(f"{folder} holds {what} of other settings: choose another --out")


def settings_in(folder: Path, name: str, *, besides: Collection[str] = ()) -> Any:
    """Return the settings that a folder holds, as plain values; None if it holds nothing.

    Args:
        folder: The folder.
        name: Of the file of settings in it.
        besides: Names of files that count as nothing.

    Raises:
        RecordError: The folder holds something else, or is damaged, or cannot be read.
    """
    file = folder / name
    with speaking_of(folder):
        if not file.is_file():
            there = {f.name for f in folder.iterdir()} if folder.is_dir() else set()
            if folder.is_file() or there - set(besides):
                raise RecordError(f"{folder} holds something else: choose another --out")
            return None
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise RecordError(f"{file} is damaged: choose another --out") from error


def append_line(file: Path, line: str) -> None:
    """Add a line to a file.

    Raises:
        OSError: It cannot be written; the file is as it was.
    """
    size = file.stat().st_size if file.exists() else 0
    try:
        with file.open("ab") as stream:
            stream.write(f"{line}\n".encode())
            stream.flush()
            os.fsync(stream.fileno())
    except OSError:
        os.truncate(file, size)
        raise


def drop_partial_line(file: Path) -> None:
    """Remove a last line that a kill cut short."""
    content = file.read_bytes() if file.is_file() else b""
    if content and not content.endswith(b"\n"):
        os.truncate(file, content.rfind(b"\n") + 1)


def drop_partial_files(folder: Path) -> None:
    """Remove what a kill left half written, but for reports: somebody may be writing one."""
    for file in folder.rglob(f".*{PARTIAL}"):
        if not file.name.startswith(".report"):
            file.unlink()


def arrays_to_bytes(**arrays: NDArray[Any]) -> bytes:
    """Return arrays as the content of an npz file."""
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def packed(values: Mapping[str, Any]) -> bytes:
    """Return tensors, numbers and text as the content of a file that torch reads, weights only."""
    stream = io.BytesIO()
    torch.save(dict(values), stream)
    return stream.getvalue()


def read_arrays(file: Path, *names: str) -> dict[str, NDArray[Any]]:
    """Return the named arrays of an npz file.

    Raises:
        RecordError: The file or one of the arrays is missing or damaged.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise RecordError(f"{file} is missing or damaged") from error


def volume_to_bytes(
    volume: Float[Tensor, "channels depth height width"], spec: ImageSpec, affine: Affine | None
) -> bytes:
    """Return a volume as the content of a ``.nii.gz`` file.

    Args:
        volume: Its intensities.
        spec: What is known about it.
        affine: Where it lies; if that is unknown it is put at the origin, with the spec's spacing.
    """
    import nibabel

    array = volume.permute(3, 2, 1, 0).numpy()  # x, y, z, channel
    array = array[..., 0] if spec.channels == 1 else array
    spacing = spec.spacing or (1.0, 1.0, 1.0)
    matrix = np.diag([*reversed(spacing), 1.0]) if affine is None else np.array(affine)
    image = nibabel.Nifti1Image(array, matrix)
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), mtime=0)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to a folder.

    Raises:
        RecordError: Another process is writing to it.
    """
    with speaking_of(folder):
        lock = (folder / LOCK).open("w")
    with lock:
        try:
            with speaking_of(folder):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except RecordError as error:
            if isinstance(error.__cause__, BlockingIOError):
                raise RecordError(f"another process is writing to {folder}") from error
            raise
        yield


@contextlib.contextmanager
def speaking_of(folder: Path) -> Iterator[None]:
    """Turn the operating system's errors into a sentence about a run folder.

    Raises:
        RecordError: There was one.
    """
    try:
        yield
    except OSError as error:
        raise RecordError(
            f"{error.filename or folder} cannot be written: {error.strerror or error}"
        ) from error
