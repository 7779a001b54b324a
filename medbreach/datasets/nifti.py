"""Single NIfTI files."""

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from medbreach.datasets.folders import Kind
from medbreach.datasets.volumes import Grid, Volume, oriented, oriented_grid
from medbreach.errors import DataError

NIFTI: Final = Kind("NIfTI file", (".nii", ".nii.gz"))
MILLIMETRES: Final = {"meter": 1000.0, "micron": 0.001}


def read_grid(path: Path, name: str) -> Grid:
    """Return where a file's voxels lie, from its header alone.

    Raises:
        DataError: The file is missing, damaged, or holds no grey 3D volume.
    """
    image = _open(path, name)
    return oriented_grid(_shape(image, name), _affine(image), name)


def read_volume(path: Path, name: str) -> Volume:
    """Return a file's volume, its axes in the patient's order and direction.

    Raises:
        DataError: The file is missing, damaged, or holds no grey 3D volume; or it has NaN.
    """
    image = _open(path, name)
    shape = _shape(image, name)
    stored = _voxels(image, name).reshape(shape)
    return oriented(stored, _affine(image), name)


def read_series(path: Path, name: str) -> list[Volume]:
    """Return the volumes of a 4D file, the last axis one after the other.

    Raises:
        DataError: The file is missing or damaged.
    """
    image = _open(path, name)
    stored = _voxels(image, name)
    return [oriented(stored[..., k], _affine(image), name) for k in range(stored.shape[-1])]


def _open(path: Path, name: str) -> Any:
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        image = nibabel.load(path)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except (ImageFileError, HeaderDataError, OSError, ValueError, EOFError) as error:
        raise DataError(f"{name} is no NIfTI file, or its header is damaged: replace it") from error
    if image.get_data_dtype().kind not in "iuf":
        raise DataError(f"{name} holds colours or complex numbers: give one grey volume a file")
    return image


def _shape(image: Any, name: str) -> tuple[int, int, int]:
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        sides = " x ".join(map(str, shape))
        raise DataError(f"{name} is {len(shape)}D ({sides}): give one 3D volume a file")
    return shape


def _affine(image: Any) -> NDArray[Any]:
    units = getattr(image.header, "get_xyzt_units", lambda: ("mm",))()
    scale = MILLIMETRES.get(units[0], 1.0)
    return np.asarray(np.diag([scale, scale, scale, 1.0]) @ image.affine)


def _voxels(image: Any, name: str) -> NDArray[Any]:
    import zlib

    try:
        return np.asarray(image.dataobj, dtype=np.float32)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise DataError(f"{name} is cut off or damaged: replace it by a whole file") from error
