"""Wrong input: one sentence on what is wrong and what would be right, and nothing written."""

import gzip
import io
import json
import os
import pickle
import re
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from running import run_program
from scans import write_series

from medbreach.assembly import assemble, refuse_inert
from medbreach.config import load
from medbreach.models.mlp import MLP
from medbreach.record import RunRecord
from medbreach.types import ImageSpec

QUICK = (
    "case/server=malicious-model-rtf", "attack=imprint", "audit.null_draws=2",
    "audit.metrics=[mse]", "audit.public=60", "audit.decoys=40", "--device", "cpu",
)  # fmt: skip


def refusal(folder, *arguments):
    """Run an audit that must be refused; return the sentence, without the program's name."""
    out = folder / "runs" / "refused"
    ran = run_program("audit", "--out", out, *arguments)
    assert ran.code == 2, ran
    assert ran.out == ""
    assert not out.parent.exists(), "something was written"
    return sentence_of(ran)


def sentence_of(ran):
    """Return the one sentence that a refused command wrote."""
    assert ran.err.count("\n") == 1
    assert ran.err.endswith("\n")
    name, _, sentence = ran.err.strip().partition(": ")
    assert name == "medbreach"
    assert not re.search(r"[.!?] [A-Z]", sentence), "one sentence"
    assert "Traceback" not in sentence
    return sentence


# Folders of images.


@pytest.fixture
def pictures(tmp_path, patches):
    """A folder with two classes of twelve lesions each, 32 x 32."""
    folder = tmp_path / "scans"
    first = {}
    for index, entry in enumerate(patches.entries):
        first.setdefault(entry.patient, index)
    for number, index in enumerate(list(first.values())[:24]):
        place = folder / ("benign" if number % 2 else "malignant")
        place.mkdir(parents=True, exist_ok=True)
        pixels = (patches.image(index).permute(1, 2, 0) * 255).round().byte().numpy()
        Image.fromarray(pixels).save(place / f"{number:02d}.png")
    return folder


def of_folder(folder, *arguments):
    return ("case=my_folder", f"case.data.path={folder}", "case.data.default_clients=2",
            *QUICK, *arguments)  # fmt: skip


def test_the_folder_is_fine_before_it_is_spoilt(tmp_path, pictures):
    ran = run_program("audit", "--out", tmp_path / "run", *of_folder(pictures))
    assert ran.code in (0, 1)
    assert (tmp_path / "run" / "report.html").is_file()


def test_a_missing_folder(tmp_path):
    assert refusal(tmp_path, *of_folder(tmp_path / "nowhere")) == (
        f"{tmp_path}/nowhere does not exist: set case.data.path to the folder of the images"
    )


def test_a_file_for_a_folder(tmp_path):
    (tmp_path / "file").touch()
    assert refusal(tmp_path, *of_folder(tmp_path / "file")) == (
        f"{tmp_path}/file is a file, not a folder: set case.data.path to the folder of the images"
    )


def test_an_empty_folder(tmp_path):
    (tmp_path / "scans").mkdir()
    assert refusal(tmp_path, *of_folder(tmp_path / "scans")) == (
        f"{tmp_path}/scans is empty: put images there, or remove it"
    )


def test_an_empty_class_folder(tmp_path, pictures):
    (pictures / "unsure").mkdir()
    assert refusal(tmp_path, *of_folder(pictures)) == (
        f"{pictures}/unsure is empty: put images there, or remove it"
    )


