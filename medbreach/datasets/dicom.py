"""One series of DICOM files.

Headers hold names, dates and numbers of patients. Nothing of what they say reaches a message:
errors name the file and the attribute that is wrong, never its value, and the DICOM library's own
errors, warnings and log, which quote values, are not passed on.
"""

import contextlib
import hashlib
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medbreach.datasets.folders import children
from medbreach.datasets.volumes import Grid, Volume, oriented, oriented_grid
from medbreach.errors import DataError

NEEDED: Final = (
    "Rows", "Columns", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient"
)  # fmt: skip
UNEVEN: Final = 0.05  # of the distance between slices
TO_RAS: Final = np.diag([-1.0, -1.0, 1.0])  # DICOM counts to the left, the back and the head


class Slice(NamedTuple):
    """What a file's header says.

    Attributes:
        path: The file.
        name: What to call it in errors.
        series: The series' identifier.
        patient: Digest of the patient's number, which is told to nobody; empty without a number.
        modality: Such as ``CT``.
        shape: Number of rows and columns.
        axes: Direction of a row and of a column, then their voxel sizes in mm: eight numbers.
        position: Place of the first pixel, in mm.
    """

    path: Path
    name: str
    series: str
    patient: str
    modality: str
    shape: tuple[int, int]
    axes: tuple[float, ...]
    position: tuple[float, ...]


@dataclass(frozen=True)
class Series:
    """The slices of one volume, in order.

    Attributes:
        name: What to call it in errors.
        slices: The slices, along the normal of their planes.
    """

    name: str
    slices: tuple[Slice, ...]

    @property
    def modality(self) -> str:
        """Such as ``CT``."""
        return self.slices[0].modality

    @property
    def patient(self) -> str:
        """Digest of the patient's number; empty without a number."""
        return self.slices[0].patient

    @property
    def grid(self) -> Grid:
        """Where the voxels lie."""
        return oriented_grid(self._shape, self._affine, self.name)

    def read(self) -> Volume:
        """Return the volume, rescaled to the modality's unit.

        Raises:
            DataError: A file is damaged.
        """
        stored = np.stack([read_pixels(s.path, s.name).T for s in self.slices], axis=-1)
        return oriented(stored, self._affine, self.name)

    @property
    def _shape(self) -> tuple[int, int, int]:
        rows, columns = self.slices[0].shape
        return columns, rows, len(self.slices)

    @property
    def _affine(self) -> NDArray[Any]:
        first, last = (np.array(self.slices[k].position) for k in (0, -1))
        *axes, row_distance, column_distance = self.slices[0].axes
        matrix = np.eye(4)
        matrix[:3, 0] = np.array(axes[:3]) * column_distance
        matrix[:3, 1] = np.array(axes[3:]) * row_distance
        matrix[:3, 2] = (last - first) / (len(self.slices) - 1)
        matrix[:3, 3] = first
        matrix[:3] = TO_RAS @ matrix[:3]
        return matrix


def read_series(folder: Path, name: str) -> Series:
    """Return the one series in a folder, from its headers.

    Raises:
        DataError: A file is no DICOM slice, there are several series, or slices are missing.
    """
    files = [p for p in children(folder) if p.is_file() and p.name.upper() != "DICOMDIR"]
    slices = [read_header(path, f"{name}/{path.name}") for path in files]
    if len(slices) < 2:
        raise DataError(f"{name} holds {len(slices)} DICOM slices: a volume needs at least 2")
    count = len({s.series for s in slices})
    if count > 1:
        raise DataError(f"{name} holds {count} series: put each into a folder of its own")
    for s in slices:
        if s.shape != slices[0].shape or not np.allclose(s.axes, slices[0].axes, atol=1e-3):
            raise DataError(
                f"{s.name} has another size, orientation or pixel spacing than {slices[0].name}: "
                "put each series into a folder of its own"
            )
    normal = np.cross(slices[0].axes[:3], slices[0].axes[3:6])
    ordered = sorted(slices, key=lambda s: float(np.dot(s.position, normal)))
    gaps = np.diff([float(np.dot(s.position, normal)) for s in ordered])
    usual = float(np.median(gaps))
    wrong = np.flatnonzero(abs(gaps - usual) > UNEVEN * usual)
    if usual <= 0 or len(wrong):
        k = int(wrong[0]) if len(wrong) else 0
        raise DataError(
            f"{ordered[k].name} and {ordered[k + 1].name} are {gaps[k]:g} mm apart, others "
            f"{usual:g} mm: a slice is missing or there twice"
        )
    return Series(name, tuple(ordered))


