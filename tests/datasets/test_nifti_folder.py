import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from medbreach.datasets import NiftiFolder
from medbreach.datasets.nifti import read_grid, read_volume
from medbreach.errors import ConfigError, DataError
from medbreach.settings import build

ANATOMICAL = Path(nibabel.__file__).parent / "tests/data/anatomical.nii"


@pytest.fixture
def folder(tmp_path, head):
    """Two classes with two volumes each, cut from two real ones, flat beside nothing else."""
    root = tmp_path / "volumes"
    anatomical = nibabel.load(ANATOMICAL)
    for name, image in {
        "a/sub-1_t1.nii.gz": head,
        "a/sub-2_t1.nii": head.slicer[10:110, :, 2:],
        "b/sub-2_t2.nii.gz": head.slicer[:, 8:88, :20],
        "b/sub-3_t1.nii": anatomical,
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(image, root / name)
    return root


def test_volumes_have_classes_and_one_size(folder):
    collection = NiftiFolder(path=folder, space=(24, 32, 40)).open()
    assert collection.classes == ("a", "b")
    assert [e.label for e in collection.entries] == [0, 0, 1, 1]
    assert collection.spec.shape == (1, 24, 32, 40)
    assert collection.spec.spacing is None, "they differ"
    assert "percentiles" in collection.note
    images = collection.images(range(4))
    assert images.min() == 0
    assert images.max() == 1


def test_voxels_of_a_volume_are_nibabels(folder, head):
    window = (0.0, 2000.0)
    collection = NiftiFolder(
        path=folder, space=(30, 100, 130), spacing=(2.2, 2.0, 2.0), window=window
    ).open()
    assert collection.spec.spacing == pytest.approx((2.2, 2.0, 2.0), abs=1e-4)
    assert collection.spec.bounds == window
    image = collection.image(0)[0]
    expected = nibabel.as_closest_canonical(head).get_fdata(dtype=np.float32).transpose(2, 1, 0)
    assert np.array_equal(image[3:27, 2:98, 1:129].numpy(), expected)
    assert (image[:3] == 0).all()
    world = np.array(collection.entries[0].affine) @ [1, 2, 3, 1]
    assert np.allclose(world, nibabel.as_closest_canonical(head).affine @ [0, 0, 0, 1])


def test_written_back_the_image_lies_on_the_patient(folder, head, tmp_path):
    """A landmark: the brightest voxel of the middle has the same world coordinates afterwards."""
    collection = NiftiFolder(
        path=folder, form="blocks", space=(8, 16, 16), window=(0.0, 1200.0)
    ).open()
    stored = head.get_fdata()
    of_head = [k for k, e in enumerate(collection.entries) if e.patient == "a/sub-1_t1.nii.gz"]
    for k in of_head[::20]:
        entry = collection.entries[k]
        block = nibabel.Nifti1Image(
            collection.image(k)[0].permute(2, 1, 0).numpy(), np.array(entry.affine)
        )
        nibabel.save(block, tmp_path / "block.nii")
        block = nibabel.load(tmp_path / "block.nii")
        voxel = np.unravel_index(block.get_fdata().argmax(), block.shape)
        world = nibabel.affines.apply_affine(block.affine, voxel)
        there = nibabel.affines.apply_affine(np.linalg.inv(head.affine), world).round().astype(int)
        assert stored[tuple(there)] == block.get_fdata().max()


def test_slices_lie_front_up_and_right_on_the_left(folder, head):
    collection = NiftiFolder(
        path=folder, form="slices", space=(96, 128), window=(0.0, 2000.0)
    ).open()
    names = [e.place for e in collection.entries]
    k = names.index("a/sub-1_t1.nii.gz, slice 12")
    ras = nibabel.as_closest_canonical(head).get_fdata(dtype=np.float32)
    assert np.array_equal(collection.image(k)[0].numpy(), ras[::-1, ::-1, 12].T)
    affine = np.array(collection.entries[k].affine)
    expected = nibabel.as_closest_canonical(head).affine @ [127, 95, 12, 1]
    assert np.allclose(affine @ [0, 0, 0, 1], expected)


def test_files_of_one_patient_stay_together(folder):
    collection = NiftiFolder(path=folder, patients=r"(sub-\d)").open()
    assert [e.patient for e in collection.entries] == ["sub-1", "sub-2", "sub-2", "sub-3"]
    plain = NiftiFolder(path=folder, form="blocks", space=(8, 16, 16)).open()
    assert len({e.patient for e in plain.entries}) == 4


def test_places_of_one_subject_stand_for_patients(tmp_path, head):
    nibabel.save(head, tmp_path / "head.nii.gz")
    settings = {"path": tmp_path, "labels": "arbitrary", "form": "blocks", "space": (8, 16, 16)}
    with pytest.raises(DataError, match=r"case\.data\.one_subject=true"):
        NiftiFolder(**settings).open()
    collection = NiftiFolder(**settings, one_subject=True).open()
    assert len({e.patient for e in collection.entries}) == len(collection.entries) > 40
    assert "one subject" in collection.note
    with pytest.raises(ConfigError, match="one_subject needs form slices or blocks"):
        build(NiftiFolder, {"path": str(tmp_path), "one_subject": True}, "case.data")


def test_blank_blocks_are_left_out(folder):
    collection = NiftiFolder(path=folder, form="blocks", space=(8, 16, 16), tissue=0.0).open()
    images = collection.images(range(len(collection.entries)))
    assert (images.flatten(1).amax(1) > images.flatten(1).amin(1)).all()
    assert len(images) < sum((3 * 6 * 8, 2 * 6 * 6, 2 * 5 * 8, 3 * 2 * 2))


def test_mosmed_data_has_its_window_and_folder(tmp_path, head):
    for k, name in enumerate(("CT-0", "CT-1", "CT-4")):
        (tmp_path / "studies" / name).mkdir(parents=True)
        hounsfield = nibabel.Nifti1Image(head.get_fdata(dtype=np.float32) * 2 - 1000, head.affine)
        nibabel.save(hounsfield, tmp_path / "studies" / name / f"study_000{k}.nii.gz")
    (tmp_path / "README.txt").write_text("x")
    collection = NiftiFolder(path=tmp_path, preset="MosMedData").open()
    assert collection.classes == ("CT-0", "CT-1", "CT-4")
    assert collection.spec.bounds == (-1000.0, 400.0)
    assert collection.spec.unit == "HU"
    assert collection.image(0).max() == 400
    direct = NiftiFolder(
        path=tmp_path / "studies", preset="MosMedData", window=(-900.0, 0.0)
    ).open()
    assert direct.spec.bounds == (-900.0, 0.0)


def test_micrometres_become_millimetres(tmp_path, head):
    image = nibabel.Nifti1Image(head.get_fdata(dtype=np.float32), head.affine)
    image.header.set_xyzt_units("micron")
    nibabel.save(image, tmp_path / "a.nii.gz")
    collection = NiftiFolder(path=tmp_path, labels="arbitrary", space=(24, 96, 128)).open()
    assert collection.spec.spacing == pytest.approx((0.0022, 0.002, 0.002), abs=1e-5)


def test_a_fourth_axis_of_one_is_no_axis(tmp_path, head):
    nibabel.save(
        nibabel.Nifti1Image(head.get_fdata(dtype=np.float32)[..., None], head.affine),
        tmp_path / "a.nii.gz",
    )
    collection = NiftiFolder(path=tmp_path, labels="arbitrary", space=(24, 96, 128)).open()
    assert torch.isfinite(collection.image(0)).all()


def read_all(dataset):
    collection = dataset.open()
    collection.images(range(len(collection.entries)))


def refused(path, **settings):
    with pytest.raises(DataError) as error:
        read_all(NiftiFolder(path=path, labels="arbitrary", **settings))
    return str(error.value)


def test_a_4d_file(tmp_path):
    source = Path(nibabel.__file__).parent / "tests/data/example4d.nii.gz"
    (tmp_path / "a.nii.gz").write_bytes(source.read_bytes())
    assert refused(tmp_path) == "a.nii.gz is 4D (128 x 96 x 24 x 2): give one 3D volume a file"


@pytest.mark.parametrize("form", ["volumes", "blocks"])
@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_file(tmp_path, head, form, suffix, share):
    nibabel.save(head, tmp_path / "whole.nii")
    raw = (tmp_path / "whole.nii").read_bytes()
    (tmp_path / "whole.nii").unlink()
    stored = gzip.compress(raw, 1) if suffix == "nii.gz" else raw
    (tmp_path / f"a.{suffix}").write_bytes(stored[: int(len(stored) * share)])
    one_subject = form == "blocks"
    message = refused(tmp_path, form=form, space=(8, 16, 16), one_subject=one_subject)
    assert message.startswith(f"a.{suffix} is ")
    assert "replace it" in message


def test_damage_anywhere_is_told(tmp_path, head, capfd):
    """Bytes of the header and of the packed voxels, changed at random."""
    nibabel.save(head.slicer[::8, ::8, ::4], tmp_path / "whole.nii")
    raw = (tmp_path / "whole.nii").read_bytes()
    rng = np.random.default_rng(0)
    told = []
    for turn in range(300):
        packed = turn % 2 == 1
        damaged = bytearray(gzip.compress(raw, 1, mtime=0) if packed else raw)
        for place in rng.integers(0, len(damaged) if packed else 352, size=rng.integers(1, 6)):
            damaged[place] = rng.integers(256)
        file = tmp_path / ("a.nii.gz" if packed else "a.nii")
        file.write_bytes(damaged)
        try:
            grid, volume = read_grid(file, file.name), read_volume(file, file.name)
        except DataError as error:
            told.append(str(error).startswith(file.name))
        else:
            assert volume.voxels.shape == grid.shape
    assert len(told) > 100
    assert all(told)
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""


def test_a_header_that_promises_more_than_the_file_can_hold(tmp_path, head):
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.int16), head.affine)
    raw = bytearray(image.to_bytes())
    raw[40:56] = np.array([3, 30000, 30000, 30000, 1, 1, 1, 1], "<i2").tobytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(bytes(raw)))
    assert refused(tmp_path, form="blocks", space=(8, 16, 16)) == (
        "a.nii.gz is cut off: its header says 30000 x 30000 x 30000 voxels; replace it"
    )