def test_a_text_file_among_images(tmp_path, pictures):
    (pictures / "benign" / "notes.txt").write_text("seen in March")
    assert refusal(tmp_path, *of_folder(pictures)) == (
        "benign/notes.txt is no image (png, jpg, jpeg, bmp, tif, tiff): remove it from the folder"
    )


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_truncated_picture(tmp_path, pictures, suffix):
    whole = pictures / "benign" / "01.png"
    with Image.open(whole) as image:
        content = io.BytesIO()
        image.resize((64, 64)).save(content, format="PNG" if suffix == "png" else "JPEG")
    whole.unlink()
    whole.with_suffix(f".{suffix}").write_bytes(content.getvalue()[: len(content.getvalue()) // 2])
    found = refusal(tmp_path, *of_folder(pictures, "case.data.size=[32,32]"))
    assert re.fullmatch(
        rf"benign/01.{suffix} cannot be read \(.*\): replace it by a whole file", found
    )


def test_a_text_that_is_called_an_image(tmp_path, pictures):
    (pictures / "benign" / "99.png").write_text("no image")
    assert refusal(tmp_path, *of_folder(pictures)) == (
        "benign/99.png is no image, whatever its name says: remove it"
    )


def test_a_constant_picture(tmp_path, pictures):
    Image.new("L", (32, 32), 77).save(pictures / "benign" / "01.png")
    assert refusal(tmp_path, *of_folder(pictures)) == (
        "benign/01.png is 0.301961 everywhere: remove it"
    )


def test_pictures_of_different_sizes(tmp_path, pictures):
    Image.new("RGB", (30, 20)).save(pictures / "benign" / "99.png")
    assert refusal(tmp_path, *of_folder(pictures)) == (
        "benign/99.png has 20 x 30 pixels, benign/01.png 32 x 32: set case.data.size to the size "
        "that all shall get"
    )


def test_labels_missing(tmp_path, pictures):
    shutil.copytree(pictures / "benign", tmp_path / "flat")
    assert refusal(tmp_path, *of_folder(tmp_path / "flat")) == (
        f"{tmp_path}/flat has no class subfolders: make one for each class, or set "
        "case.data.labels=arbitrary"
    )


def test_images_smaller_than_the_models_stride(tmp_path, pictures):
    tiny = ("case.data.size=[3,3]",)
    assert refusal(tmp_path, *of_folder(pictures, *tiny)) == (
        "small_cnn needs at least 4 pixels along each axis, not (3, 3)"
    )
    found = refusal(tmp_path, *of_folder(pictures, *tiny, "case.model=ConvNet"))
    assert re.match("ConvNet (cannot take|takes) images of .*3 x 3", found)


def test_fewer_records_than_clients_need(tmp_path, pictures):
    assert refusal(tmp_path, *of_folder(pictures, "case.user.num_data_points=50")).startswith(
        "client 0 has 5 patients but case.user.num_data_points is 50: lower it, or lower "
        "case.data.default_clients"
    )
    assert refusal(tmp_path, *of_folder(pictures, "case.data.default_clients=50")) == (
        "12 patients in 2 classes (without the public's) are too few for a balanced split over 50 "
        "clients: lower "
        "case.data.default_clients or use case.data.partition=random"
    )
    aggregate = ("case/user=multiuser_aggregate", "case.user.user_range=[0,9]")
    assert refusal(tmp_path, *of_folder(pictures, *aggregate)) == (
        "case.user.user_range ends at 9, but case.data.default_clients gives 2 clients"
    )


def test_too_few_patients(tmp_path, pictures):
    assert refusal(tmp_path, *of_folder(pictures, "case.data.patients=(\\d)\\d.png")) == (
        "the data set has 3 patients; an audit needs at least 4, for records, decoys and "
        "public images of different people"
    )


# Volumes.


@pytest.fixture(scope="module")
def head():
    """The head MR that nibabel brings along, one time point."""
    file = Path(nibabel.__file__).parent / "tests" / "data" / "example4d.nii.gz"
    image = nibabel.load(file)
    return image.get_fdata(dtype=np.float32)[..., 0], image.affine


@pytest.fixture
def volumes(tmp_path, head):
    """A folder with six cuts of the head MR, called sub-0 to sub-5."""
    voxels, affine = head
    folder = tmp_path / "volumes"
    folder.mkdir()
    for number in range(6):
        part = voxels[30:54, 10 + 10 * number : 40 + 10 * number, 2:20]
        nibabel.save(nibabel.Nifti1Image(part, affine), folder / f"sub-{number}.nii.gz")
    return folder


def of_volumes(folder, *arguments):
    return (
        "case=brain_mr_3d", "case/data=nifti_folder", f"case.data.path={folder}",
        "case.data.labels=arbitrary", "case.data.partition=random", "case.data.space=[8,12,12]",
        "case.data.default_clients=1", "case.user.num_data_points=1", "audit.alpha=0.9", *QUICK,
        *arguments,
    )  # fmt: skip


def spoil(volumes, change):
    """Replace a volume by a changed one."""
    image = nibabel.load(volumes / "sub-3.nii.gz")
    voxels = change(image.get_fdata(dtype=np.float32))
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine), volumes / "sub-3.nii.gz")


