"""The run record: what is in it, where volumes lie, and what must never get into it."""

import dataclasses
import gzip
import itertools
import json
import math
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from running import run_program
from scans import write_series
from scipy import ndimage

import medbreach
from medbreach.encoding import Line, line_from_json, line_to_json
from medbreach.errors import RecordError
from medbreach.record import RunRecord
from medbreach.types import Finding, Rate, Role, Verdict

ONE_RECORD = (
    "attack=analytic", "case.model=mlp", "case.model.width=8", "case.user.num_data_points=1",
    "audit.null_draws=2", "audit.metrics=[mse,psnr]", "--device", "cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The record of an audit that finds a 3D block exactly."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    ran = run_program("audit", "case=brain_mr_3d", "--out", folder, *ONE_RECORD)
    assert ran.code == 1, ran.err
    return RunRecord.open(folder)


def attack_claim(record):
    """Return the volume that the one attack has claimed."""
    (file,) = record.folder.glob("claims/attack--*/*.nii.gz")
    return nibabel.load(file)


# What is in it.


def test_the_header_says_what_was_asked_for_and_with_what_software(run):
    header = run.header()
    assert header["schema"] == 1
    assert header["overrides"][0] == "case=brain_mr_3d"
    assert header["attempts"] == [line.id for line in run.lines()]
    resolved = header["resolved"]
    assert resolved["case"]["model"].items() > {"name": "mlp", "width": 8}.items()
    assert resolved["case"]["user"]["num_data_points"] == 1
    assert resolved["case"]["user"]["local_learning_rate"] is not None, "defaults are written out"
    assert resolved["audit"]["alpha"] == 0.05
    packages = header["software"]["packages"]
    for name in ("torch", "breaching", "hydra-core", "nibabel"):
        assert packages[name] == metadata.version(name)


def test_the_header_names_the_revision(run):
    checkout = Path(medbreach.__file__).parents[1]
    if not (checkout / ".git").exists():
        assert run.header()["software"]["revision"] is None
        return
    asked = subprocess.run(
        ["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"[0-9a-f]{40}\+?", run.header()["software"]["revision"])
    assert len(asked.stdout.strip()) == 40


def test_images_are_read_back(run):
    for line in run.lines():
        images = run.images(line)
        assert images.spec.shape == (1, 8, 16, 16)
        assert images.spec.spacing is not None
        assert len(images.truth) == len(images.labels) == line.finding.records
        assert len(images.claims) == line.finding.claims
        assert len(images.decoys) == line.finding.decoys
    line = run.lines()[-1]
    images = run.images(line)
    assert torch.allclose(images.claims, images.truth, atol=1e-3 * images.spec.range)


def test_it_only_grows(run, tmp_path):
    """Cut anywhere, the findings read as those that were whole by then."""
    content = (run.folder / "findings.jsonl").read_bytes()
    whole = run.lines()
    (tmp_path / "run.json").write_bytes((run.folder / "run.json").read_bytes())
    cut = RunRecord.open(tmp_path)
    for end in (*range(0, len(content), 97), *itertools.accumulate(
        len(line) + 1 for line in content.splitlines()
    )):  # fmt: skip
        (tmp_path / "findings.jsonl").write_bytes(content[:end])
        assert cut.lines() == whole[: content[:end].count(b"\n")]
        assert len(cut.missing()) == len(whole) - len(cut.lines())


def test_a_report_of_every_moment(run, tmp_path):
    folder = Path(shutil.copytree(run.folder, tmp_path / "run"))
    lines = (folder / "findings.jsonl").read_text().splitlines(keepends=True)
    for count in range(len(lines) + 1):
        (folder / "findings.jsonl").write_text("".join(lines[:count]) + '{"id": "half')
        for form in ("text", "json", "junit", "html"):
            assert run_program("report", folder, "--format", form).code == 0
        report = json.loads((folder / "report.json").read_text())
        assert report["missing"] == len(lines) - count


FINDING = Finding(
    case="a case",
    server="honest",
    attack="inf",
    defenses=("nan", "1"),
    seed=3,
    role=Role.BLIND,
    verdict=Verdict.NO_LEAK,
    note='"quoted" Ünïcode\nand a second line, nan',
    records=2,
    claims=1,
    identified=(True, False),
    matched=(0, None),
    similarity=(0.25, None),
    nearest_decoy=(-0.5, None),
    decoy_index=(7, None),
    decoys=9,
    p_value=0.125,
    scores={"psnr": (math.inf, None), "mse": (0.0, None)},
    baselines={"psnr": {"black": -math.inf, "mean": 3.5}},
    identified_by={"mse": 1},
    null=Rate(1, 200, 0.0, 0.03),
    clients=(0, 0),
    seconds=1.5,
    peak_memory_mb=2.5,
    device="cuda:0",
)


def test_findings_survive_json():
    line = Line("an-id", "seed3", FINDING)
    text = line_to_json(line)
    assert "\n" not in text
    assert json.loads(text, parse_constant=pytest.fail)["scores"]["psnr"] == ["inf", None]
    assert line_from_json(text) == line


@pytest.mark.parametrize("names", [("x/../../victim", ""), ("id", "../seed0"), ("a b", "")])
def test_names_that_would_leave_the_folder(names):
    text = line_to_json(Line(*names, FINDING))
    with pytest.raises(ValueError, match="is no name of an attempt or its images"):
        line_from_json(text)


def test_findings_of_a_newer_medbreach_with_more_keys():
    text = line_to_json(Line("an-id", "", FINDING))
    more = json.dumps({**json.loads(text), "new": {"key": "value"}})
    assert line_from_json(more).finding == FINDING


# Where volumes lie.


def voxels_at(image, volume, positions):
    """Return a volume's intensities at positions in mm, by linear interpolation."""
    matrix = np.linalg.inv(image.affine)
    where = positions @ matrix[:3, :3].T + matrix[:3, 3]
    return ndimage.map_coordinates(volume, where.T, order=1, mode="nearest")


def positions_of(image):
    """Return the position of every voxel of an image in mm."""
    grid = np.stack(np.meshgrid(*map(np.arange, image.shape), indexing="ij"), -1).reshape(-1, 3)
    return grid @ image.affine[:3, :3].T + image.affine[:3, 3]


def likeness(image, other, volume, moved=(0, 0, 0)):
    """Return the correlation of an image with what another shows at the same places."""
    shift = image.affine[:3, :3] @ np.array(moved)
    there = voxels_at(other, volume, positions_of(image) + shift)
    return np.corrcoef(there, np.asarray(image.dataobj).ravel())[0, 1]


HALF_A_VOXEL = [
    (0.5, 0, 0), (0, 0.5, 0), (0, 0, 0.5), (-0.5, 0, 0), (0, -0.5, 0), (0, 0, -0.5)
]  # fmt: skip


def test_a_block_lies_where_it_was_cut_out(run):
    source = nibabel.load(Path(nibabel.__file__).parent / "tests" / "data" / "example4d.nii.gz")
    claim = attack_claim(run)
    assert claim.shape == (16, 16, 8)
    assert claim.header.get_xyzt_units()[0] == "mm"
    here = voxels_at(source, source.get_fdata()[..., 0], positions_of(claim))
    there = voxels_at(source, source.get_fdata()[..., 1], positions_of(claim))
    claimed = claim.get_fdata().ravel()
    closest = min(abs(here - claimed).max(), abs(there - claimed).max())
    assert closest < 1e-3 * claimed.max()
    corner = np.linalg.solve(source.affine, claim.affine[:, 3])
    assert np.allclose(corner, corner.round(), atol=1e-4), "a voxel's centre, not its edge"


def turned(voxels, affine, codes):
    """Return an image with its axes stored in another order and direction."""
    image = nibabel.Nifti1Image(voxels, affine)
    return image.as_reoriented(ornt_transform(io_orientation(affine), axcodes2ornt(codes)))


def rotated(affine, degrees):
    """Return an affine whose patient lay askew."""
    angle = math.radians(degrees)
    spin = np.eye(4)
    spin[:2, :2] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    tilt = np.eye(4)
    tilt[1:3, 1:3] = spin[:2, :2]
    return tilt @ spin @ affine


@pytest.fixture(scope="module")
def head():
    """The first time point of nibabel's head MR."""
    file = Path(nibabel.__file__).parent / "tests" / "data" / "example4d.nii.gz"
    image = nibabel.load(file)
    return image.get_fdata(dtype=np.float32)[..., 0], image.affine


def write_folder(folder, head, codes, degrees):
    """Write six cuts of the head, stored in an orientation; return them."""
    voxels, affine = head
    folder.mkdir()
    images = []
    for number in range(6):
        corner = np.array([30, 10 + 10 * number, 2])
        part = voxels[30:54, corner[1] : corner[1] + 30, 2:20]
        place = affine.copy()
        place[:3, 3] += affine[:3, :3] @ corner
        images.append(turned(part, rotated(place, degrees), codes))
        nibabel.save(images[-1], folder / f"sub-{number}.nii.gz")
    return images


def audit_folder(tmp_path, *settings):
    ran = run_program(
        "audit", "case=brain_mr_3d", "case/data=nifti_folder", "audit.alpha=0.5",
        f"case.data.path={tmp_path / 'scans'}", "case.data.labels=arbitrary",
        "case.data.partition=random", "case.data.default_clients=1", "case.data.window=[0,2000]",
        "--out", tmp_path / "run", *ONE_RECORD, *settings,
    )  # fmt: skip
    assert ran.code in (0, 1), ran.err
    return attack_claim(RunRecord.open(tmp_path / "run"))


ORIENTATIONS = [("RAS", 0), ("LPS", 0), ("PIR", 0), ("SLA", 15), ("RAS", 20), ("LAS", -25)]


@pytest.mark.parametrize(("codes", "degrees"), ORIENTATIONS)
def test_whole_volumes_lie_where_they_were_stored(tmp_path, head, codes, degrees):
    """The axes of a claim point right, front and up, as nearly as the stored ones do."""
    images = write_folder(tmp_path / "scans", head, codes, degrees)
    claim = audit_folder(tmp_path, "case.data.form=volumes", "case.data.space=[18,30,24]")
    assert nibabel.aff2axcodes(claim.affine) == ("R", "A", "S")
    claimed = claim.get_fdata().ravel()
    apart = [
        abs(voxels_at(image, image.get_fdata(), positions_of(claim)) - claimed).max()
        for image in images
    ]
    assert min(apart) < 1e-2 * claimed.max()
    assert sorted(apart)[1] > 0.1 * claimed.max(), "the others show something else"


@pytest.mark.parametrize(("codes", "degrees"), [("RAS", 0), ("PIR", 0), ("SLA", 15)])
def test_resampled_volumes_lie_where_they_were(tmp_path, head, codes, degrees):
    images = write_folder(tmp_path / "scans", head, codes, degrees)
    claim = audit_folder(
        tmp_path,
        "case.data.form=volumes",
        "case.data.space=[12,14,12]",
        "case.data.spacing=[3.3,3.0,3.0]",
    )
    assert np.allclose(nibabel.affines.voxel_sizes(claim.affine), [3, 3, 3.3], atol=1e-4)
    best = max(images, key=lambda image: likeness(claim, image, image.get_fdata()))
    smooth = ndimage.gaussian_filter(best.get_fdata(), 1)
    there = likeness(claim, best, smooth)
    assert there > 0.99
    for moved in HALF_A_VOXEL:
        assert likeness(claim, best, smooth, moved) < there - 0.002


@pytest.mark.parametrize("codes", ["RAS", "PIR"])
def test_blocks_of_turned_volumes_lie_where_they_were(tmp_path, head, codes):
    images = write_folder(tmp_path / "scans", head, codes, 10)
    claim = audit_folder(tmp_path, "case.data.form=blocks", "case.data.space=[6,8,8]")
    claimed = claim.get_fdata().ravel()
    apart = [
        abs(voxels_at(image, image.get_fdata(), positions_of(claim)) - claimed).max()
        for image in images
    ]
    assert min(apart) < 1e-2 * claimed.max()


def test_claims_that_match_no_record_lie_at_the_origin(run):
    """A blind claim is matched to a record too; one without a match has no place."""
    from medbreach.storage import volume_to_bytes

    spec = run.images(run.lines()[0]).spec
    image = nibabel.Nifti1Image.from_bytes(
        gzip.decompress(volume_to_bytes(torch.rand(1, 8, 16, 16), spec, None))
    )
    assert np.allclose(np.diag(image.affine), [*reversed(spec.spacing), 1])
    assert np.allclose(image.affine[:3, 3], 0)


def test_colour_volumes_keep_their_channels(run):
    from medbreach.storage import volume_to_bytes

    spec = dataclasses.replace(
        run.images(run.lines()[0]).spec, channels=2, mean=(0.0, 0.0), std=(1.0, 1.0)
    )
    volume = torch.rand(2, 8, 16, 16)
    content = gzip.decompress(volume_to_bytes(volume, spec, None))
    image = nibabel.Nifti1Image.from_bytes(content)
    assert image.shape == (16, 16, 8, 2)
    assert image.get_fdata()[3, 2, 1, 1] == pytest.approx(float(volume[1, 1, 2, 3]))


# What must not get into it.

CANARIES = {
    "PatientName": "Canary^Anna Maria",
    "PatientID": "CANARYID4711",
    "PatientBirthDate": "19700102",
    "PatientAddress": "Canary Street 1",
    "InstitutionName": "Canary Hospital",
    "ReferringPhysicianName": "Canary^Doctor",
    "AccessionNumber": "CANARYACC1",
    "StudyDescription": "Canary study",
}
WORDS = ("canary", "19700102")


@pytest.fixture
def canaries(tmp_path):
    """A folder with a CT series of a patient whose name must not be seen."""
    return write_series(tmp_path / "series", **CANARIES)


def texts_in(folder):
    """Yield every file of a folder as text, archives and arrays opened."""
    for file in folder.rglob("*"):
        if not file.is_file():
            continue
        content = file.read_bytes()
        if file.suffix == ".npz":
            with np.load(file) as arrays:
                content = b" ".join(arrays[name].tobytes() for name in arrays.files)
                content += b" ".join(str(arrays[name]).encode() for name in arrays.files)
        if file.suffix == ".gz":
            content = gzip.decompress(content)
        yield file.name, content.decode("latin-1").replace("\0", "").lower()


def test_nothing_of_a_patient_is_recorded_or_said(tmp_path, canaries, caplog):
    settings = (
        "case=brain_mr_3d", "case/data=dicom_series", f"case.data.path={canaries}",
        "case.data.space=[4,16,16]", "case/server=malicious-model-rtf", "attack=imprint",
        "audit.null_draws=2", "-vv",
    )  # fmt: skip
    run = tmp_path / "run"
    with caplog.at_level("DEBUG"):
        said = [run_program("audit", "--out", run, *settings)]
        assert said[0].code in (0, 1), said[0].err
        said += [run_program("report", run, "--format", f) for f in ("text", "junit", "html")]
    seen = list(texts_in(run))
    assert {"run.json", "findings.jsonl", "report.html", "seed0.npz"} <= {name for name, _ in seen}
    seen += [("output", (ran.out + ran.err).lower()) for ran in said]
    seen.append(("log", caplog.text.lower()))
    assert [(name, word) for name, text in seen for word in WORDS if word in text] == []


@pytest.mark.parametrize("damage", ["pixels", "position", "header"])
def test_nothing_of_a_patient_is_said_of_damaged_files(tmp_path, canaries, damage, caplog):
    file = canaries / "05.dcm"
    content = file.read_bytes()
    if damage == "pixels":
        file.write_bytes(content[:-5000])
    elif damage == "position":
        file.write_bytes(content.replace(b"-63.2", b"Canry"))
    else:
        file.write_bytes(content[:600] + b"\xff" * 30 + content[630:])
    with caplog.at_level("DEBUG"):
        ran = run_program(
            "audit", "case=brain_mr_3d", "case/data=dicom_series", f"case.data.path={canaries}",
            "case.data.space=[4,16,16]", "--out", tmp_path / "run", "-vv",
        )  # fmt: skip
    assert ran.code == 2
    said = (ran.out + ran.err + caplog.text).lower()
    assert not [word for word in (*WORDS, "canry") if word in said]
    assert "05.dcm" in said


def test_the_canaries_would_be_seen(canaries):
    """The search above finds what is there: in the files themselves."""
    found = [text for _, text in texts_in(canaries)]
    assert all(word in text for word in WORDS for text in found)


def test_folders_are_recorded_as_they_were_given(tmp_path, monkeypatch, head):
    """Home folders have the names of people; nobody asked for them."""
    home = tmp_path / "dr.canary"
    home.mkdir()
    write_folder(home / "scans", head, "RAS", 0)
    (home / "net.py").write_text(
        "from torch import nn\n"
        "def build(classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))\n"
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    ran = run_program(
        "audit", "case=brain_mr_3d", "case/data=nifti_folder", "case.data.path=~/scans",
        "case.data.labels=arbitrary", "case.data.partition=random", "case.data.default_clients=1",
        "case.data.space=[18,30,24]", "case.user.num_data_points=1", "attack=analytic",
        "audit.null_draws=2", "audit.alpha=0.5", "--model", "~/net.py:build", "--out", run,
    )  # fmt: skip
    assert ran.code in (0, 1), ran.err
    header = RunRecord.open(run).header()
    assert header["resolved"]["case"]["data"]["path"] == "~/scans"
    assert header["resolved"]["case"]["model"]["file"] == "net.py"
    assert [name for name, text in texts_in(run) if "canary" in text] == []


# Errors.


def test_a_folder_of_a_newer_medbreach(run, tmp_path):
    header = run.header() | {"schema": 2}
    (tmp_path / "run.json").write_text(json.dumps(header))
    with pytest.raises(RecordError, match="record of schema 2; this medbreach reads up to 1"):
        RunRecord.open(tmp_path)