def read_header(path: Path, name: str) -> Slice:
    """Return what is needed of a file's header.

    Raises:
        DataError: It is no DICOM file, or no single grey slice with a position.
    """
    with _private(f"{name} is no DICOM file, or its header is damaged: remove or replace it"):
        header = _dicom(path, stop_before_pixels=True)
        lacking = [a for a in NEEDED if header.get(a) is None]
        frames = int(header.get("NumberOfFrames") or 1)
        samples = int(header.get("SamplesPerPixel") or 1)
    if frames > 1 or samples > 1:
        what = "several frames" if frames > 1 else "colour"
        raise DataError(f"{name} has {what}: give one grey slice a file")
    if lacking:
        raise DataError(f"{name} lacks {', '.join(lacking)}: it is no slice of a volume")
    with _private(f"{name} has a position or size that cannot be read: replace it"):
        return Slice(
            path=path,
            name=name,
            series=str(header.get("SeriesInstanceUID", "")),
            patient=_digest(str(header.get("PatientID") or "").strip()),
            modality=str(header.get("Modality", "")),
            shape=(int(header.Rows), int(header.Columns)),
            axes=_numbers(header.ImageOrientationPatient, 6) + _numbers(header.PixelSpacing, 2),
            position=_numbers(header.ImagePositionPatient, 3),
        )


def read_pixels(path: Path, name: str) -> NDArray[Any]:
    """Return a slice's intensities, rows first, in the modality's unit.

    ``MONOCHROME1`` (low values shown bright) is turned around within the range that the bits can
    hold, except for CT, whose rescaled values are HU however they are shown.

    Raises:
        DataError: The pixels are cut off, damaged, or compressed in an unknown way.
    """
    from pydicom.pixels.processing import apply_modality_lut

    with _private(f"{name} is cut off, damaged, or compressed in an unknown way: replace it"):
        file = _dicom(path)
        stored = file.pixel_array
        if file.PhotometricInterpretation == "MONOCHROME1" and file.get("Modality") != "CT":
            signed = bool(file.get("PixelRepresentation"))
            stored = (-1 if signed else 2 ** int(file.BitsStored) - 1) - stored.astype(np.int64)
        return np.asarray(apply_modality_lut(stored, file), dtype=np.float32)


def _digest(number: str) -> str:
    return hashlib.sha256(number.encode()).hexdigest() if number else ""


def _dicom(path: Path, *, stop_before_pixels: bool = False) -> Any:
    import pydicom

    return pydicom.dcmread(path, stop_before_pixels=stop_before_pixels)


def _numbers(values: Any, count: int) -> tuple[float, ...]:
    """Return an attribute's numbers.

    Raises:
        ValueError: There are more or fewer.
    """
    numbers = tuple(float(value) for value in values)
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise ValueError
    return numbers


@contextlib.contextmanager
def _private(message: str) -> Iterator[None]:
    """Replace any error of the DICOM library, and drop its warnings and log: they quote headers."""
    from pydicom.config import logger
    from pydicom.errors import BytesLengthException, InvalidDicomError

    silent = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (
        BytesLengthException, InvalidDicomError, OSError, ValueError, TypeError, AttributeError,
        KeyError, IndexError, EOFError, NotImplementedError, RuntimeError, struct.error, zlib.error,
    ):  # fmt: skip
        raise DataError(message) from None
    finally:
        logger.disabled = silent