def test_the_volumes_are_fine_before_they_are_spoilt(tmp_path, volumes):
    ran = run_program("audit", "--out", tmp_path / "run", *of_volumes(volumes))
    assert ran.code in (0, 1), ran.err


def test_truncated_nifti(tmp_path, volumes):
    file = volumes / "sub-3.nii.gz"
    file.write_bytes(file.read_bytes()[:-4000])
    assert refusal(tmp_path, *of_volumes(volumes)).startswith("sub-3.nii.gz is cut off or damaged")
    file.write_bytes(gzip.compress(gzip.compress(b"no NIfTI at all")))
    assert refusal(tmp_path, *of_volumes(volumes)).startswith("sub-3.nii.gz is no NIfTI file")


def test_4d_nifti(tmp_path, volumes):
    spoil(volumes, lambda voxels: np.stack([voxels, voxels], -1))
    assert refusal(tmp_path, *of_volumes(volumes)) == (
        "sub-3.nii.gz is 4D (24 x 30 x 18 x 2): give one 3D volume a file"
    )


def test_nan_and_constant_volumes(tmp_path, volumes):
    spoil(volumes, lambda voxels: np.where(voxels > 500, np.nan, voxels))
    found = refusal(tmp_path, *of_volumes(volumes))
    assert "sub-3.nii.gz" in found
    assert "NaN" in found
    spoil(volumes, lambda voxels: np.full_like(voxels, 5))
    found = refusal(tmp_path, *of_volumes(volumes))
    assert "sub-3.nii.gz" in found
    assert "everywhere" in found


@pytest.fixture
def series(tmp_path):
    """A folder with a series of twelve slices, made of shifted copies of pydicom's CT."""
    return write_series(tmp_path / "dicom")


def of_series(folder, *arguments):
    return (
        "case=brain_mr_3d", "case/data=dicom_series", f"case.data.path={folder}",
        "case.data.space=[4,16,16]", *QUICK, *arguments,
    )  # fmt: skip


def test_truncated_dicom(tmp_path, series):
    file = series / "03.dcm"
    file.write_bytes(file.read_bytes()[:-20_000])
    assert refusal(tmp_path, *of_series(series)) == (
        "dicom/03.dcm is cut off, damaged, or compressed in an unknown way: replace it"
    )
    file.write_bytes(b"\0" * 1000)
    assert refusal(tmp_path, *of_series(series)) == (
        "dicom/03.dcm is no DICOM file, or its header is damaged: remove or replace it"
    )


def test_two_series_in_one_folder(tmp_path, series):
    write_series(series, names="second-{}.dcm")
    assert refusal(tmp_path, *of_series(series)) == (
        "dicom holds 2 series: put each into a folder of its own"
    )


# Arrays.


@pytest.fixture
def arrays(patches):
    """Arrays in MedMNIST's layout: thirty lesions."""
    pixels = (patches.images(range(0, 300, 10)).permute(0, 2, 3, 1) * 255).byte().numpy()
    labels = np.arange(30)[:, None] % 2
    return {"train_images": pixels[:20], "train_labels": labels[:20],
            "test_images": pixels[20:], "test_labels": labels[20:]}  # fmt: skip


def of_arrays(file, *arguments):
    return ("case=my_folder", "case/data=npz", f"case.data.path={file}",
            "case.data.default_clients=1", *QUICK, *arguments)  # fmt: skip


def save(folder, **arrays):
    file = folder / "lesions.npz"
    np.savez(file, **arrays)
    return file


def test_the_arrays_are_fine_before_they_are_spoilt(tmp_path, arrays):
    rows = "case.server.model_modification.num_bins=256"
    overrides = (*of_arrays(save(tmp_path, **arrays)), rows)
    ran = run_program("audit", "--out", tmp_path / "run", *overrides)
    assert ran.code in (0, 1), ran.err


