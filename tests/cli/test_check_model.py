"""What a hospital gets to see of the inspection of a model, and what it is told of wrong input."""

import json
from dataclasses import dataclass

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from running import run_program
from torch import nn

from medbreach import plugins
from medbreach.assembly import component
from medbreach.cli.codes import Exit
from medbreach.config import read_choice
from medbreach.models.small_cnn import SmallCNN
from medbreach.testing.examples import tiny_sample

PUBLIC = 10


@dataclass(frozen=True)
class Files:
    """An honest and a planted model, and how the program is told of them."""

    folder: object
    arguments: tuple

    def check(self, name, *more):
        return run_program("check-model", self.folder / name, *self.arguments, *more)


@pytest.fixture(scope="module", params=[(16, 16), (8, 16, 16)], ids=str)
def files(request, tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("models"), request.param)


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("models"), (16, 16))


def write_files(folder, space):
    sample = tiny_sample(space, 1)
    honest = SmallCNN()(sample.spec, 3, torch.Generator().manual_seed(0))
    torch.save(honest.state_dict(), folder / "honest.pt")
    chosen = read_choice("case/server", "malicious-model-rtf")
    server = component(plugins.servers(), chosen, "case.server")
    sent = server.plant(honest, sample.spec, sample.public, torch.Generator().manual_seed(0))
    torch.save({"state_dict": sent.model.state_dict()}, folder / "planted.pt")
    write_public(folder / "public", sample.public)
    shape = ",".join(map(str, sample.spec.shape))
    return Files(folder, ("--architecture", "small_cnn", "--shape", shape, "--classes", "3"))


def write_public(folder, images):
    folder.mkdir()
    for k, image in enumerate(images[:PUBLIC]):
        values = image[0].numpy()
        if values.ndim == 2:
            grey = (255 * values / values.max()).astype(np.uint8)
            Image.fromarray(grey).save(folder / f"{k}.png")
        else:
            scan = nibabel.Nifti1Image(values.T.astype(np.float32), np.eye(4))
            nibabel.save(scan, folder / f"{k}.nii.gz")


def test_an_honest_model(files):
    ran = files.check("honest.pt", "--previous", files.folder / "honest.pt")
    assert ran.code == Exit.NOTHING_FOUND
    assert ran.out == "honest.pt, compared with small_cnn: nothing found\n"


def test_a_planted_model(files):
    ran = files.check("planted.pt", "--previous", files.folder / "honest.pt")
    assert ran.code == Exit.FOUND
    first, *others = ran.out.splitlines()
    assert first == "planted.pt, compared with small_cnn: do not train this model"
    assert "unexpected dense layer, high confidence (0.linear0.weight)" in others[0]
    assert any(line.startswith("- ladder, high confidence (0.linear0.weight)") for line in others)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["honest", "planted"])
def test_in_another_precision(files, tmp_path, name, precision):
    """Rounding of the rows hides nothing."""
    found = torch.load(files.folder / f"{name}.pt", weights_only=True)
    state = found.get("state_dict", found)
    torch.save({n: t.to(precision) for n, t in state.items()}, tmp_path / "other.pt")
    ran = files.check(tmp_path / "other.pt")
    assert (ran.code, "- ladder, high" in ran.out) == {
        "honest": (Exit.NOTHING_FOUND, False),
        "planted": (Exit.FOUND, True),
    }[name]


def test_with_public_images(files):
    assert files.check("honest.pt", "--public", files.folder / "public").code == Exit.NOTHING_FOUND
    assert files.check("planted.pt", "--public", files.folder / "public").code == Exit.FOUND


def test_for_programs(files):
    ran = files.check("planted.pt", "--format", "json")
    told = json.loads(ran.out)
    assert ran.code == Exit.FOUND
    assert told["architecture"] == "small_cnn"
    kinds = {sign["kind"]: sign for sign in told["signs"]}
    assert kinds["ladder"]["where"] == ["0.linear0.weight"]
    assert kinds["ladder"]["sure"] == "high"
    assert json.loads(files.check("honest.pt", "--format", "json").out)["signs"] == []


def test_an_architecture_of_ones_own(flat, tmp_path):
    (tmp_path / "net.py").write_text(
        "from medbreach.models.small_cnn import SmallCNN\n"
        "def build(spec, classes):\n    return SmallCNN().build(spec, classes)\n"
    )
    own = ("--architecture", f"{tmp_path}/net.py:build", *flat.arguments[2:])
    ran = run_program("check-model", flat.folder / "honest.pt", *own)
    assert (ran.code, ran.err) == (Exit.NOTHING_FOUND, "")
    assert run_program("check-model", flat.folder / "planted.pt", *own).code == Exit.FOUND


def test_an_agreed_dense_layer_is_worth_a_note(tmp_path):
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).state_dict(), tmp_path / "linear.pt")
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef build():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 3))\n"
    )
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 3))
    torch.save(model.state_dict(), tmp_path / "net.pt")
    ran = run_program(
        "check-model", tmp_path / "net.pt", "--architecture", f"{tmp_path}/net.py:build",
        "--shape", "1x8x8", "--classes", 3,
    )  # fmt: skip
    assert ran.code == Exit.NOTHING_FOUND
    assert "note: 1.weight sees the whole raw image" in ran.out


class Malicious:
    """Runs code where it is unpickled."""

    def __reduce__(self):
        return print, ("unpickled",)


