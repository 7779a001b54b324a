"""Real images to build folders from: nibabel's head MR and pydicom's CT slice."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import scans

NIBABEL = Path(nibabel.__file__).parent / "tests" / "data"


@pytest.fixture(scope="session")
def head():
    """The first time point of the head MR, as nibabel reads it."""
    image = nibabel.load(NIBABEL / "example4d.nii.gz")
    return nibabel.Nifti1Image(image.get_fdata(dtype=np.float32)[..., 0], image.affine)


@pytest.fixture(scope="session")
def slices(head):
    """Twenty slices of the head, 8 bit, rows first."""
    voxels = head.get_fdata()
    return [np.uint8(np.clip(voxels[..., k].T / 4, 0, 255)) for k in range(2, 22)]


@pytest.fixture
def write_series():
    """Return a function that writes a short series in no order that its files' names tell."""

    def write(folder, count=6, shuffled=True, **settings):
        order = np.random.default_rng(0).permutation(count) if shuffled else range(count)
        return scans.write_series(folder, count, names=order, **settings)

    return write