def test_pickled_objects_in_npz(tmp_path, arrays):
    trap = np.array([Trap(tmp_path / "sprung")] * 10, dtype=object)
    file = save(tmp_path, **arrays | {"test_images": trap})
    found = refusal(tmp_path, *of_arrays(file))
    assert "lesions.npz" in found
    assert "test_images" in found
    assert "objects" in found
    assert not (tmp_path / "sprung").exists()


def test_npz_without_labels(tmp_path, arrays):
    del arrays["test_labels"]
    found = refusal(tmp_path, *of_arrays(save(tmp_path, **arrays)))
    assert "lesions.npz" in found
    assert "test_labels" in found


def test_truncated_npz(tmp_path, arrays):
    file = save(tmp_path, **arrays)
    file.write_bytes(file.read_bytes()[:-500])
    assert "lesions.npz" in refusal(tmp_path, *of_arrays(file))


def test_nan_in_npz(tmp_path, arrays):
    images = arrays["test_images"] / np.float32(255)
    images[3, 4, 5] = np.nan
    arrays["train_images"] = arrays["train_images"] / np.float32(255)
    found = refusal(tmp_path, *of_arrays(save(tmp_path, **arrays | {"test_images": images})))
    assert "lesions.npz" in found
    assert "NaN" in found


# Devices, networks and weights.


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_where_there_is_none(tmp_path):
    assert refusal(tmp_path, *QUICK, "--device", "cuda") == (
        "device cuda was asked for, but this machine has 0 CUDA devices: use --device cpu"
    )


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cpu:1", "", "cuda:-1"])
def test_devices_that_do_not_exist(tmp_path, device):
    assert refusal(tmp_path, *QUICK, "--device", device) == (
        f"device must be auto, cpu or cuda:N, not {device!r}"
    )


NETWORK = """
import sys
from torch import nn

def build(channels, classes, width=8):
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(classes)
    )

def raises(classes):
    raise KeyError("weights")

def leaves(classes):
    sys.exit(0)

def nothing():
    return None

def narrow(channels):
    return build(channels, 2)

def needy(channels, depth):
    return build(channels, 2)

def volumes(classes):
    return nn.Sequential(nn.Conv3d(1, 4, 3), nn.Flatten(), nn.LazyLinear(classes))

number = 3
"""


@pytest.mark.parametrize(
    ("factory", "sentence"),
    [
        ("other", r"net.py has no function other"),
        ("number", r"net.py has no function number"),
        ("raises", r"net.py:raises failed: KeyError: 'weights'"),
        ("leaves", r"net.py:leaves failed: SystemExit: 0"),
        ("nothing", r"net.py:nothing must return a network, not NoneType"),
        ("needy", r"net.py:needy needs depth, but only spec, classes, channels, space can be "
         r"given: give the others defaults"),
        ("narrow", r"the user's network returns outputs of shape \(2, 2\) for 2 images, not "
         r"\(2, 3\): one output a class"),
        ("volumes", r"the user's network cannot take images of 3 x 32 x 32 \(channels first\): "
         r".*"),
        ("not a name", r"--model takes path/to/file.py:function, not '\S+net.py:not a name'"),
    ],
)  # fmt: skip
def test_networks_of_the_user(tmp_path, factory, sentence):
    file = tmp_path / "net.py"
    file.write_text(NETWORK)
    assert re.fullmatch(sentence, refusal(tmp_path, *QUICK, "--model", f"{file}:{factory}"))


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("import nowhere", "net.py cannot be imported: ModuleNotFoundError: No module named "
         "'nowhere'"),
        ("def build(:", "net.py cannot be imported: SyntaxError: .*"),
        ("import sys; sys.exit(0)", "net.py cannot be imported: SystemExit: 0"),
        ("loss = lambda outputs, labels: outputs", "the loss of the user's network cannot be "
         "computed for 3 classes: .*"),
        ("def loss(outputs, labels): return outputs.detach().sum()", "the loss of the user's "
         "network cannot be computed for 3 classes: RuntimeError: element 0 of tensors .*"),
        ("def loss(outputs, labels): return (outputs * float('nan')).sum()", "the loss of the "
         "user's network is nan before any training"),
    ],
)  # fmt: skip
def test_files_of_the_user(tmp_path, code, sentence):
    file = tmp_path / "net.py"
    file.write_text(f"{NETWORK}\n{code}\n")
    assert re.fullmatch(sentence, refusal(tmp_path, *QUICK, "--model", f"{file}:build"))


