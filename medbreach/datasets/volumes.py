"""Volumes: where their voxels lie, and new voxels computed from stored ones.

Axes are ``depth height width``, which are z, y, x of a patient: z rises to the head, y to the
front, x to the patient's right. A `Line` says where the voxels of one new axis lie on a stored one;
every resampling, flip, crop and padding is one line an axis, so voxels and affine cannot disagree.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from medbreach.collection import Affine
from medbreach.errors import DataError

Voxels = Float[np.ndarray, "depth height width"]

SAME = 1e-3  # voxel sizes closer than this share count as equal


class Line(NamedTuple):
    """Where the voxels of a new axis lie on a stored one: voxel ``i`` at ``start + step * i``.

    Attributes:
        start: Place of the first voxel, in stored voxels.
        step: Distance between voxels, in stored voxels; negative for a flip.
        size: Number of voxels.
    """

    start: float
    step: float
    size: int

    def then(self, other: "Line") -> "Line":
        """Return the line that takes ``other``'s voxels from this line's."""
        return Line(self.start + self.step * other.start, self.step * other.step, other.size)


View = tuple[Line, Line, Line]


def resampled(count: int, step: float) -> Line:
    """Return the line that covers an axis with voxels ``step`` times as large, edge on edge."""
    return Line((step - 1) / 2, step, max(1, round(count / step)))


def flipped(count: int) -> Line:
    """Return the line that runs through an axis backwards."""
    return Line(count - 1, -1, count)


def centred(count: int, wanted: int) -> Line:
    """Return the line that crops or pads an axis around its centre."""
    return Line((count - wanted) // 2, 1, wanted)


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a volume lie.

    Attributes:
        shape: Voxels along depth, height and width.
        affine: Rows of the 4x4 matrix from voxel (x, y, z) to millimetres.
    """

    shape: tuple[int, int, int]
    affine: Affine

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size along depth, height and width, in mm."""
        x, y, z = np.linalg.norm(np.array(self.affine)[:3, :3], axis=0).round(6).tolist()
        return z, y, x

    def view(self, lines: View) -> "Grid":
        """Return the grid of the voxels on these lines."""
        local = np.eye(4)
        local[range(3), range(3)] = [line.step for line in reversed(lines)]
        local[:3, 3] = [line.start for line in reversed(lines)]
        z, y, x = (line.size for line in lines)
        return Grid((z, y, x), rows(np.array(self.affine) @ local))


@dataclass(frozen=True)
class Volume:
    """A volume in memory.

    Attributes:
        voxels: Its intensities.
        grid: Where they lie.
    """

    voxels: Voxels
    grid: Grid


def rows(matrix: NDArray[Any]) -> Affine:
    """Return a matrix as rows of plain numbers."""
    return tuple(tuple(float(value) for value in row) for row in matrix)


def oriented_grid(shape: tuple[int, ...], affine: NDArray[Any], name: str) -> Grid:
    """Return the grid of a stored volume, its axes in the patient's order and direction.

    Args:
        shape: Voxels along the stored axes.
        affine: From stored voxel to millimetres, right, front and head positive.
        name: What to call the volume in errors.

    Raises:
        DataError: The affine puts all voxels into one plane.
    """
    from nibabel import orientations

    if not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-9:
        raise DataError(f"{name} has no valid affine, so its orientation is unknown: repair it")
    turn = orientations.io_orientation(affine)
    if not np.isfinite(turn).all():
        raise DataError(f"{name} has an affine that leaves an axis out: repair it")
    x, y, z = (shape[list(turn[:, 0]).index(axis)] for axis in range(3))
    return Grid((z, y, x), rows(affine @ orientations.inv_ornt_aff(turn, shape)))


def oriented(stored: NDArray[Any], affine: NDArray[Any], name: str) -> Volume:
    """Return a stored volume with its axes in the patient's order and direction.

    Raises:
        DataError: The affine is none, or the volume holds NaN or is the same everywhere.
    """
    from nibabel import orientations

    grid = oriented_grid(stored.shape, affine, name)
    if not np.isfinite(stored).all():
        raise DataError(f"{name} holds NaN or infinite intensities: repair or remove it")
    if stored.min() == stored.max():
        raise DataError(f"{name} is {stored.min():g} everywhere: remove it")
    turned = orientations.apply_orientation(stored, orientations.io_orientation(affine))
    return Volume(np.ascontiguousarray(turned.transpose(2, 1, 0), dtype=np.float32), grid)


def sample(
    voxels: Voxels, lines: View, outside: float
) -> Float[np.ndarray, "depth2 height2 width2"]:
    """Return the voxels on these lines, ``outside`` where they leave the volume.

    Interpolation is linear along each axis; where voxels grow, the weights are a triangle as wide
    as two new voxels, so that nothing is aliased (as Pillow and torch do in 2D).
    """
    made: NDArray[Any] = voxels
    for axis, line in enumerate(lines):
        size = made.shape[axis]
        if line == Line(0, 1, size):
            continue
        places = line.start + line.step * np.arange(line.size)
        made = _along(made, axis, places, abs(float(line.step)))
        away = (places < -0.5) | (places > size - 0.5)
        made[(slice(None),) * axis + (away,)] = outside
    return np.ascontiguousarray(made, dtype=np.float32)


def robust_scale(voxels: Voxels, name: str) -> Voxels:
    """Return a volume with its 0.5th percentile at 0 and its 99.5th at 1.

    Raises:
        DataError: They are equal.
    """
    low, high = (float(value) for value in np.percentile(voxels, [0.5, 99.5]))
    if low == high:
        raise DataError(f"{name} is {low:g} nearly everywhere: remove it, or set case.data.window")
    return ((voxels - low) / (high - low)).astype(np.float32)


def _along(voxels: NDArray[Any], axis: int, places: NDArray[Any], step: float) -> NDArray[Any]:
    size = voxels.shape[axis]
    if step == 1 and (places == places.round()).all():
        taken: NDArray[Any] = voxels.take(places.astype(int).clip(0, size - 1), axis)
        return taken
    weights = 1 - abs(places[:, None].clip(-0.5, size - 0.5) - np.arange(size)) / max(1, step)
    weights = weights.clip(0)
    weights /= weights.sum(1, keepdims=True)
    moved = np.tensordot(weights.astype(np.float32), voxels, (1, axis))
    return np.moveaxis(moved, 0, axis)
