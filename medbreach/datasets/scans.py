"""What every data set of volume files has in common."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from medbreach.components import Dataset
from medbreach.datasets.cutting import Cut, Form
from medbreach.datasets.volumes import Volume, Voxels, robust_scale

RELATIVE_NOTE = "each volume is scaled by its own percentiles, so intensities are relative"
PLACES_NOTE = (
    "one subject: places stand for patients, so findings do not generalise to other people"
)


@dataclass(frozen=True, kw_only=True)
class VolumeFiles(Dataset):
    """Volumes from files, their axes turned to the patient's: head, front and right are up.

    A new voxel size (``spacing``) means linear interpolation, antialiased where voxels grow.
    Volumes and slices are then cropped or padded (with the lower bound) around their centre to
    ``space``; blocks lie side by side, what remains is left off evenly at both ends.

    Attributes:
        form: ``volumes``: each file is an image; ``slices``: each axial slice; ``blocks``: blocks
            that do not overlap, in 2D tiles of axial slices. Slices and tiles lie as radiologists
            look at them: front up, the patient's right on the left. For slices and blocks every
            volume is read once at the start.
        space: Voxels of an image: depth, height and width; height and width for slices and tiles.
        spacing: Voxel size in mm, in the order of ``space``. Null: as stored for blocks; for
            volumes and slices the smallest size, equal along all axes, with which the whole fits
            into ``space``, or as stored if it has that size already.
        window: Least and greatest intensity, the bounds that images are clipped to; for CT in HU.
        tissue: Least share of a slice's or block's voxels above background, which is the lowest 5 %
            of the bounds; emptier ones are left out, and so are those that are the same everywhere.
    """

    form: Form = "volumes"
    space: tuple[int, ...] = (32, 64, 64)
    spacing: tuple[float, ...] | None = None
    window: tuple[float, float] | None = None
    tissue: float = 0.1

    source: ClassVar[str] = "the user"
    licence: ClassVar[str] = "the user's"

    def __post_init__(self) -> None:
        self.cut(self.window)

    def cut(self, window: tuple[float, float] | None, *, one_subject: bool = False) -> Cut:
        """Return how volumes become images.

        Raises:
            ValueError: Settings contradict each other.
        """
        low, high = window or (0.0, 1.0)
        return Cut(
            self.form, self.space, (float(low), float(high)), self.spacing, self.tissue, one_subject
        )


def loader(
    read: Callable[[], Volume], name: str, window: tuple[float, float] | None
) -> Callable[[], Voxels]:
    """Return a function that reads a volume, scaled by its percentiles if there is no window."""
    return partial(_load, read, name, window)


def notes(told: Mapping[str, bool]) -> str:
    """Return those notes that hold as one sentence."""
    return "; ".join(text for text, holds in told.items() if holds)


def _load(read: Callable[[], Volume], name: str, window: tuple[float, float] | None) -> Voxels:
    voxels = read().voxels
    return voxels if window else robust_scale(voxels, name)