def test_text_named_as_volume(tmp_path):
    (tmp_path / "a.nii").write_text("no volume" * 100)
    assert refused(tmp_path).startswith("a.nii is no NIfTI file")


def test_another_file_in_the_folder(tmp_path):
    (tmp_path / "a.nrrd").write_text("x")
    assert refused(tmp_path) == "a.nrrd is no NIfTI file (nii, nii.gz): remove it from the folder"


def test_nan(tmp_path, head):
    voxels = head.get_fdata(dtype=np.float32).copy()
    voxels[0, 0, 0] = np.nan
    nibabel.save(nibabel.Nifti1Image(voxels, head.affine), tmp_path / "a.nii.gz")
    assert refused(tmp_path).startswith("a.nii.gz holds NaN")


def test_a_constant_volume(tmp_path, head):
    voxels = np.full(head.shape, 4, np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, head.affine), tmp_path / "a.nii.gz")
    assert refused(tmp_path) == "a.nii.gz is 4 everywhere: remove it"


def test_a_volume_outside_the_window(folder):
    message = refused(folder, window=(5e4, 6e4), form="blocks", space=(8, 16, 16))
    assert message.startswith("a/sub-1_t1.nii.gz shows no tissue in 10% of any block")
    assert "is 50000 everywhere" in refused(folder, window=(5e4, 6e4))


def test_a_volume_smaller_than_a_block(folder):
    message = refused(folder, form="blocks", space=(23, 16, 16))
    assert message == (
        "a/sub-2_t1.nii has 22 x 96 x 100 voxels, less than one block of 23 x 16 x 16: lower "
        "case.data.space"
    )


def test_colours_are_no_intensities(tmp_path):
    colour = np.zeros((8, 8, 8), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colour, np.eye(4)), tmp_path / "a.nii.gz")
    assert "a.nii.gz holds colours" in refused(tmp_path)
