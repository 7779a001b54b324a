"""Volumes to images: whole volumes, axial slices, or blocks."""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

from medbreach.collection import Collection, Entry
from medbreach.datasets.volumes import (
    SAME,
    Grid,
    Line,
    View,
    Voxels,
    centred,
    flipped,
    resampled,
    sample,
)
from medbreach.errors import DataError
from medbreach.types import ImageSpec

Form = Literal["volumes", "slices", "blocks"]
Corner = tuple[int, int, int]

FAINT: Final = 0.05  # of the bounds above the lower one; what is fainter counts as background
SLAB: Final = 10.0  # mm; nearer slices of one subject show nearly the same and stay together
KEPT: Final = 4  # volumes kept in memory between reads


@dataclass(frozen=True)
class Scan:
    """One volume, not yet read.

    Attributes:
        name: What to call it in errors.
        patient: Whose it is.
        grid: Where its voxels lie.
        load: Returns its voxels, in the collection's unit.
        label: Its class, or None.
    """

    name: str
    patient: str
    grid: Grid
    load: Callable[[], Voxels]
    label: int | None = None


@dataclass(frozen=True)
class Cut:
    """How volumes become images.

    Attributes:
        form: What becomes an image: a whole volume, each axial slice, or each of the blocks that
            lie side by side; of blocks with two axes, each tile of each axial slice.
        space: Voxels of an image. Slices and tiles lie as radiologists look at them: front up, the
            patient's right on the left.
        spacing: Voxel size to resample to, in mm, in the order of ``space``. None: as stored for
            blocks; for volumes and slices the smallest one, equal along all axes, with which the
            whole fits, or as stored if they have the size already.
        bounds: Least and greatest intensity; the least pads what is too small.
        tissue: Least share of a slice's or block's voxels that must be brighter than background.
        one_subject: Tell places apart instead of volumes: what a patient has to be for volumes that
            are all of one person. Slices less than 10 mm apart may share a place.
    """

    form: Form
    space: tuple[int, ...]
    bounds: tuple[float, float]
    spacing: tuple[float, ...] | None = None
    tissue: float = 0.5
    one_subject: bool = False

    def __post_init__(self) -> None:
        axes = {"volumes": (3,), "slices": (2,), "blocks": (2, 3)}[self.form]
        if len(self.space) not in axes or min(self.space) < 1:
            numbers = " or ".join(map(str, axes))
            raise ValueError(f"space needs {numbers} positive numbers, got {list(self.space)}")
        if self.spacing is not None and (
            len(self.spacing) != len(self.space) or min(self.spacing) <= 0
        ):
            raise ValueError(
                f"spacing needs {len(self.space)} positive numbers, got {list(self.spacing)}"
            )
        if not 0 <= self.tissue <= 1:
            raise ValueError(f"tissue must lie between 0 and 1, got {self.tissue}")
        if not self.bounds[0] < self.bounds[1]:
            raise ValueError(f"window must rise, got {list(self.bounds)}")

    @property
    def flat(self) -> bool:
        """Whether images are 2D."""
        return len(self.space) == 2

    @property
    def block(self) -> Corner:
        """Voxels of an image along depth, height and width."""
        depth, height, width = (1, *self.space) if self.flat else self.space
        return depth, height, width

    def view(self, grid: Grid) -> View:
        """Return where the voxels that images are cut from lie in a stored volume."""
        lines = [resampled(n, f) for n, f in zip(grid.shape, self._steps(grid), strict=True)]
        if self.flat:
            lines[1:] = [line.then(flipped(line.size)) for line in lines[1:]]
        if self.form != "blocks":
            first = 3 - len(self.space)
            lines[first:] = [
                line.then(centred(line.size, wanted))
                for line, wanted in zip(lines[first:], self.space, strict=True)
            ]
        depth, height, width = lines
        return depth, height, width

    def _steps(self, grid: Grid) -> tuple[float, ...]:
        axes = len(self.space)
        shape, spacing = grid.shape[-axes:], grid.spacing[-axes:]
        wanted = self.spacing
        if wanted is None:
            if self.form == "blocks" or shape == self.space:
                return (1.0,) * 3
            sides = zip(shape, spacing, self.space, strict=True)
            wanted = (max(n * size / room for n, size, room in sides),) * axes
        steps = [new / old for new, old in zip(wanted, spacing, strict=True)]
        return (*(1.0,) * (3 - axes), *(1.0 if abs(s - 1) < SAME else s for s in steps))