def test_a_network_file_that_is_missing(tmp_path):
    assert refusal(tmp_path, *QUICK, "--model", "nowhere.py:build") == (
        "--model: there is no file nowhere.py"
    )
    assert refusal(tmp_path, *QUICK, "--model", "net.build") == (
        "--model takes path/to/file.py:function, not 'net.build'"
    )


def test_a_network_beside_the_users(tmp_path):
    file = tmp_path / "net.py"
    file.write_text(NETWORK)
    found = refusal(tmp_path, *QUICK, "--model", f"{file}:build", "case.model=mlp")
    assert found == "case.model has no effect beside --model: leave one of them out"


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("save_with", [torch.save, lambda trap, file: pickle.dump(trap, file)])
def test_malicious_weights(tmp_path, save_with):
    file = tmp_path / "weights.pt"
    with file.open("wb") as stream:
        save_with({"0.weight": Trap(tmp_path / "sprung")}, stream)
    assert refusal(tmp_path, *QUICK, f"case.weights={file}") == (
        f"{file} holds more than tensors, which could run code, so it was not opened: save it with "
        "torch.save(network.state_dict(), file)"
    )
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "{file}: there is no such weights file"),
        (b"", "{file} is damaged or no torch file"),
        (b"PK\x03\x04rubbish", "{file} is damaged or no torch file"),
        (
            [1, 2],
            "{file} holds no state dict, alone or under state_dict, model_state_dict, model: ",
        ),
        ({"0.weight": torch.ones(3)}, "{file} fits another network: "),
    ],
)
def test_unfit_weights(tmp_path, content, sentence):
    file = tmp_path / "weights.pt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    found = refusal(tmp_path, *QUICK, f"case.weights={file}")
    assert found.startswith(sentence.format(file=file))


# Settings without an effect.


@pytest.mark.parametrize(
    "override",
    [
        "case.impl.threads=3",
        "case.num_queries=2",
        "case.data.batch_size=9",
        "case.server.grad_idx=1",
        "attack.type=x",
    ],
)
def test_settings_without_an_effect(tmp_path, override):
    key = override.partition("=")[0]
    sentence = f"{key} has no effect in medbreach: leave it out"
    assert refusal(tmp_path, *QUICK, override) == sentence


