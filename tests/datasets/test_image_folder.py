import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from medbreach.datasets import ImageFolder, dermoscopy
from medbreach.errors import ConfigError, DataError
from medbreach.settings import build


@pytest.fixture
def folder(tmp_path, slices):
    """Two classes of grey PNG, JPEG, BMP and TIFF images; some below a subfolder."""
    root = tmp_path / "images"
    suffixes = ("png", "jpg", "bmp", "tiff")
    for k, pixels in enumerate(slices):
        place = root / ("tumor" if k % 2 else "healthy") / f"p{k // 4}" / f"s{k}.{suffixes[k % 4]}"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place)
    (root / "tumor" / "Thumbs.db").write_bytes(b"x")
    (root / ".hidden").write_text("x")
    return root


def index(collection, name):
    return next(k for k, e in enumerate(collection.entries) if e.place.endswith(name))


def test_classes_are_the_sorted_folders(folder, slices):
    collection = ImageFolder(folder).open()
    assert collection.classes == ("healthy", "tumor")
    assert Counter(e.label for e in collection.entries) == {0: 10, 1: 10}
    assert collection.spec.shape == (1, 96, 128)
    assert [e.place for e in collection.entries] == sorted(e.place for e in collection.entries)
    png = collection.image(index(collection, "s4.png"))
    assert torch.equal(png[0], torch.from_numpy(slices[4]).float() / 255)
    jpeg = collection.image(index(collection, "s5.jpg"))
    assert (jpeg[0] - torch.from_numpy(slices[5]) / 255).abs().mean() < 0.02
    tiff = collection.image(index(collection, "s7.tiff"))
    assert torch.equal(tiff[0], torch.from_numpy(slices[7]).float() / 255)


def test_the_pattern_names_patients(folder):
    collection = ImageFolder(folder, patients=r"/p(\d+)/").open()
    assert Counter(e.patient for e in collection.entries) == dict.fromkeys("01234", 4)
    assert collection.note == ""
    assert len({e.patient for e in ImageFolder(folder).open().entries}) == 20


@pytest.mark.parametrize("pattern", ["p\\d+", "(a)(b)", "("])
def test_a_pattern_without_one_group_is_refused(folder, pattern):
    with pytest.raises(ConfigError, match="patients"):
        build(ImageFolder, {"path": str(folder), "patients": pattern}, "case.data")


def test_a_file_outside_the_pattern_is_named(folder):
    with pytest.raises(DataError, match=r"healthy/p1/s4\.png does not match case\.data\.patients"):
        ImageFolder(folder, patients=r"/p([02-9])/").open()


def test_sixteen_bits_are_scaled_by_their_range(tmp_path, head):
    stored = np.uint16(head.get_fdata()[..., 10].T * 50)
    for kind, suffix in (("a", "png"), ("b", "tif")):
        (tmp_path / kind).mkdir()
        Image.fromarray(stored).save(tmp_path / kind / f"s.{suffix}")
    collection = ImageFolder(tmp_path).open()
    for k in (0, 1):
        assert np.array_equal(collection.image(k)[0].numpy(), stored.astype(np.float32) / 65535)


def test_grey_stored_as_rgb_is_grey(tmp_path, slices):
    for k, pixels in enumerate(slices[:4]):
        (tmp_path / str(k % 2)).mkdir(exist_ok=True)
        Image.fromarray(pixels).convert("RGB").save(tmp_path / str(k % 2) / f"{k}.jpg")
    assert ImageFolder(tmp_path).open().spec.channels == 1
    collection = ImageFolder(tmp_path, channels=3).open()
    assert collection.image(0).shape == (3, 96, 128)


def test_colour_stays_colour_unless_luminance_is_asked_for(tmp_path):
    patches = dermoscopy._patches(dermoscopy._package())
    for k in range(4):
        (tmp_path / str(k % 2)).mkdir(exist_ok=True)
        shutil.copy(patches[100 * k], tmp_path / str(k % 2) / f"{k}.bmp")
    stored = np.asarray(Image.open(patches[0]))
    colour = ImageFolder(tmp_path).open()
    assert np.allclose(colour.image(0).numpy(), stored.transpose(2, 0, 1) / 255)
    grey = ImageFolder(tmp_path, channels=1).open().image(0)
    expected = stored @ [0.299, 0.587, 0.114] / 255
    assert np.abs(grey[0].numpy() - expected).max() < 1 / 255


def test_resizing_cuts_to_the_aspect_and_antialiases(folder, slices):
    collection = ImageFolder(folder, size=(32, 32)).open()
    assert collection.spec.space == (32, 32)
    made = collection.image(index(collection, "s4.png"))[0]
    square = Image.fromarray(slices[4][:, 16:112])
    expected = np.asarray(square.resize((32, 32), Image.Resampling.BILINEAR)) / 255
    assert np.abs(made.numpy() - expected).max() <= 1 / 255


