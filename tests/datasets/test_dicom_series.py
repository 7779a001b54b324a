import re
import shutil
import warnings
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.pixels.encoders import RLELosslessEncoder

from medbreach.datasets import DicomSeries
from medbreach.datasets.dicom import read_pixels, read_series
from medbreach.errors import DataError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # nibabel's, that its DICOM readers are young
    import nibabel.nicom.dicomwrappers as wrappers

TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def test_voxels_lie_where_pydicom_and_nibabel_say(write_series, tmp_path):
    folder = write_series(tmp_path / "s", rows=100, PixelSpacing=[0.5, 0.8])
    series = read_series(folder, "s")
    volume = series.read()
    ras = np.array(volume.grid.affine)
    assert volume.voxels.shape == (6, 100, 128)
    assert volume.grid.spacing == pytest.approx((2.5, 0.5, 0.8))
    assert series.grid == volume.grid
    rng = np.random.default_rng(0)
    for path in folder.iterdir():
        file = pydicom.dcmread(path)
        hounsfield = file.pixel_array * float(file.RescaleSlope) + float(file.RescaleIntercept)
        theirs = TO_RAS @ wrappers.wrapper_from_data(file).affine
        for _ in range(5):
            row, column = rng.integers(100, size=2)
            world = theirs @ [row, column, 0, 1]
            x, y, z = nibabel.affines.apply_affine(np.linalg.inv(ras), world[:3]).round(3)
            assert (x, y, z) == (round(x), round(y), round(z))
            assert volume.voxels[int(z), int(y), int(x)] == hounsfield[row, column]


def test_the_order_of_files_does_not_matter(write_series, tmp_path):
    shuffled = read_series(write_series(tmp_path / "a"), "s").read()
    sorted_ = read_series(write_series(tmp_path / "b", shuffled=False), "s").read()
    assert np.array_equal(shuffled.voxels, sorted_.voxels)
    assert shuffled.grid == sorted_.grid


@pytest.mark.parametrize(
    ("axes", "step"),
    [
        ([1, 0, 0, 0, 1, 0], (0.0, 0.0, -2.5)),
        ([0, 1, 0, 0, 0, -1], (3.0, 0.0, 0.0)),
        ([1, 0, 0, 0, 0, -1], (0.0, -2.0, 0.0)),
        ([1, 0, 0, 0, 0.9272, -0.3746], (0.0, 0.0, 2.0)),
    ],
)
def test_any_orientation_becomes_ras(write_series, tmp_path, axes, step):
    folder = write_series(
        tmp_path / "s", step=step, rows=110, PixelSpacing=[0.5, 0.8], ImageOrientationPatient=axes
    )
    volume = read_series(folder, "s").read()
    affine = np.array(volume.grid.affine)
    assert nibabel.aff2axcodes(affine) == ("R", "A", "S")
    file = pydicom.dcmread(folder / "0")
    world = TO_RAS @ wrappers.wrapper_from_data(file).affine @ [90, 17, 0, 1]
    x, y, z = nibabel.affines.apply_affine(np.linalg.inv(affine), world[:3]).round().astype(int)
    assert volume.voxels[z, y, x] == file.pixel_array[90, 17] - 1024


def test_ct_is_in_hounsfield_units(write_series, tmp_path):
    folder = write_series(tmp_path / "s", RescaleSlope="2", RescaleIntercept="-1500")
    collection = DicomSeries(path=folder, space=(2, 32, 32)).open()
    assert collection.spec.unit == "HU"
    assert collection.spec.bounds == (-1000.0, 1000.0)
    assert collection.spec.spacing == pytest.approx((2.5, 0.661468, 0.661468))
    stored = pydicom.dcmread(folder / "0").pixel_array * 2.0 - 1500
    assert np.isin(read_pixels(folder / "0", "0"), stored).all()
    images = collection.images(range(len(collection.entries)))
    assert np.isin(images.numpy(), stored.clip(-1000, 1000)).all()


def test_one_series_is_one_subject(write_series, tmp_path):
    collection = DicomSeries(path=write_series(tmp_path / "s"), space=(2, 32, 32)).open()
    assert "one subject" in collection.note
    assert len({e.patient for e in collection.entries}) == len(collection.entries)
    assert collection.classes is None


def test_each_folder_is_one_patient(write_series, tmp_path):
    for number, name in enumerate(("first/a", "first/b", "second/a")):
        write_series(tmp_path / "all" / name, PatientID=str(number))
    collection = DicomSeries(path=tmp_path / "all", space=(6, 64, 64)).open()
    assert set(Counter(e.patient for e in collection.entries)) == {"first", "second"}
    assert collection.entries[0].place.startswith("first/a, block at z 0")
    assert collection.note == ""
    whole = DicomSeries(path=tmp_path / "all", form="volumes", space=(8, 64, 64)).open()
    assert [e.patient for e in whole.entries] == ["first", "first", "second"]
    assert whole.image(2).shape == (1, 8, 64, 64)


