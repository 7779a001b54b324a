"""Real images to build folders from: nibabel's head MR and pydicom's CT slice."""

from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

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
    """Return a function that turns pydicom's CT slice into a series of shifted copies."""

    def write(folder, count=6, step=(0.0, 0.0, 2.5), shuffled=True, rows=128, **attributes):
        folder.mkdir(parents=True)
        file = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
        first = np.array(file.ImagePositionPatient, dtype=float)
        stored = file.pixel_array[:rows]
        file.Rows = rows
        uid = generate_uid()
        names = np.random.default_rng(0).permutation(count) if shuffled else range(count)
        for k, name in enumerate(names):
            file.SOPInstanceUID = file.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            file.SeriesInstanceUID = uid
            file.ImagePositionPatient = [f"{v:.4f}" for v in first + k * np.array(step)]
            file.PixelData = np.roll(stored, 3 * k, axis=0).tobytes()
            for attribute, value in attributes.items():
                setattr(file, attribute, value)
            file.save_as(folder / f"{name}")
        return folder

    return write