def damaged(state):
    return state | {"0.bias": torch.full_like(state["0.bias"], torch.nan)}


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda file, state: None, "there is no such weights file"),
        (lambda file, state: file.write_text("hello"), "is damaged or no torch file"),
        (lambda file, state: torch.save({"0.weight": Malicious()}, file), "so it was not opened"),
        (lambda file, state: torch.save(nn.Linear(2, 2), file), "so it was not opened"),
        (lambda file, state: torch.save([1], file), "holds no state dict"),
        (lambda file, state: torch.save(damaged(state), file), "not finite, the first in 0.bias"),
        (
            lambda file, state: torch.save(state | {"7.bias": torch.zeros(9)}, file),
            "7.bias is 9 in the file where small_cnn has 3",
        ),
        (
            lambda file, state: torch.save({n: t.int() for n, t in state.items()}, file),
            "0.weight holds whole numbers (torch.int32) in the file where small_cnn has weights",
        ),
        (
            lambda file, state: torch.save({n: 1e30 * t for n, t in state.items()}, file),
            "so its weights are too large: do not train it",
        ),
        (lambda file, state: file.mkdir(), "is a folder, not a weights file"),
        (
            lambda file, state: torch.save(nn.Linear(2, 2).state_dict(), file),
            "the file fits another network",
        ),
    ],
)
def test_files_that_cannot_be_checked(flat, tmp_path, capfd, write, words):
    write(tmp_path / "sent.pt", torch.load(flat.folder / "honest.pt", weights_only=True))
    ran = run_program("check-model", tmp_path / "sent.pt", *flat.arguments)
    assert ran.code == Exit.WRONG_INPUT
    assert ran.out == ""
    assert words in ran.err
    assert len(ran.err.splitlines()) == 1
    assert "unpickled" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"--architecture": "small_cn"}, "there is no model named 'small_cn'; did you mean small_"),
        ({"--architecture": "nowhere.py:net"}, "--architecture: there is no file nowhere.py"),
        ({"--architecture": "net.py"}, "--architecture takes path/to/file.py:function"),
        ({"--architecture": "torchvision_vit_b_32"}, "torchvision_vit_b_32 takes"),
        ({"--shape": "16,16"}, "write channels, height and width"),
        ({"--shape": "1,0,16"}, "write channels, height and width"),
        ({"--classes": "0"}, "0 is not in the range x>=1"),
        ({"--classes": "4"}, "7.weight is 3 x"),
        ({"--previous": "nowhere.pt"}, "nowhere.pt: there is no such weights file"),
        ({"--previous": "{linear}"}, "0.weight of small_cnn is not in the file of the previous ro"),
        ({"--architecture": "{net}:raises"}, "net.py:raises failed: ValueError: in two lines"),
        ({"--architecture": "{net}:nothing"}, "net.py:nothing must return a network, not NoneTyp"),
        ({"--architecture": "{net}:needs"}, "net.py:needs needs depth, but only spec, classes,"),
        ({"--architecture": "{net}:absent"}, "net.py has no function absent"),
        ({"--public": "nowhere"}, "--public nowhere does not exist"),
        ({"--public": "{file}"}, "is a file, not a folder"),
        ({"--public": "{empty}"}, "holds no files"),
        ({"--public": "{few}"}, "holds 3 images: it takes at least 8"),
        ({"--public": "{other}"}, "remove it from the folder"),
    ],
)
def test_wrong_input(flat, tmp_path, changes, words):
    (tmp_path / "file").write_text("hello")
    (tmp_path / "empty").mkdir()
    (tmp_path / "few").mkdir()
    for path in sorted((flat.folder / "public").iterdir())[:3]:
        (tmp_path / "few" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("hello")
    (tmp_path / "net.py").write_text(
        "def raises():\n    raise ValueError('in\\ntwo lines')\n"
        "def nothing():\n    pass\n"
        "def needs(depth):\n    pass\n"
    )
    torch.save(nn.Linear(4, 2).state_dict(), tmp_path / "linear.pt")
    places = {name: tmp_path / name for name in ("file", "empty", "few", "other")}
    places |= {"net": tmp_path / "net.py", "linear": tmp_path / "linear.pt"}
    given = dict(zip(flat.arguments[::2], flat.arguments[1::2], strict=True))
    given |= {option: value.format(**places) for option, value in changes.items()}
    ran = run_program(
        "check-model",
        flat.folder / "honest.pt",
        *(part for pair in given.items() for part in pair),
    )
    assert (ran.code, ran.out) == (Exit.WRONG_INPUT, "")
    assert words in ran.err
    assert len(ran.err.splitlines()) == 1


def test_public_images_of_other_channels(flat, tmp_path):
    state = SmallCNN().build(tiny_sample((16, 16), 1).spec, 3).state_dict()
    state["0.weight"] = torch.zeros(32, 5, 3, 3)
    torch.save(state, tmp_path / "five.pt")
    write_public(tmp_path / "public", tiny_sample((16, 16), 1).public)
    ran = run_program(
        "check-model", tmp_path / "five.pt", "--architecture", "small_cnn", "--shape", "5,16,16",
        "--classes", "3", "--public", tmp_path / "public",
    )  # fmt: skip
    assert ran.code == Exit.WRONG_INPUT
    assert "are 3 x 16 x 16 (channels first), but the model takes 5 x 16 x 16" in ran.err