def patients(folder, **settings):
    collection = DicomSeries(path=folder, form="volumes", space=(6, 64, 64), **settings).open()
    return [e.patient for e in collection.entries], collection.note


def test_folders_with_the_same_patient_number_are_one_patients(write_series, tmp_path):
    """Two series of one person must not become record and decoy."""
    folder = tmp_path / "all"
    for name, number in {"a/x": "P1", "a/y": "", "b": "P2", "c": " P1", "d": "", "e": ""}.items():
        write_series(folder / name, PatientID=number)
    same = ["a", "a", "b", "a", "d", "e"]
    assert patients(folder) == (same, "folders with the same patient number count as one patient")
    own = ["a", "a", "b", "c", "d", "e"]
    assert patients(folder, patients="folders") == (own, "")


def test_a_number_that_all_folders_carry(write_series, tmp_path):
    for name in "abc":
        write_series(tmp_path / "all" / name, PatientID="ANON-4711")
    message = refused(tmp_path / "all")
    assert message.startswith("all 3 folders of ")
    assert message.endswith(
        "carry the same patient number: set case.data.patients=folders if they are different "
        "people, or case.data.one_subject=true if they are one"
    )
    assert "4711" not in message
    one = DicomSeries(path=tmp_path / "all", space=(2, 32, 32), one_subject=True).open()
    assert "one subject" in one.note


def test_slices_lie_front_up(write_series, tmp_path):
    folder = write_series(tmp_path / "s", shuffled=False)
    collection = DicomSeries(path=folder, form="slices", space=(128, 128)).open()
    stored = pydicom.dcmread(folder / "3").pixel_array - 1024.0
    assert np.array_equal(collection.image(3)[0].numpy(), stored.clip(-1000, 1000))


@pytest.mark.parametrize(
    "name", ["MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_RLE.dcm"]
)
def test_compressed_pixels_are_the_plain_ones(name):
    plain = pydicom.dcmread(get_testdata_file("MR_small.dcm")).pixel_array
    assert np.array_equal(read_pixels(Path(get_testdata_file(name)), name), plain)


def test_a_compressed_series(write_series, tmp_path):
    folder = write_series(tmp_path / "s")
    plain = read_series(folder, "s").read().voxels
    for path in folder.iterdir():
        file = pydicom.dcmread(path)
        file.compress(RLELosslessEncoder.UID, generate_instance_uid=False)
        file.save_as(path)
    assert np.array_equal(read_series(folder, "s").read().voxels, plain)


def test_inverted_grey_is_turned_around(write_series, tmp_path):
    plain = write_series(tmp_path / "p", shuffled=False, Modality="MR")
    folder = write_series(
        tmp_path / "s", shuffled=False, Modality="MR", PhotometricInterpretation="MONOCHROME1"
    )
    inverted = read_pixels(folder / "2", "2")
    assert np.array_equal(inverted, -1 - (read_pixels(plain / "2", "2") + 1024) - 1024)
    collection = DicomSeries(path=folder, form="slices", space=(64, 64), tissue=0.0).open()
    usual = DicomSeries(path=plain, form="slices", space=(64, 64), tissue=0.0).open()
    total = collection.image(2) + usual.image(2)
    assert abs(total.median() - 1) < 1e-3
    assert collection.spec.unit == "arbitrary"
    ct = write_series(tmp_path / "c", shuffled=False, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(read_pixels(ct / "2", "2"), read_pixels(plain / "2", "2"))


def read_all(dataset):
    collection = dataset.open()
    collection.images(range(len(collection.entries)))


def refused(path, **settings):
    with pytest.raises(DataError) as error:
        read_all(DicomSeries(**{"path": path, "space": (2, 32, 32)} | settings))
    message = str(error.value)
    assert "CompressedSamples" not in message
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__ or error.value.__context__ is None
    return message


def test_two_series_in_one_folder(write_series, tmp_path):
    folder = write_series(tmp_path / "s")
    for path in write_series(tmp_path / "t", step=(0.0, 0.0, 7.0)).iterdir():
        shutil.copy(path, folder / f"t{path.name}")
    assert refused(folder) == "s holds 2 series: put each into a folder of its own"


def test_a_missing_slice(write_series, tmp_path):
    folder = write_series(tmp_path / "s", shuffled=False)
    (folder / "3").unlink()
    assert refused(folder) == (
        "s/2 and s/4 are 5 mm apart, others 2.5 mm: a slice is missing or there twice"
    )


def test_a_slice_twice(write_series, tmp_path):
    folder = write_series(tmp_path / "s", shuffled=False)
    shutil.copy(folder / "3", folder / "3b")
    assert re.match("s/3b? and s/3b? are 0 mm apart", refused(folder))


def test_one_slice_is_no_volume(write_series, tmp_path):
    assert refused(write_series(tmp_path / "s", count=1)).startswith("s holds 1 DICOM slices")


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.95])
def test_a_truncated_file(write_series, tmp_path, share):
    folder = write_series(tmp_path / "s")
    whole = (folder / "2").read_bytes()
    (folder / "2").write_bytes(whole[: int(len(whole) * share)])
    assert refused(folder).startswith("s/2 ")


