"""Single NIfTI files."""

import contextlib
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from medbreach.datasets.folders import Kind
from medbreach.datasets.volumes import Grid, Volume, oriented, oriented_grid
from medbreach.errors import DataError

NIFTI: Final = Kind("NIfTI file", (".nii", ".nii.gz"))
DEFLATE: Final = 1032  # bytes that gzip gets into one, at most
MILLIMETRES: Final = {"meter": 1000.0, "micron": 0.001}


def read_grid(path: Path, name: str) -> Grid:
    """Return where a file's voxels lie, from its header alone.

    Raises:
        DataError: The file is missing, damaged, or holds no grey 3D volume.
    """
    image = _open(path, name)
    return oriented_grid(_shape(image, name), _affine(image, name), name)


def read_volume(path: Path, name: str) -> Volume:
    """Return a file's volume, its axes in the patient's order and direction.

    Raises:
        DataError: The file is missing, damaged, or holds no grey 3D volume; or it has NaN.
    """
    image = _open(path, name)
    shape = _shape(image, name)
    stored = _voxels(image, name).reshape(shape)
    return oriented(stored, _affine(image, name), name)


def read_series(path: Path, name: str) -> list[Volume]:
    """Return the volumes of a 4D file, the last axis one after the other.

    Raises:
        DataError: The file is missing or damaged.
    """
    image = _open(path, name)
    stored = _voxels(image, name)
    return [oriented(stored[..., k], _affine(image, name), name) for k in range(stored.shape[-1])]


def _open(path: Path, name: str) -> Any:
    import nibabel

    if not path.is_file():
        raise DataError(f"{path} does not exist")
    with _guarded(f"{name} is no NIfTI file, or its header is damaged: replace it"):
        image = nibabel.load(path)
    _check_size(path, image, name)
    if image.get_data_dtype().kind not in "iuf":
        raise DataError(f"{name} holds colours or complex numbers: give one grey volume a file")
    return image


def _check_size(path: Path, image: Any, name: str) -> None:
    """Check that a file can hold as many voxels as its header says.

    Raises:
        DataError: It cannot, even at the highest compression.
    """
    needed = math.prod(int(n) for n in image.shape) * image.get_data_dtype().itemsize
    held = path.stat().st_size * (DEFLATE if path.name.lower().endswith(".gz") else 1)
    if needed > held:
        sides = " x ".join(map(str, image.shape))
        raise DataError(f"{name} is cut off: its header says {sides} voxels; replace it")


def _shape(image: Any, name: str) -> tuple[int, int, int]:
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if 0 in shape:
        raise DataError(f"{name} has no voxels: replace it")
    if len(shape) != 3:
        sides = " x ".join(map(str, shape))
        raise DataError(f"{name} is {len(shape)}D ({sides}): give one 3D volume a file")
    return shape


def _affine(image: Any, name: str) -> NDArray[Any]:
    with _guarded(f"{name} has a damaged header: replace it"):
        units = getattr(image.header, "get_xyzt_units", lambda: ("mm",))()
        scale = MILLIMETRES.get(units[0], 1.0)
        return np.asarray(np.diag([scale, scale, scale, 1.0]) @ image.affine)


def _voxels(image: Any, name: str) -> NDArray[Any]:
    with _guarded(f"{name} is cut off or damaged: replace it by a whole file"):
        voxels = np.asarray(image.dataobj, dtype=np.float32)
        return voxels.reshape(image.shape)


@contextlib.contextmanager
def _guarded(message: str) -> Iterator[None]:
    """Replace whatever nibabel raises over a damaged file, and keep its log from the terminal."""
    log = logging.getLogger("nibabel.global")
    silent, log.disabled = log.disabled, True
    try:
        yield
    except Exception as error:
        raise DataError(message) from error
    finally:
        log.disabled = silent