def test_a_jpeg_is_turned_upright(tmp_path, slices):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(slices[8]).transpose(Image.Transpose.ROTATE_90).save(
        tmp_path / "a" / "1.jpg", exif=exif, quality=95
    )
    Image.fromarray(slices[8]).save(tmp_path / "b" / "1.jpg", quality=95)
    collection = ImageFolder(tmp_path).open()
    assert collection.spec.space == (96, 128)
    assert (collection.image(0) - collection.image(1)).abs().mean() < 0.01


def test_brain_tumor_mri_has_its_splits(tmp_path, slices):
    for k, pixels in enumerate(slices[:12]):
        split = ("Training", "Training", "Testing")[k % 3]
        place = tmp_path / split / ("glioma_tumor", "no_tumor")[k % 2] / f"gg ({k}).jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).convert("RGB").save(place)
    collection = ImageFolder(tmp_path, preset="BrainTumorMRI").open()
    assert Counter(e.split for e in collection.entries) == {"training": 8, "test": 4}
    assert collection.classes == ("glioma_tumor", "no_tumor")
    part = ImageFolder(tmp_path / "Training", preset="BrainTumorMRI").open()
    assert {e.split for e in part.entries} == {""}
    with pytest.raises(DataError, match=r"case\.data\.preset=BrainTumorMRI"):
        ImageFolder(tmp_path).open()


def test_labels_can_be_left_out(folder):
    collection = ImageFolder(folder, labels="arbitrary").open()
    assert collection.classes is None
    assert {e.label for e in collection.entries} == {None}
    assert len(collection.entries) == 20


def read_all(dataset):
    collection = dataset.open()
    collection.images(range(len(collection.entries)))


def refused(path, **settings):
    with pytest.raises(DataError) as error:
        ImageFolder(path, **settings).open()
    message = str(error.value)
    assert "\n" not in message
    return message


def test_a_missing_folder(tmp_path):
    assert "nowhere does not exist: set case.data.path" in refused(tmp_path / "nowhere")


def test_a_file_for_a_folder(folder):
    assert "is a file, not a folder" in refused(folder / "healthy" / "p0" / "s0.png")


def test_an_empty_folder(tmp_path):
    (tmp_path / ".hidden").write_text("x")
    assert "is empty" in refused(tmp_path)


def test_an_empty_class(folder):
    (folder / "none").mkdir()
    assert "none is empty" in refused(folder)


def test_a_flat_folder_needs_classes(tmp_path, slices):
    Image.fromarray(slices[0]).save(tmp_path / "a.png")
    message = refused(tmp_path)
    assert "make one for each class, or set case.data.labels=arbitrary" in message
    assert ImageFolder(tmp_path, labels="arbitrary").open().classes is None


def test_one_class_is_none(folder):
    shutil.rmtree(folder / "healthy")
    assert "the one class folder tumor" in refused(folder)


def test_a_text_file_among_images(folder):
    (folder / "tumor" / "readme.txt").write_text("x")
    assert refused(folder).startswith("tumor/readme.txt is no image (png, jpg")


def test_an_image_beside_the_classes(folder, slices):
    Image.fromarray(slices[0]).save(folder / "a.png")
    assert refused(folder).startswith("a.png lies beside the class folders")


def test_text_named_as_image(folder):
    (folder / "tumor" / "z.png").write_text("x")
    assert refused(folder).startswith("tumor/z.png is no image")


def test_other_sizes_need_a_size(folder, slices):
    Image.fromarray(slices[0][:90]).save(folder / "tumor" / "z.png")
    message = refused(folder)
    assert "tumor/z.png has 90 x 128 pixels" in message
    assert "case.data.size" in message


def test_float_pixels(folder, slices):
    Image.fromarray(slices[0].astype(np.float32)).save(folder / "tumor" / "z.tif")
    assert "tumor/z.tif has pixels of mode F: save it with 8 or 16 bits" in refused(folder)


def test_a_stack_of_pages(folder, slices):
    pages = [Image.fromarray(s) for s in slices[:3]]
    pages[0].save(folder / "tumor" / "z.tif", save_all=True, append_images=pages[1:])
    assert "tumor/z.tif is a stack of 3 pages" in refused(folder)


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tiff"])
def test_a_truncated_image_is_found_whatever_pillow_is_set_to(
    folder, slices, suffix, lenient, monkeypatch
):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    place = folder / "tumor" / f"z.{suffix}"
    Image.fromarray(slices[9]).save(place)
    whole = place.read_bytes()
    if suffix == "tiff":  # its directory lies at the end
        place.write_bytes(whole[:200] + whole[-200:])
    else:
        place.write_bytes(whole[: len(whole) * 2 // 3])

    with pytest.raises(DataError, match=f"tumor/z.{suffix} (cannot be read|is no image)"):
        read_all(ImageFolder(folder, channels=1))
    assert ImageFile.LOAD_TRUNCATED_IMAGES is lenient


def test_a_blank_image_is_named(folder):
    Image.fromarray(np.full((96, 128), 7, np.uint8)).save(folder / "tumor" / "z.png")
    collection = ImageFolder(folder).open()
    with pytest.raises(DataError, match=r"tumor/z\.png is .* everywhere"):
        collection.image(index(collection, "z.png"))