# Usage.


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["adit"], "there is no command adit; did you mean audit? (see medbreach --help)"),
        (["audit", "--ot", "x"], "No such option '--ot'. Did you mean '--out'? (see medbreach "
         "audit --help)"),
        (["audit", "--fail-on", "most"], "Invalid value for '--fail-on': write any, never, or a "
         "share of records such as 25% (see medbreach audit --help)"),
        (["audit", "--fail-on", "101%"], "Invalid value for '--fail-on': write any, never, or a "
         "share of records such as 25% (see medbreach audit --help)"),
        (["audit", "--cases", "/nowhere"], "Invalid value for '--cases': Directory '/nowhere' "
         "does not exist (see medbreach audit --help)"),
        (["resume"], "Missing argument 'FOLDER' (see medbreach resume --help)"),
        (["show", "attack", "modrn"], "there is no attack named 'modrn'; did you mean modern?"),
        (["show", "case", "brain_mr"], "there is no case named 'brain_mr'; did you mean "
         "brain_mr_3d or brain_mr_2d or brain_tumor_2d?"),
        (["data", "fetch", "chest"], "there is no data set named 'chest'; did you mean chest_ct?"),
        (["data", "fetch", "npz"], "npz has nothing to fetch: give its files by case.data.path"),
    ],
)  # fmt: skip
def test_wrong_usage(arguments, sentence):
    ran = run_program(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == f"medbreach: {sentence}\n"


# Run folders.


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    ran = run_program("audit", "--out", folder, *QUICK, "case.user.num_data_points=1")
    assert ran.code in (0, 1), ran.err
    return folder


@pytest.fixture
def copied(run, tmp_path):
    """A run folder to spoil."""
    return Path(shutil.copytree(run, tmp_path / "run"))


def contents(folder):
    return {p.relative_to(folder): p.is_file() and p.read_bytes() for p in folder.rglob("*")}


def test_a_folder_that_holds_another_run(copied):
    before = contents(copied)
    ran = run_program("audit", "--out", copied, *QUICK)
    assert ran.code == 2
    assert sentence_of(ran) == (
        f"{copied} holds another run: choose another --out, go on with it by 'medbreach resume "
        f"{copied}', or replace it with --overwrite"
    )
    assert contents(copied) == before


def test_a_run_is_replaced_when_asked(copied):
    (copied / "claims" / "old.npz").touch()
    assert run_program("report", copied, "--redact").code == 0
    ran = run_program("audit", "--out", copied, "--overwrite", *QUICK, "case.name=another")
    assert ran.code in (0, 1)
    assert not (copied / "claims" / "old.npz").exists()
    assert not (copied / "report-redacted.html").exists()
    assert RunRecord.open(copied).header()["resolved"]["case"]["name"] == "another"


def test_wrong_input_leaves_the_run_that_was_to_be_replaced(copied):
    before = contents(copied)
    ran = run_program("audit", "--out", copied, "--overwrite", *QUICK, "case.model=nothing")
    assert ran.code == 2
    assert contents(copied) == before


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_a_folder_with_something_else(tmp_path, overwrite):
    (tmp_path / "thesis.tex").write_text("years of work")
    ran = run_program("audit", "--out", tmp_path, *overwrite, *QUICK)
    assert ran.code == 2
    assert sentence_of(ran) == f"{tmp_path} is not empty and holds no run: choose another --out"
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_folder_with_something_else_is_not_replaced(copied):
    (copied / "thesis.tex").write_text("years of work")
    ran = run_program("audit", "--out", copied, "--overwrite", *QUICK)
    assert sentence_of(ran) == (
        f"{copied} holds thesis.tex, which no run has written, and is not replaced: choose another "
        "--out"
    )
    assert (copied / "thesis.tex").is_file()


def test_a_file_for_an_output_folder(tmp_path):
    (tmp_path / "file").write_text("content")
    for out in ("file", "file/below"):
        ran = run_program("audit", "--out", tmp_path / out, *QUICK)
        assert ran.code == 2
        assert str(tmp_path / "file") in sentence_of(ran)
    assert (tmp_path / "file").read_text() == "content"


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def mkdir(path, mode=0o777):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "mkdir", mkdir)
    ran = run_program("audit", "--out", tmp_path / "run", *QUICK)
    assert ran.code == 2
    assert sentence_of(ran) == f"{tmp_path}/run cannot be written: Permission denied"


@pytest.mark.parametrize("command", ["report", "resume"])
def test_a_folder_that_is_no_run(tmp_path, command):
    for folder in (tmp_path, tmp_path / "nowhere"):
        ran = run_program(command, folder)
        assert (ran.code, ran.out) == (2, "")
        assert sentence_of(ran) == f"{folder} holds no run: run.json is not there"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["report", "resume"])
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is damaged: "),
        (b"{", "is damaged: "),
        (b"\xff\xfe", "is damaged: "),
        (b"[]", "is damaged: it holds no settings"),
        (b"{}", "has a record of schema None; this medbreach reads up to 1"),
        (b'{"schema": 99}', "has a record of schema 99; this medbreach reads up to 1"),
        (b'{"schema": 1}', "is damaged: it has no attempts"),
        (b'{"schema": 1, "settings": {}}', "is damaged: it has no attempts"),
        (b'{"schema": 1, "settings": {}, "attempts": []}', "is damaged: it has no "),
        (b'{"schema": 1, "settings": {"case": 3}, "attempts": []}', "is damaged: it has no "),
    ],
)
def test_damaged_headers(copied, command, content, sentence):
    (copied / "run.json").write_bytes(content)
    ran = run_program(command, copied)
    assert ran.code == 2
    assert str(copied) in sentence_of(ran)
    assert sentence in ran.err


