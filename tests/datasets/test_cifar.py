"""torchvision's files are made here from real 32 x 32 patches; their sums are replaced."""

import hashlib
import pickle

import numpy as np
import pytest
import torch
import torchvision

from medbreach.datasets import CIFAR10, CIFAR100, dermoscopy
from medbreach.datasets.pictures import read_picture
from medbreach.errors import DataError


def dump(file, content):
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(pickle.dumps(content))
    return hashlib.md5(file.read_bytes()).hexdigest()


@pytest.fixture
def patches():
    files = dermoscopy._patches(dermoscopy._package())
    return np.stack(
        [np.uint8(read_picture(files[10 * k], "", 3) * 255 + 0.5).reshape(-1) for k in range(9)]
    )


@pytest.fixture
def ten(tmp_path, patches, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    kind = torchvision.datasets.CIFAR10
    labels = list(range(9))
    train = dump(folder / "data_batch_1", {"data": patches[:6], "labels": labels[:6]})
    test = dump(folder / "test_batch", {"data": patches[6:], "labels": labels[6:]})
    names = [f"thing {k}" for k in range(10)]
    meta = dump(folder / "batches.meta", {"label_names": names})
    monkeypatch.setattr(kind, "train_list", [["data_batch_1", train]])
    monkeypatch.setattr(kind, "test_list", [["test_batch", test]])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": meta})
    return tmp_path


def test_cifar10(ten, patches):
    collection = CIFAR10(ten).open()
    assert [e.split for e in collection.entries] == ["training"] * 6 + ["validation"] * 3
    assert [e.label for e in collection.entries] == list(range(9))
    assert len(collection.classes) == 10
    for k in (2, 7):
        expected = torch.from_numpy(patches[k].reshape(3, 32, 32)).float() / 255
        assert torch.equal(collection.image(k), expected)


def test_cifar100(tmp_path, patches, monkeypatch):
    folder = tmp_path / "cifar-100-python"
    kind = torchvision.datasets.CIFAR100
    train = dump(folder / "train", {"data": patches[:6], "fine_labels": [99, 1, 2, 3, 4, 5]})
    test = dump(folder / "test", {"data": patches[6:], "fine_labels": [6, 7, 8]})
    meta = dump(folder / "meta", {"fine_label_names": [f"thing {k}" for k in range(100)]})
    monkeypatch.setattr(kind, "train_list", [["train", train]])
    monkeypatch.setattr(kind, "test_list", [["test", test]])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": meta})
    collection = CIFAR100(tmp_path).open()
    assert len(collection.classes) == 100
    assert collection.entries[0].label == 99


def test_a_changed_file_is_never_unpickled(ten):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    (ten / "cifar-10-batches-py" / "data_batch_1").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DataError, match=r"CIFAR10 is not whole in .*case\.data\.download=true"):
        CIFAR10(ten).open()


@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100])
def test_missing_files_are_named(kind, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=f"put torchvision's folder {kind.folder} there"):
        kind(tmp_path).open()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert kind.missing()
    (tmp_path / "data" / kind.folder).mkdir(parents=True)
    assert kind.missing() == ""
    assert getattr(torchvision.datasets, kind.name).base_folder == kind.folder
