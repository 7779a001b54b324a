"""Geometry against nibabel, SciPy, torch and MONAI."""

import nibabel
import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from medbreach.datasets.cutting import Cut, Scan, collect
from medbreach.datasets.volumes import (
    Grid,
    Line,
    centred,
    flipped,
    oriented,
    resampled,
    rows,
    sample,
)
from medbreach.errors import DataError

NOTHING = Line(0, 1, 1)


def whole(voxels):
    return tuple(Line(0, 1, n) for n in voxels.shape)


@pytest.fixture(scope="module")
def volume(head):
    return oriented(head.get_fdata(dtype=np.float32), head.affine, "head")


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SAR", "PIL", "ILA"])
def test_orientation_is_nibabels(head, axes):
    turn = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(head.affine), nibabel.orientations.axcodes2ornt(axes)
    )
    stored = head.as_reoriented(turn)
    volume = oriented(np.asarray(stored.dataobj, np.float32), stored.affine, "head")
    expected = nibabel.as_closest_canonical(stored)
    assert np.array_equal(volume.voxels, expected.get_fdata().transpose(2, 1, 0))
    assert np.allclose(volume.grid.affine, expected.affine)
    assert np.allclose(volume.grid.spacing, expected.header.get_zooms()[::-1], atol=1e-4)


def test_linear_interpolation_is_scipys(volume):
    lines = (resampled(24, 0.7), resampled(96, 0.55), resampled(128, 0.9))
    made = sample(volume.voxels, lines, 0.0)
    places = np.meshgrid(
        *(line.start + line.step * np.arange(line.size) for line in lines), indexing="ij"
    )
    expected = map_coordinates(volume.voxels, places, order=1, mode="nearest")
    assert made.shape == (34, 175, 142)
    assert np.abs(made - expected).max() < 1e-2  # of 1162


def test_larger_voxels_are_antialiased_as_torch_does(volume):
    lines = (Line(0, 1, 24), resampled(96, 96 / 40), resampled(128, 128 / 50))
    made = sample(volume.voxels, lines, 0.0)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(volume.voxels)[None], (40, 50), mode="bilinear", antialias=True
    )
    assert np.abs(made - expected[0].numpy()).max() < 1e-2


def test_resampling_agrees_with_monai(volume):
    from monai.data import MetaTensor
    from monai.transforms import Spacing

    cut = Cut("volumes", (40, 110, 150), (0.0, 1e4), spacing=(1.5, 1.9, 1.8))
    lines = cut.view(volume.grid)
    grid = volume.grid.view(lines)
    xyz = MetaTensor(
        torch.from_numpy(volume.voxels.transpose(2, 1, 0).copy())[None],
        affine=torch.tensor(volume.grid.affine, dtype=torch.float64),
    )
    theirs = Spacing((1.8, 1.9, 1.5), mode="bilinear", padding_mode="border", dtype=torch.float64)(
        xyz
    )
    made = sample(volume.voxels, lines, 0.0)
    back = np.linalg.inv(theirs.affine.numpy()) @ np.array(grid.affine)
    z, y, x = np.meshgrid(*(np.arange(8, n - 8, 5) for n in made.shape), indexing="ij")
    there = back @ np.stack([x, y, z, np.ones_like(x)]).reshape(4, -1)
    compared = map_coordinates(theirs[0].numpy(), there[:3], order=1, mode="nearest")
    assert np.corrcoef(compared, made[z, y, x].ravel())[0, 1] > 0.99


def test_a_bright_spot_keeps_its_place_in_the_world(volume):
    voxels = np.zeros_like(volume.voxels)
    voxels[11:14, 40:45, 70:75] = 1000
    centre = np.array(volume.grid.affine) @ [72, 42, 12, 1]
    for cut in (
        Cut("volumes", (32, 64, 64), (0.0, 1000.0), spacing=(1.5, 3.0, 2.5)),
        Cut("volumes", (32, 64, 64), (0.0, 1000.0)),
        Cut("volumes", (20, 80, 90), (0.0, 1000.0), spacing=(2.2, 2.0, 2.0)),
        Cut("slices", (64, 64), (0.0, 1000.0), spacing=(2.5, 3.0)),
        Cut("blocks", (24, 24), (0.0, 1000.0)),
    ):
        lines = cut.view(volume.grid)
        made = sample(voxels, lines, 0.0)
        weights = made / made.sum()
        spot = [float((weights * axis).sum()) for axis in np.indices(made.shape)]
        found = np.array(volume.grid.view(lines).affine) @ [*spot[::-1], 1]
        assert np.abs(found - centre).max() < 0.1, cut


