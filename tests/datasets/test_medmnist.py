"""MedMNIST's files are made here from real patches; their published sums are replaced."""

import hashlib
import sys

import medmnist
import numpy as np
import pytest

from medbreach.datasets import MedMNIST, dermoscopy
from medbreach.datasets.pictures import read_picture
from medbreach.errors import ConfigError, DataError


@pytest.fixture
def published(tmp_path, monkeypatch, head):
    """Return a function that writes a set's file and makes its sum the published one."""

    def write(flag, suffix=""):
        if flag.endswith("3d"):
            voxels = np.uint8(head.get_fdata().transpose(2, 1, 0)[:16, 20:36].clip(0, 1020) / 4)
            images = np.stack([voxels[..., k : k + 16] for k in range(40, 52)])
        else:
            files = dermoscopy._patches(dermoscopy._package())
            images = np.stack(
                [np.uint8(read_picture(files[k], "", 1)[0, 2:30, 2:30] * 255) for k in range(12)]
            )
        file = tmp_path / f"{flag}{suffix}.npz"
        labels = np.uint8(np.arange(12)[:, None] % len(medmnist.INFO[flag]["label"]))
        parts = {"train": slice(0, 6), "val": slice(6, 8), "test": slice(8, 12)}
        arrays = {f"{k}_images": images[part] for k, part in parts.items()}
        arrays |= {f"{k}_labels": labels[part] for k, part in parts.items()}
        np.savez_compressed(file, **arrays)
        digest = hashlib.md5(file.read_bytes()).hexdigest()
        monkeypatch.setitem(medmnist.INFO[flag], f"MD5{suffix}", digest)
        return file

    return write


@pytest.mark.parametrize(
    ("flag", "suffix", "size", "shape"),
    [
        ("pneumoniamnist", "", 28, (1, 28, 28)),
        ("organmnist3d", "", 28, (1, 16, 16, 16)),
        ("breastmnist", "_64", 64, (1, 28, 28)),
    ],
)
def test_names_splits_and_pixels(published, tmp_path, flag, suffix, size, shape):
    file = published(flag, suffix)
    collection = MedMNIST(flag, size=size, path=tmp_path).open()
    assert collection.spec.shape == shape
    assert collection.classes == tuple(medmnist.INFO[flag]["label"].values())
    split = {"training": "train", "validation": "val", "test": "test"}
    with np.load(file) as stored:
        for k in (0, 7, 11):
            entry = collection.entries[k]
            number = int(entry.patient.split()[1])
            name = split[entry.split]
            expected = stored[f"{name}_images"][number] / np.float32(255)
            assert np.allclose(collection.image(k)[0].numpy(), expected)
            assert entry.label == stored[f"{name}_labels"][number, 0]


def test_another_file_of_that_name_is_refused(published, tmp_path):
    file = published("pneumoniamnist")
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(DataError, match=r"pneumoniamnist\.npz is not MedMNIST's published file"):
        MedMNIST(path=tmp_path).open()


def test_nothing_is_downloaded_unasked(tmp_path):
    with pytest.raises(DataError, match=r"bloodmnist\.npz is not there: set case\.data\.download"):
        MedMNIST("bloodmnist", path=tmp_path).open()


def test_download_is_checked(published, tmp_path, monkeypatch):
    import torchvision.datasets.utils

    file = published("pneumoniamnist")
    content = file.read_bytes()
    file.unlink()
    asked = []

    def download(url, root, filename, md5):
        asked.append((url, md5))
        (tmp_path / filename).write_bytes(content)

    monkeypatch.setattr(torchvision.datasets.utils, "download_url", download)
    assert len(MedMNIST(path=tmp_path, download=True).open().entries) == 12
    info = medmnist.INFO["pneumoniamnist"]
    assert asked == [(info["url"], info["MD5"])]


def test_a_failed_download_says_what_to_do(tmp_path, monkeypatch):
    import torchvision.datasets.utils

    def fail(*args, **kwargs):
        raise OSError("no route")

    monkeypatch.setattr(torchvision.datasets.utils, "download_url", fail)
    with pytest.raises(DataError, match=r"cannot be downloaded \(no route\): put it into"):
        MedMNIST(path=tmp_path, download=True).open()


def test_several_labels_are_refused(tmp_path):
    with pytest.raises(DataError, match="chestmnist has several labels for each image"):
        MedMNIST("chestmnist", path=tmp_path).open()


def test_a_misspelt_flag(tmp_path):
    with pytest.raises(ConfigError, match="did you mean organmnist3d"):
        MedMNIST("organ3d", path=tmp_path).open()


def test_3d_sets_have_two_sizes(tmp_path):
    with pytest.raises(ConfigError, match="organmnist3d has no size 128"):
        MedMNIST("organmnist3d", size=128, path=tmp_path).open()


def test_missing_speaks_of_the_default_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    if sys.platform != "win32":
        assert str(tmp_path) in MedMNIST.missing()