@pytest.mark.parametrize("command", ["report", "resume"])
@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", ""),
        (b"rubbish", ""),
        (b"\xff\xfe\xfd", ""),
        (b"[1]", "it holds no finding"),
        (b"{}", "it has no role"),
        (b'{"id": "x", "sample": "", "role": "attack", "verdict": "leak"}', "a value is missing"),
        (b'{"id": "x", "sample": "", "role": "king", "verdict": "leak"}', "'king' is not a valid"),
    ],
)
def test_damaged_findings(copied, command, line, reason):
    file = copied / "findings.jsonl"
    first, _, rest = file.read_bytes().partition(b"\n")
    file.write_bytes(first + b"\n" + line + b"\n" + rest)
    ran = run_program(command, copied)
    assert ran.code == 2
    assert sentence_of(ran).startswith(f"{file}, line 2, is damaged: {reason}")


@pytest.mark.parametrize("damage", ["remove", "cut", "rubbish"])
def test_damaged_images(copied, damage):
    file = next((copied / "samples").glob("*.npz"))
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-100] if damage == "cut" else b"rubbish")
    ran = run_program("report", copied, "--out", copied / "again")
    assert ran.code == 2
    assert f"{file} is missing or damaged" in sentence_of(ran)
    assert not (copied / "again").exists()


def unfinished(folder):
    """Take the last finding away from a run."""
    file = folder / "findings.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    return folder


def test_resuming_with_other_images(tmp_path, pictures):
    folder = tmp_path / "run"
    settings = ("case.user.num_data_points=1", "audit.alpha=0.9")
    assert run_program("audit", "--out", folder, *of_folder(pictures, *settings)).code in (0, 1)
    unfinished(folder)
    for file in sorted(pictures.rglob("*.png")):
        with Image.open(file) as image:
            turned = image.transpose(Image.Transpose.ROTATE_180)
        turned.save(file)
    ran = run_program("resume", folder)
    assert ran.code == 2
    opening, sentence = ran.err.splitlines()
    assert opening.startswith("my_folder: 1 attempt on cpu")
    assert sentence.startswith(f"medbreach: the images are not those that {folder} began with")
    next(pictures.rglob("*.png")).unlink()
    ran = run_program("resume", folder)
    assert "entries was 24, now it is 23" in sentence_of(ran)


def test_resuming_with_other_attempts(copied):
    header = json.loads((copied / "run.json").read_text())
    header["attempts"].append("attack--another--none--seed0")
    (copied / "run.json").write_text(json.dumps(header))
    assert sentence_of(run_program("resume", copied)).startswith(
        f"{copied} was planned by another version of medbreach or its plugins"
    )


def test_resuming_with_other_defaults(copied):
    header = json.loads((copied / "run.json").read_text())
    header["resolved"]["case"]["user"]["local_learning_rate"] = 7.0
    (copied / "run.json").write_text(json.dumps(header))
    assert sentence_of(run_program("resume", copied)).startswith(
        f"{copied} was begun by another version of medbreach or its plugins, with other defaults"
    )


def test_resuming_with_other_weights(tmp_path):
    file, folder = tmp_path / "weights.pt", tmp_path / "run"
    network = MLP(width=4).build(ImageSpec(1, (4, 8, 8)), 2)
    torch.save(network.state_dict(), file)
    settings = (
        "case=brain_mr_3d", "case.data.space=[4,8,8]", "case.model=mlp", "case.model.width=4",
        f"case.weights={file}", "attack=analytic", "audit.metrics=[mse]", "--device", "cpu",
    )  # fmt: skip
    assert run_program("audit", "--out", folder, *settings).code in (0, 1, 3)
    unfinished(folder)
    torch.save({k: v + 1 for k, v in network.state_dict().items()}, file)
    assert sentence_of(run_program("resume", folder)).startswith(
        f"{file} is not the weights file that {folder} began with"
    )


def test_a_finding_that_names_files_elsewhere(copied, tmp_path):
    """Resuming removes the checkpoints of what is done: nothing outside the folder."""
    victim = tmp_path / "victim.pt"
    victim.write_bytes(b"precious")
    (copied / ".checkpoint-x").mkdir()
    file = copied / "findings.jsonl"
    first, *rest = file.read_text().splitlines(keepends=True)
    line = json.loads(first) | {"id": f"x/../../{victim.stem}"}
    file.write_text(json.dumps(line) + "\n" + "".join(rest))
    assert "is no name of an attempt" in sentence_of(run_program("resume", copied))
    assert victim.read_bytes() == b"precious"


