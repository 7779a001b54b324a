"""Blocks of two scans of the trunk, fetched once."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Final

from medbreach.collection import Collection
from medbreach.components import Dataset
from medbreach.datasets import totalsegmentator
from medbreach.datasets.cutting import Cut, Scan, collect
from medbreach.datasets.nifti import read_grid, read_volume
from medbreach.datasets.scans import PLACES_NOTE, loader
from medbreach.datasets.totalsegmentator import Member

HU: Final = (-1000.0, 1000.0)  # air to dense bone
MR: Final = (0.0, 800.0)  # 99.9 % of the voxels lie within


@dataclass(frozen=True)
class ExampleScan(Dataset):
    """Blocks of one scan, as stored, side by side, those with little tissue left out.

    Attributes:
        space: Depth, height and width of blocks; or height and width of tiles of axial slices,
            which lie with the front up and the patient's right on the left.
        tissue: Least share of voxels above the lowest 5 % of the bounds.
    """

    source: ClassVar[str] = (
        "TotalSegmentator 2.18.0, Wasserthal et al. 2023, doi:10.1148/ryai.230024"
    )
    licence: ClassVar[str] = "Apache-2.0 (TotalSegmentator)"
    member: ClassVar[Member]
    bounds: ClassVar[tuple[float, float]]
    unit: ClassVar[str]

    space: tuple[int, ...] = (16, 32, 32)
    tissue: float = 0.5

    def __post_init__(self) -> None:
        self._cut()

    def open(self) -> Collection:
        """Return the blocks.

        Raises:
            DataError: The scan was not fetched, is damaged, or is smaller than a block.
        """
        path = totalsegmentator.located(self.member, self.name)
        scan = Scan(
            name=path.name,
            patient="subject",
            grid=read_grid(path, path.name),
            load=loader(partial(read_volume, path, path.name), path.name, self.bounds),
        )
        return collect([scan], self._cut(), self.unit, note=PLACES_NOTE)

    @classmethod
    def missing(cls) -> str:
        """Return that the scan is not here and how to get it, or ``""``."""
        return totalsegmentator.missing(cls.member, cls.name)

    @classmethod
    def fetch(cls) -> str:
        """Download TotalSegmentator's source distribution and keep its scans.

        Raises:
            DataError: It cannot be downloaded, or is not what was expected.
        """
        return totalsegmentator.fetch()

    def _cut(self) -> Cut:
        return Cut("blocks", self.space, self.bounds, tissue=self.tissue, one_subject=True)


@dataclass(frozen=True)
class ChestCT(ExampleScan):
    """Blocks of one chest CT with contrast, 233 x 167 x 191 voxels of 1.5 mm, in HU.

    The scan is one that TotalSegmentator ships to test itself; it reaches from the kidneys to the
    neck. There is one subject, so places stand for patients. There are no labels: the case makes
    them up.
    """

    name: ClassVar[str] = "chest_ct"
    member: ClassVar[Member] = totalsegmentator.CHEST_CT
    bounds: ClassVar[tuple[float, float]] = HU
    unit: ClassVar[str] = "HU"


@dataclass(frozen=True)
class AbdomenMR(ExampleScan):
    """Blocks of one abdominal MR, 117 x 91 x 20 voxels of 3 mm.

    The scan is one that TotalSegmentator ships to test itself. There is one subject, so places
    stand for patients. There are no labels: the case makes them up.
    """

    name: ClassVar[str] = "abdomen_mr"
    member: ClassVar[Member] = totalsegmentator.ABDOMEN_MR
    bounds: ClassVar[tuple[float, float]] = MR
    unit: ClassVar[str] = "arbitrary"

    space: tuple[int, ...] = (8, 16, 16)
