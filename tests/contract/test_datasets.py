"""The contract of data sets; those that read the user's files get real images to read."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from scans import write_series

from medbreach import plugins
from medbreach.testing import check, check_declaration, tiny_collection

HEAD = Path(nibabel.__file__).parent / "tests" / "data" / "example4d.nii.gz"


def pixels(collection):
    """Images of a collection as bytes, channels last."""
    images = collection.images(range(12)) / collection.spec.bounds[1] * 255
    return images.movedim(1, -1).byte().numpy()


def image_folder(folder):
    for k, image in enumerate(pixels(tiny_collection((16, 16), 3))):
        (folder / f"class {k % 2}").mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / f"class {k % 2}" / f"{k}.png")
    return {"path": str(folder)}


def nifti_folder(folder):
    head = nibabel.load(HEAD)
    for k in range(2):
        (folder / f"class {k}").mkdir()
        volume = nibabel.Nifti1Image(head.get_fdata(dtype=np.float32)[..., k], head.affine)
        volume.to_filename(folder / f"class {k}" / "head.nii.gz")
    return {"path": str(folder), "form": "slices", "space": [32, 32]}


def dicom_series(folder):
    write_series(folder, count=4, step=(0.0, 0.0, 5.0))
    return {"path": str(folder), "form": "blocks", "space": [4, 32, 32], "tissue": 0.0}


def npz(folder):
    images = pixels(tiny_collection((8, 16, 16), 1))[..., 0]
    np.savez(folder / "head.npz", test_images=images, test_labels=np.arange(12)[:, None] % 2)
    return {"path": str(folder / "head.npz")}


EXAMPLES = {f.__name__: f for f in (image_folder, nifti_folder, dicom_series, npz)}


@pytest.mark.parametrize("name", plugins.datasets())
def test_dataset(name, tmp_path):
    dataset = plugins.datasets()[name]
    settings = EXAMPLES[name](tmp_path) if name in EXAMPLES else None
    check_declaration(dataset, settings)
    if settings is None and dataset.missing():
        pytest.skip(dataset.missing())
    check(dataset, settings)