def test_resuming_with_a_network(tmp_path, copied):
    file = tmp_path / "net.py"
    file.write_text(NETWORK)
    ran = run_program("resume", copied, "--model", f"{file}:build")
    assert sentence_of(ran) == "this run did not use a network of yours: leave --model out"
    folder = tmp_path / "own"
    honest = ("case/server=honest-but-curious", "attack=blind_guess", "audit.null_draws=2")
    run_program("audit", "--out", folder, *honest, "--model", f"{file}:build")
    assert sentence_of(run_program("resume", folder)) == (
        "this run uses net.py:build, which only you can let it run: repeat --model "
        "path/to/net.py:build"
    )
    assert run_program("resume", folder, "--model", f"{file}:build").code == 3
    file.write_text(f"{NETWORK}\nchanged = True\n")
    ran = run_program("resume", folder, "--model", f"{file}:build")
    assert sentence_of(ran) == "net.py:build is not what this run began with"


def test_a_report_that_cannot_be_written(copied, tmp_path):
    (tmp_path / "file").touch()
    ran = run_program("report", copied, "--out", tmp_path / "file")
    assert ran.code == 2
    assert str(tmp_path / "file") in sentence_of(ran)


@pytest.mark.parametrize(
    ("server", "setting", "kind"),
    [
        ("qbi", "mode=3", "QBI"),
        ("peeling", "connection=linear", "PeelingBlock"),
        ("rtf", "pairs=3", "ImprintBlock"),
        ("cah", "calibrate=true", "CuriousAbandonHonesty"),
        ("loki", "parts=3", "LOKI"),
    ],
)
def test_a_key_that_the_planted_block_does_not_have(tmp_path, server, setting, kind):
    key = f"case.server.model_modification.{setting}"
    ran = run_program(
        "audit", f"case/server=malicious-model-{server}", key, "--out", tmp_path / "run",
        "case=brain_mr_2d", "attack=imprint",
    )  # fmt: skip
    assert ran.code == 2
    assert sentence_of(ran) == f"{key.partition('=')[0]} has no effect on a {kind}: leave it out"
    assert not (tmp_path / "run").exists()


def test_a_key_that_the_planted_block_of_an_own_file_does_not_have(tmp_path):
    """The file's keys are for its own type: with another on the command line they are let pass."""
    server = tmp_path / "cases" / "case" / "server"
    server.mkdir(parents=True)
    (server / "mine.yaml").write_text(
        "name: malicious_model\nmodel_modification:\n  type: PeelingBlock\n  pairs: 4\n"
    )
    own = ("--cases", tmp_path / "cases", "case=brain_mr_2d", "case/server=mine", "attack=peeling")
    key = "case.server.model_modification"
    assert refusal(tmp_path, *own) == (f"{key}.pairs has no effect on a PeelingBlock: leave it out")
    other = ["case=brain_mr_2d", "case/server=mine", "attack=imprint", f"{key}.type=LOKI"]
    settings = load(other, tmp_path / "cases")
    refuse_inert(other, assemble(settings), settings)


@pytest.mark.parametrize("key", ["attack.label_strategy", "attack.clsattack.label_strategy"])
def test_labels_play_no_part_in_fishing(tmp_path, key):
    asked = ("case=dermoscopy_2d", "case/server=malicious-fishing", "attack=clsattack")
    sentence = f"{key} has no effect on a fishing attack: leave it out"
    assert refusal(tmp_path, *asked, f"{key}=bias-corrected") == sentence


def test_more_rows_than_memory_holds(tmp_path):
    ran = run_program(
        "audit", "case=brain_mr_3d", "case/server=malicious-model-rtf", "attack=imprint",
        "case.server.model_modification.num_bins=1000000000", "--out", tmp_path / "run",
    )  # fmt: skip
    assert ran.code == 2
    assert "with 1000000000 rows has 7,629.4 GiB of weights" in sentence_of(ran)
    assert not (tmp_path / "run").exists()
