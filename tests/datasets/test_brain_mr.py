from collections import Counter, defaultdict
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from medbreach.datasets import BrainMR
from medbreach.errors import ConfigError, DataError
from medbreach.settings import build


@pytest.fixture(scope="module")
def stored():
    image = nibabel.load(Path(nibabel.__file__).parent / "tests/data/example4d.nii.gz")
    return image.get_fdata(), image.affine


@pytest.mark.parametrize("space", [(32, 32), (8, 32, 32), (8, 16, 16)])
def test_voxels_lie_where_the_affine_says(stored, space):
    voxels, affine = stored
    collection = BrainMR(space).open()
    rng = np.random.default_rng(0)
    for k in rng.choice(len(collection.entries), 20):
        entry = collection.entries[k]
        image = collection.image(int(k)).reshape((1, *space)[-3:]).numpy()
        z, y, x = (rng.integers(n) for n in image.shape)
        world = np.array(entry.affine) @ [x, y, z, 1]
        i, j, s, _ = np.linalg.inv(affine) @ world
        assert np.allclose([i, j, s], np.round([i, j, s]), atol=1e-4)
        time = int(entry.place.split("time point ")[1][0])
        assert image[z, y, x] == min(voxels[round(i), round(j), round(s), time], 1000)


def test_tiles_lie_as_radiologists_look_at_them():
    first = np.array(BrainMR().open().entries[0].affine)
    assert first[0, 0] < 0, "columns run from the patient's right to the left"
    assert first[1, 1] < 0, "rows run from front to back"


def test_blocks_are_ras():
    affine = np.array(BrainMR((8, 32, 32)).open().entries[0].affine)
    assert (np.diag(affine)[:3] > 0).all()


@pytest.mark.parametrize("space", [(32, 32), (8, 16, 16)])
def test_both_time_points_of_a_place_stay_together(space):
    collection = BrainMR(space).open()
    owners = defaultdict(set)
    for entry in collection.entries:
        owners[entry.place.split(", ", 2)[2]].add(entry.patient)
    assert all(len(patients) == 1 for patients in owners.values())
    assert len({e.patient for e in collection.entries}) >= 30
    assert "one subject" in collection.note


def test_tiles_overlap_nowhere_and_show_the_head():
    collection = BrainMR().open()
    places = Counter((e.place, e.affine) for e in collection.entries)
    assert max(places.values()) == 1
    images = collection.images(range(len(collection.entries)))
    assert ((images > 50).flatten(1).float().mean(1) >= 0.5).all()
    assert images.max() <= 1000
    assert collection.classes is None


def test_spacing_is_in_the_order_of_space():
    assert BrainMR().open().spec.spacing == pytest.approx((2.0, 2.0), abs=1e-4)
    assert BrainMR((8, 16, 16)).open().spec.spacing == pytest.approx((2.2, 2.0, 2.0), abs=1e-4)


def test_a_block_larger_than_the_head_is_an_error():
    with pytest.raises(
        DataError, match="24 x 96 x 128 voxels, less than one block of 32 x 32 x 32"
    ):
        BrainMR((32, 32, 32)).open()


def test_space_has_two_or_three_axes():
    with pytest.raises(ConfigError, match="space needs 2 or 3 positive numbers"):
        build(BrainMR, {"space": [32]}, "case.data")


def test_reading_twice_gives_the_same():
    collection = BrainMR().open()
    before = collection.image(5).clone()
    collection.entries[5].read().zero_()
    assert torch.equal(collection.image(5), before)