def test_flip_crop_and_pad_copy_voxels(volume):
    lines = (
        centred(24, 30),
        flipped(96).then(centred(96, 50)),
        Line(0, 1, 128),
    )
    made = sample(volume.voxels, lines, -7.0)
    assert (made[:3] == -7).all()
    assert (made[-3:] == -7).all()
    assert np.array_equal(made[3:27], volume.voxels[:, ::-1][:, 23:73])


def test_the_view_of_a_view_is_one_view():
    first, second = Line(2.0, 1.5, 40), Line(5, -1, 6)
    assert first.then(second) == Line(9.5, -1.5, 6)
    grid = Grid((40, 40, 40), rows(np.diag([2.0, 3.0, 4.0, 1.0])))
    twice = grid.view((first,) * 3).view((second,) * 3)
    assert twice == grid.view((first.then(second),) * 3)


def test_equal_voxel_sizes_are_not_resampled(volume):
    cut = Cut("volumes", (24, 96, 128), (0.0, 1e4), spacing=(2.2, 2.0, 2.0))
    assert cut.view(volume.grid) == whole(volume.voxels)
    assert Cut("volumes", (24, 96, 128), (0.0, 1e4)).view(volume.grid) == whole(volume.voxels)


def test_the_whole_volume_fits_and_keeps_its_proportions(volume):
    cut = Cut("volumes", (32, 32, 48), (0.0, 1e4))
    grid = volume.grid.view(cut.view(volume.grid))
    assert grid.shape == (32, 32, 48)
    assert np.ptp(grid.spacing) < 1e-4
    shown = sample((volume.voxels > 300).astype(np.float32), cut.view(volume.grid), 0.0)
    cell = np.prod(grid.spacing) / np.prod(volume.grid.spacing)
    assert shown.sum() * cell == pytest.approx((volume.voxels > 300).sum(), rel=0.03)


@pytest.mark.parametrize("damage", [np.nan, np.inf])
def test_a_volume_with_holes_is_an_error(head, damage):
    voxels = head.get_fdata(dtype=np.float32).copy()
    voxels[3, 4, 5] = damage
    with pytest.raises(DataError, match="head holds NaN or infinite"):
        oriented(voxels, head.affine, "head")


def test_a_constant_volume_is_an_error(head):
    with pytest.raises(DataError, match="head is 3 everywhere"):
        oriented(np.full(head.shape, 3, np.float32), head.affine, "head")


def test_a_flat_affine_is_an_error(head):
    with pytest.raises(DataError, match="no valid affine"):
        oriented(head.get_fdata(dtype=np.float32), np.zeros((4, 4)), "head")


def test_neighbouring_slices_of_one_subject_share_a_place(volume):
    scan = Scan("head", "subject", volume.grid, lambda: volume.voxels)
    collection = collect(
        [scan], Cut("slices", (96, 96), (0.0, 1000.0), tissue=0.1, one_subject=True), "arbitrary"
    )
    heights = {}
    for entry in collection.entries:
        heights.setdefault(entry.patient, []).append(entry.affine[2][3])
    assert len(heights) == 6
    assert all(max(z) - min(z) < 10 for z in heights.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"form": "slices", "space": (8, 8, 8)}, "space needs 2 positive numbers"),
        ({"form": "volumes", "space": (8, 8)}, "space needs 3 positive numbers"),
        ({"space": (0, 8, 8)}, "space needs 2 or 3 positive numbers"),
        ({"spacing": (1.0, 1.0)}, "spacing needs 3 positive numbers"),
        ({"spacing": (1.0, 1.0, 0.0)}, "spacing needs 3 positive numbers"),
        ({"tissue": 1.5}, "tissue must lie between 0 and 1"),
        ({"bounds": (5.0, 5.0)}, "window must rise"),
    ],
)
def test_contradictions_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Cut(**{"form": "blocks", "space": (8, 8, 8), "bounds": (0.0, 1.0)} | settings)
