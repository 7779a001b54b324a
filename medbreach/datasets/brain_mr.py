"""One head MR with two time points, from a package that is installed with medbreach."""

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from medbreach.collection import Collection
from medbreach.components import Dataset
from medbreach.datasets.cutting import Cut, Scan, collect
from medbreach.datasets.nifti import read_series
from medbreach.datasets.scans import PLACES_NOTE
from medbreach.datasets.volumes import Volume, Voxels
from medbreach.errors import DataError

FILE: Final = "example4d.nii.gz"
BOUNDS: Final = (0.0, 1000.0)  # 99.98 % of the voxels lie within, the brain at 300 to 700


@dataclass(frozen=True)
class BrainMR(Dataset):
    """Tiles or blocks of one head MR, as stored: 128 x 96 x 24 voxels of 2 x 2 x 2.2 mm, twice.

    The file is nibabel's own test image, which is installed with nibabel. Tiles and blocks lie side
    by side; those with less than half of their voxels above 5 % of the bounds are left out, as air
    surrounds the head.

    There is one subject, so the place stands for the patient: both time points of a place stay
    together, and so do slices of a tile in one slab of 10 mm. There are no labels: the case makes
    them up.

    Attributes:
        space: Height and width of tiles of axial slices, which lie with the front up and the
            patient's right on the left; or depth, height and width of blocks.
    """

    name: ClassVar[str] = "brain_mr"
    source: ClassVar[str] = "nibabel"
    licence: ClassVar[str] = "MIT (nibabel)"

    space: tuple[int, ...] = (32, 32)

    def __post_init__(self) -> None:
        self._cut()

    def open(self) -> Collection:
        """Return the tiles or blocks.

        Raises:
            DataError: nibabel came without its test image, or ``space`` is larger than the volume.
        """
        problem = self.missing()
        if problem:
            raise DataError(problem)
        volumes = read_series(_file(), FILE)
        scans = [
            Scan(f"{FILE}, time point {k}", "subject", volume.grid, functools.partial(_of, volume))
            for k, volume in enumerate(volumes)
        ]
        return collect(scans, self._cut(), "arbitrary", note=PLACES_NOTE)

    @classmethod
    def missing(cls) -> str:
        """Return that nibabel came without its test image, or ``""``."""
        if _file().is_file():
            return ""
        return f"nibabel came without its test image {FILE}: pip install --force-reinstall nibabel"

    def _cut(self) -> Cut:
        return Cut("blocks", self.space, BOUNDS, one_subject=True)


def _file() -> Path:
    found = importlib.util.find_spec("nibabel")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "tests" / "data" / FILE


def _of(volume: Volume) -> Voxels:
    return volume.voxels