def collect(
    scans: Sequence[Scan],
    cut: Cut,
    unit: str,
    classes: tuple[str, ...] | None = None,
    note: str = "",
) -> Collection:
    """Return the images of volumes. Slices and blocks take one look at every volume.

    Raises:
        DataError: A volume is damaged, is smaller than a block, or has no tissue.
    """
    views = [cut.view(scan.grid) for scan in scans]
    grids = [scan.grid.view(view) for scan, view in zip(scans, views, strict=True)]

    @functools.lru_cache(maxsize=KEPT)
    def prepared(k: int) -> Voxels:
        return sample(scans[k].load(), views[k], cut.bounds[0])

    entries = [
        Entry(
            read=functools.partial(_read, prepared, k, corner, cut),
            place=_place(scan, corner, cut),
            patient=_patient(scan, corner, grids[k], cut),
            label=scan.label,
            affine=grids[k].view(_window(corner, cut.block)).affine,
        )
        for k, scan in enumerate(scans)
        for corner in _corners(scan, grids[k], cut, functools.partial(prepared, k))
    ]
    spec = ImageSpec(1, cut.space, _common_spacing(grids, cut), cut.bounds, unit)
    patients = "places in one subject" if cut.one_subject else "patients"
    return Collection(spec, entries, classes, note, patients)


def _corners(scan: Scan, grid: Grid, cut: Cut, voxels: Callable[[], Voxels]) -> Iterator[Corner]:
    """Yield the first voxel of each image of a volume, background left out.

    Raises:
        DataError: Nothing is left, or the volume is smaller than a block.
    """
    counts = [n // b for n, b in zip(grid.shape, cut.block, strict=True)]
    if 0 in counts:
        have, need = (" x ".join(map(str, s)) for s in (grid.shape, cut.block))
        raise DataError(
            f"{scan.name} has {have} voxels, less than one block of {need}: lower case.data.space"
        )
    margins = [(n - c * b) // 2 for n, c, b in zip(grid.shape, counts, cut.block, strict=True)]
    firsts = (range(m, m + c * b, b) for m, c, b in zip(margins, counts, cut.block, strict=True))
    corners = [(z, y, x) for z, y, x in itertools.product(*firsts)]
    if cut.form != "volumes":
        bright = voxels() > cut.bounds[0] + FAINT * (cut.bounds[1] - cut.bounds[0])
        shown = voxels().clip(*cut.bounds)
        corners = [
            corner
            for corner in corners
            if bright[_slices(corner, cut)].mean() >= cut.tissue
            and shown[_slices(corner, cut)].min() < shown[_slices(corner, cut)].max()
        ]
    if not corners:
        raise DataError(
            f"{scan.name} shows no tissue in {cut.tissue:.0%} of any {cut.form.rstrip('s')}: lower "
            "case.data.tissue, or check case.data.window"
        )
    yield from corners


def _read(prepared: Callable[[int], Voxels], k: int, corner: Corner, cut: Cut) -> Tensor:
    image = torch.from_numpy(prepared(k)[_slices(corner, cut)].copy())
    return image if cut.flat else image[None]


def _slices(corner: Corner, cut: Cut) -> tuple[slice, ...]:
    return tuple(slice(a, a + size) for a, size in zip(corner, cut.block, strict=True))


def _window(corner: Corner, block: Corner) -> View:
    z, y, x = (Line(start, 1, size) for start, size in zip(corner, block, strict=True))
    return z, y, x


def _place(scan: Scan, corner: Corner, cut: Cut) -> str:
    z, y, x = corner
    if cut.form == "volumes":
        return scan.name
    if cut.form == "slices":
        return f"{scan.name}, slice {z}"
    if cut.flat:
        return f"{scan.name}, slice {z}, tile at row {y}, column {x}"
    return f"{scan.name}, block at z {z}, y {y}, x {x}"


def _patient(scan: Scan, corner: Corner, grid: Grid, cut: Cut) -> str:
    if not cut.one_subject:
        return scan.patient
    z, y, x = corner
    depth = int(z * grid.spacing[0] / SLAB) if cut.flat else z
    return f"{scan.patient}/{depth}/{y}/{x}"


def _common_spacing(grids: Sequence[Grid], cut: Cut) -> tuple[float, ...] | None:
    spacings = [grid.spacing[-len(cut.space) :] for grid in grids]
    differ = any(
        abs(a / b - 1) > 10 * SAME
        for spacing in spacings
        for a, b in zip(spacing, spacings[0], strict=True)
    )
    return None if differ else spacings[0]