def test_truncated_compressed_pixels(write_series, tmp_path):
    folder = write_series(tmp_path / "s")
    file = pydicom.dcmread(folder / "2")
    file.compress(RLELosslessEncoder.UID, generate_instance_uid=False)
    file.PixelData = file.PixelData[: len(file.PixelData) // 2]
    file["PixelData"].is_undefined_length = True
    file.save_as(folder / "2")
    assert refused(folder).startswith("s/2 is cut off, damaged")


def test_another_file_in_the_folder(write_series, tmp_path):
    folder = write_series(tmp_path / "s")
    (folder / "report.txt").write_text("x" * 500)
    assert refused(folder).startswith("s/report.txt is no DICOM file")


def test_files_beside_folders(write_series, tmp_path):
    folder = write_series(tmp_path / "s")
    write_series(folder / "t")
    assert "holds both files and folders" in refused(folder)


@pytest.mark.parametrize("attribute", ["ImagePositionPatient", "PixelSpacing"])
def test_a_file_without_position(write_series, tmp_path, attribute):
    folder = write_series(tmp_path / "s")
    file = pydicom.dcmread(folder / "1")
    delattr(file, attribute)
    file.save_as(folder / "1")
    assert refused(folder) == f"s/1 lacks {attribute}: it is no slice of a volume"


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("PixelSpacing", [1.0, 1.0]),
        ("Rows", 100),
        ("ImageOrientationPatient", [1.0, 0.0, 0.0, 0.0, 0.9, 0.43]),
    ],
)
def test_other_geometry(write_series, tmp_path, attribute, value):
    folder = write_series(tmp_path / "s", shuffled=False)
    file = pydicom.dcmread(folder / "4")
    setattr(file, attribute, value)
    file.save_as(folder / "4")
    assert refused(folder).startswith("s/4 has another size, orientation or pixel spacing than s/0")


def test_several_frames(tmp_path):
    (tmp_path / "s").mkdir()
    for k in range(2):
        shutil.copy(get_testdata_file("SC_rgb_rle_2frame.dcm"), tmp_path / "s" / f"{k}")
    assert refused(tmp_path / "s") == "s/0 has several frames: give one grey slice a file"


def test_mixed_modalities(write_series, tmp_path):
    write_series(tmp_path / "all" / "a")
    write_series(tmp_path / "all" / "b", Modality="MR")
    assert "mixes 2 modalities" in refused(tmp_path / "all")


def test_a_series_smaller_than_a_block(write_series, tmp_path):
    message = refused(write_series(tmp_path / "s"), space=(16, 32, 32))
    assert "s has 6 x 128 x 128 voxels, less than one block of 16 x 32 x 32" in message


@pytest.mark.parametrize("attribute", ["ImagePositionPatient", "PixelSpacing", "Rows"])
def test_no_header_value_reaches_a_message(write_series, tmp_path, attribute, capfd, caplog):
    """Where a number should be, a name is: neither error nor warning nor log may quote it."""
    folder = write_series(tmp_path / "s", PatientName="Doe^Jane")
    raw = (folder / "1").read_bytes()
    tag = pydicom.tag.Tag(attribute)
    kind = b"US" if attribute == "Rows" else b"DS"
    start = raw.index(tag.group.to_bytes(2, "little") + tag.elem.to_bytes(2, "little") + kind) + 8
    length = int.from_bytes(raw[start - 2 : start], "little")
    name = b"Doe^Jane" + b" " * (length - 8) if length >= 8 else b"Doe^Jane"
    if length < 8:
        raw = raw[: start - 2] + (8).to_bytes(2, "little") + name + raw[start + length :]
    else:
        raw = raw[:start] + name + raw[start + length :]
    (folder / "1").write_bytes(raw)
    message = refused(folder)
    assert message.startswith("s/1 ")
    printed = capfd.readouterr()
    assert "Doe" not in message + printed.out + printed.err + caplog.text


def test_places_notes_and_logs_hold_no_header_text(write_series, tmp_path, capfd, caplog):
    folder = write_series(tmp_path / "s", PatientName="Doe^Jane", StudyDescription="Doe^Jane")
    for path in folder.iterdir():
        raw = path.read_bytes()
        start = raw.index(b"\x20\x00\x0e\x00UI") + 8
        length = int.from_bytes(raw[start - 2 : start], "little")
        path.write_bytes(raw[:start] + b"Doe^Jane".ljust(length, b"\0") + raw[start + length :])
    with pytest.warns(UserWarning, match="Doe"):
        assert "Doe" in pydicom.dcmread(path).SeriesInstanceUID
    assert "Doe" in caplog.text, "the library itself quotes what it reads"
    caplog.clear()
    collection = DicomSeries(path=folder, space=(2, 32, 32)).open()
    collection.image(0)
    assert all("Doe" not in e.place + e.patient for e in collection.entries)
    printed = capfd.readouterr()
    assert "Doe" not in collection.note + printed.out + printed.err + caplog.text
