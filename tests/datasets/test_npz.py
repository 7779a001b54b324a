import numpy as np
import pytest
import torch

from medbreach.datasets import Npz, dermoscopy
from medbreach.datasets.pictures import read_picture
from medbreach.errors import DataError


@pytest.fixture(scope="module")
def patches():
    """Twelve dermoscopic patches, (N, H, W, 3), 8 bit."""
    files = dermoscopy._patches(dermoscopy._package())
    return np.stack(
        [
            np.uint8(read_picture(files[k], str(k), 3).permute(1, 2, 0) * 255 + 0.5)
            for k in range(12)
        ]
    )


@pytest.fixture(scope="module")
def volumes(head):
    """Twelve blocks of the head, (N, D, H, W), 8 bit."""
    voxels = np.uint8(head.get_fdata().transpose(2, 1, 0)[4:20, 20:68, 20:100].clip(0, 1020) / 4)
    parts = voxels.reshape(4, 4, 3, 16, 5, 16).transpose(0, 2, 4, 1, 3, 5).reshape(-1, 4, 16, 16)
    return parts[[p.min() < p.max() for p in parts]][:12]


@pytest.fixture
def save(tmp_path):
    def write(images, labels=None, compressed=True, **arrays):
        file = tmp_path / "images.npz"
        labels = np.arange(12)[:, None] % 2 if labels is None else labels
        parts = {"train": slice(0, 6), "val": slice(6, 8), "test": slice(8, 12)}
        made = {f"{k}_images": images[part] for k, part in parts.items()}
        made |= {f"{k}_labels": labels[part] for k, part in parts.items()}
        made = {k: v for k, v in (made | arrays).items() if v is not None}
        (np.savez_compressed if compressed else np.savez)(file, **made)
        return file

    return write


def test_splits_and_labels(save, patches):
    collection = Npz(save(patches)).open()
    splits = [e.split for e in collection.entries]
    assert splits == ["training"] * 6 + ["validation"] * 2 + ["test"] * 4
    assert [e.label for e in collection.entries] == [0, 1] * 6
    assert collection.classes == ("class 0", "class 1")
    assert len({e.patient for e in collection.entries}) == 12


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        ("grey", (1, 32, 32)),
        ("grey with channel", (1, 32, 32)),
        ("colour", (3, 32, 32)),
        ("volume", (1, 4, 16, 16)),
        ("volume with channel", (1, 4, 16, 16)),
        ("colour volume", (3, 4, 16, 16)),
    ],
)
def test_layouts(save, patches, volumes, layout, shape):
    images = {
        "grey": patches[..., 0],
        "grey with channel": patches[..., :1],
        "colour": patches,
        "volume": volumes,
        "volume with channel": volumes[..., None],
        "colour volume": np.stack([volumes] * 3, -1),
    }[layout]
    collection = Npz(save(images)).open()
    assert collection.spec.shape == shape
    expected = torch.from_numpy(images[7].astype(np.float32)) / 255
    expected = expected[None] if expected.ndim < len(shape) else expected.movedim(-1, 0)
    assert torch.equal(collection.image(7), expected)


@pytest.mark.parametrize("compressed", [True, False])
def test_number_types(save, patches, compressed):
    eight = Npz(save(patches, compressed=compressed)).open().image(3)
    sixteen = Npz(save(patches.astype(np.uint16) * 257, compressed=compressed)).open().image(3)
    floats = Npz(save(patches / 255, compressed=compressed)).open().image(3)
    assert torch.allclose(eight, sixteen)
    assert torch.allclose(eight, floats)


def test_class_names_can_be_given(save, patches):
    collection = Npz(save(patches), classes=("benign", "malignant", "unsure")).open()
    assert collection.classes == ("benign", "malignant", "unsure")
    with pytest.raises(DataError, match="has label 1, but there are 1 classes"):
        Npz(save(patches), classes=("benign",)).open()


def test_a_split_alone(save, patches):
    arrays = {f"{k}_{what}": None for k in ("val", "test") for what in ("images", "labels")}
    collection = Npz(save(patches, **arrays)).open()
    assert {e.split for e in collection.entries} == {"training"}


def read_all(dataset):
    collection = dataset.open()
    collection.images(range(len(collection.entries)))


def refused(file, **settings):
    with pytest.raises(DataError) as error:
        read_all(Npz(file, **settings))
    return str(error.value)


def test_python_objects_are_never_loaded(save, patches):
    """The object would raise as soon as anything unpickled it."""

    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    message = refused(save(patches, val_labels=np.array([Bomb(), Bomb()], dtype=object)))
    assert message.startswith("images.npz holds Python objects in val_labels, which are never load")


def test_floats_outside_the_unit_interval(save, patches):
    assert "image 0 of train_images ranges from" in refused(save(patches * 1.0))


def test_signed_integers(save, patches):
    assert "images.npz has int64 in train_images: save uint8" in refused(save(patches.astype(int)))


def test_labels_that_are_missing(save, patches):
    assert (
        refused(save(patches, test_labels=None)) == "images.npz has test_images but no test_labels"
    )


def test_several_labels(save, patches):
    assert "has 3 labels for each image" in refused(save(patches, np.zeros((12, 3), int)))


@pytest.mark.parametrize("labels", [np.zeros(3, int), np.zeros(2), np.zeros((2, 1, 1), int)])
def test_labels_that_do_not_fit(save, patches, labels):
    assert "2 integers are needed" in refused(save(patches, val_labels=labels))


def test_negative_labels(save, patches):
    assert "has the label -1 in val_labels" in refused(save(patches, val_labels=np.array([0, -1])))


def test_a_label_that_no_class_can_have(save, patches):
    huge = refused(save(patches, val_labels=np.array([0, 199 * 10**9])))
    assert huge == "images.npz has a label 199000000000: classes are numbered from 0 on"


def test_shapes_that_are_no_images(save, patches):
    assert "train_images of 6 x 3072: it must be (N, H, W)" in refused(
        save(patches.reshape(12, -1))
    )


def test_splits_of_different_shape(save, patches):
    message = refused(save(patches, test_images=patches[8:, :16]))
    assert "different shape in test_images and in train_images" in message


def test_no_images(save, patches):
    arrays = {f"{k}_images": None for k in ("train", "val", "test")}
    assert "has none of the arrays train_images" in refused(save(patches, **arrays))


def test_a_missing_file(tmp_path):
    assert "nowhere.npz does not exist" in refused(tmp_path / "nowhere.npz")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_file(save, patches, share):
    file = save(patches)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    assert refused(file) == "images.npz is no npz file, or is damaged: replace it"


def test_damaged_pixels(save, patches):
    file = save(patches, compressed=False)
    content = bytearray(file.read_bytes())
    content[5000] ^= 255
    file.write_bytes(content)
    assert refused(file) == "images.npz is damaged in train_images: replace it by a whole file"


def test_nan(save, patches):
    images = patches / 255
    images[9, 0, 0] = np.nan
    assert "image 1 of test_images holds NaN" in refused(save(images))
