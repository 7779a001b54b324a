"""Fetched scans: a small distribution stands for the real one, made of nibabel's head MR."""

import io
import subprocess
import tarfile
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest

from medbreach.datasets import AbdomenMR, ChestCT, totalsegmentator
from medbreach.errors import ConfigError, DataError
from medbreach.settings import build

PREFIX = "totalsegmentator-2.18.0/tests/reference_files"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDBREACH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "totalsegmentator-2.18.0"


@pytest.fixture
def content(head, tmp_path):
    """The scans' files by name."""
    voxels = head.get_fdata(dtype=np.float32)
    made = {}
    for name, values in {
        "aorta_report/example_ct.nii.gz": voxels * 2 - 1000,
        "example_ct.nii.gz": voxels[:64] * 2 - 1000,
        "example_mr_sm.nii.gz": voxels,
    }.items():
        nibabel.save(nibabel.Nifti1Image(values, head.affine), tmp_path / "scan.nii.gz")
        made[name] = (tmp_path / "scan.nii.gz").read_bytes()
    return made | {f"example_ct_dicom/{k}": bytes([k]) * 10 for k in range(3)}


@pytest.fixture
def publish(content, tmp_path, monkeypatch):
    """Make ``content`` what is expected; return a function that makes pip deliver something."""
    for name, path in content.items():
        place = tmp_path / "expected" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path)
    swapped = {
        member.path: member._replace(
            sha256=totalsegmentator._sum(tmp_path / "expected" / member.path)
        )
        for member in totalsegmentator.MEMBERS
    }
    monkeypatch.setattr(totalsegmentator, "MEMBERS", tuple(swapped.values()))
    monkeypatch.setattr(ChestCT, "member", swapped[ChestCT.member.path])
    monkeypatch.setattr(AbdomenMR, "member", swapped[AbdomenMR.member.path])
    calls = []

    def offer(files, sum_is_right=True, code=0, extra=()):
        sdist = tmp_path / "totalsegmentator-2.18.0.tar.gz"
        with tarfile.open(sdist, "w:gz") as archive:
            for name, value in files.items():
                entry = tarfile.TarInfo(f"{PREFIX}/{name}")
                entry.size = len(value)
                archive.addfile(entry, io.BytesIO(value))
            for entry in extra:
                archive.addfile(entry)

        def run(command, **settings):
            calls.append(command)
            folder = Path(command[command.index("-d") + 1])
            requirement = command[command.index("-r") + 1]
            calls.append(Path(requirement).read_text())
            (folder / sdist.name).write_bytes(sdist.read_bytes())
            return SimpleNamespace(returncode=code, stderr="ERROR: no network\n", stdout="")

        monkeypatch.setattr(subprocess, "run", run)
        expected = totalsegmentator._sum(sdist) if sum_is_right else totalsegmentator.SDIST
        monkeypatch.setattr(totalsegmentator, "SDIST", expected)
        return calls

    return offer


def test_missing_says_how_to_get_it():
    assert ChestCT.missing().endswith("run medbreach data fetch chest_ct")
    with pytest.raises(DataError, match="run medbreach data fetch abdomen_mr"):
        AbdomenMR().open()


def test_fetch_keeps_the_scans_and_nothing_else(publish, content, cache):
    calls = publish(content | {"example_seg.nii.gz": b"x"})
    assert ChestCT.fetch() == str(cache)
    kept = {
        p.relative_to(cache).as_posix(): p.read_bytes() for p in cache.rglob("*") if p.is_file()
    }
    assert kept == content
    assert [p.name for p in cache.parent.iterdir()] == [cache.name]
    command, requirement = calls
    assert command[1:4] == ["-m", "pip", "download"]
    assert {"--no-deps", "--no-binary"} <= set(command)
    assert requirement.startswith("TotalSegmentator==2.18.0 --hash=sha256:")
    assert ChestCT.missing() == AbdomenMR.missing() == ""
    AbdomenMR.fetch()
    assert len(calls) == 2, "what is there is not fetched again"


def test_chest_ct_shows_the_file(publish, content, cache):
    publish(content)
    ChestCT.fetch()
    collection = ChestCT((8, 16, 16)).open()
    assert collection.spec.unit == "HU"
    assert collection.spec.bounds == (-1000.0, 1000.0)
    assert "one subject" in collection.note
    stored = nibabel.load(cache / "aorta_report" / "example_ct.nii.gz")
    for k in (0, 20, 50):
        affine = np.array(collection.entries[k].affine)
        world = affine @ [3, 4, 5, 1]
        voxel = (np.linalg.inv(stored.affine) @ world)[:3].round().astype(int)
        expected = np.clip(stored.get_fdata()[tuple(voxel)], -1000, 1000)
        assert collection.image(k)[0, 5, 4, 3] == expected
    assert ChestCT((32, 32)).open().spec.space == (32, 32)


def test_abdomen_mr(publish, content):
    publish(content)
    AbdomenMR.fetch()
    collection = AbdomenMR().open()
    assert collection.spec.shape == (1, 8, 16, 16)
    assert collection.spec.bounds == (0.0, 800.0)
    assert len({e.patient for e in collection.entries}) == len(collection.entries)


def test_a_damaged_copy_is_noticed_and_replaced(publish, content, cache):
    publish(content)
    AbdomenMR.fetch()
    scan = cache / "example_mr_sm.nii.gz"
    scan.write_bytes(scan.read_bytes()[:1000])
    with pytest.raises(DataError, match="is damaged: remove"):
        AbdomenMR().open()
    AbdomenMR.fetch()
    assert scan.read_bytes() == content["example_mr_sm.nii.gz"]


def refused(cache):
    with pytest.raises(DataError) as error:
        ChestCT.fetch()
    assert not cache.exists()
    assert list(cache.parent.iterdir()) == []
    return str(error.value)


def test_another_distribution_is_refused(publish, content, cache):
    publish(content, sum_is_right=False)
    assert "is not the published TotalSegmentator 2.18.0" in refused(cache)


def test_another_scan_is_refused(publish, content, cache):
    publish(content | {"example_mr_sm.nii.gz": b"x"})
    assert "does not hold example_mr_sm.nii.gz as it was published" in refused(cache)


def test_a_missing_scan_is_refused(publish, content, cache):
    del content["example_ct.nii.gz"]
    publish(content)
    assert "does not hold example_ct.nii.gz" in refused(cache)


def test_pip_s_last_word_is_passed_on(publish, content, cache):
    publish(content, code=1)
    assert refused(cache).endswith("pip cannot download TotalSegmentator 2.18.0: ERROR: no network")


@pytest.mark.parametrize("name", [f"{PREFIX}/example_ct_dicom/../../../evil", "/evil", "../evil"])
def test_nothing_is_written_outside(publish, content, cache, tmp_path, name):
    entry = tarfile.TarInfo(name)
    link = tarfile.TarInfo(f"{PREFIX}/example_ct_dicom/link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc"
    publish(content, extra=(entry, link))
    ChestCT.fetch()
    assert not list(tmp_path.rglob("evil"))
    assert not (cache / "example_ct_dicom" / "link").exists()


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("MEDBREACH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert totalsegmentator.cache() == tmp_path / "xdg" / "medbreach"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert totalsegmentator.cache() == tmp_path / ".cache" / "medbreach"


def test_space_is_checked_at_once():
    with pytest.raises(ConfigError, match="space needs 2 or 3 positive numbers"):
        build(ChestCT, {"space": [8, 8, 8, 8]}, "case.data")
