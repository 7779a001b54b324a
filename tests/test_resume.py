"""A run that is cut off, at any moment and by anything, goes on to what it would have found."""

import contextlib
import dataclasses
import errno
import os
import random
import re
import shutil
import signal

import numpy as np
import pytest
import torch
from forks import forks

from medbreach import config, storage
from medbreach.errors import RecordError
from medbreach.progress import FileWatch
from medbreach.record import RunRecord
from medbreach.session import Follower, carry_out, header, prepare
from medbreach.types import Verdict

AUDIT = (
    "audit", "case=brain_mr_3d", "case.data.space=[4,8,8]", "case.user.num_data_points=2",
    "case.model.width=4", "attack=[invertinggradients,analytic]", "audit.metrics=[mse]",
    "attack.invertinggradients.optim.max_iterations=40", "audit.decoys=19", "audit.public=100",
    "audit.null_draws=20", "audit.checkpoint_seconds=0", "--device", "cpu",
)  # fmt: skip
ATTEMPTS = 6
VERDICTS = (0, 1, 3)  # exit codes of a run that ended, whatever it found
COSTS = ("seconds", "peak_memory_mb")


@pytest.fixture(scope="module")
def loaded():
    """A process that forks for every run of the program."""
    with forks() as process:
        yield process


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, loaded):
    """A run that nothing has cut off, and how long it took."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    ended = loaded.run(*AUDIT, "--out", folder)
    assert ended.code in VERDICTS, ended.err
    record = RunRecord.open(folder)
    verdicts = [line.finding.verdict for line in record.lines()]
    assert len(verdicts) == ATTEMPTS
    assert Verdict.FAILED not in verdicts
    return record, ended.seconds


def found(record):
    """Return the findings in order, without what differs from run to run."""
    return [
        (line.id, line.sample, dataclasses.replace(line.finding, **dict.fromkeys(COSTS, 0.0)))
        for line in record.lines()
    ]


def contents(record):
    """Return every recorded array and volume by its file's name."""
    arrays = {}
    for file in record.folder.rglob("*.npz"):
        with np.load(file) as members:
            arrays |= {(file.name, name): members[name] for name in members.files}
    return arrays, {
        file.relative_to(record.folder): file.read_bytes()
        for file in record.folder.rglob("*.nii.gz")
    }


def check_same(record, other):
    """Check that two runs found the same, bit by bit, and left nothing behind."""
    assert found(record) == found(other)
    (arrays, volumes), (others, other_volumes) = contents(record), contents(other)
    assert arrays.keys() == others.keys()
    assert all(np.array_equal(arrays[key], others[key]) for key in arrays)
    assert volumes == other_volumes
    names = [path.name for path in record.folder.rglob("*")]
    assert not [name for name in names if "partial" in name or "checkpoint" in name]


def kill_and_resume(loaded, folder, delay, undisturbed):
    """Kill an audit after a while, resume it, and check what it found."""
    while loaded.run(*AUDIT, "--out", folder, kill_after=delay).code != -signal.SIGKILL:
        delay /= 2  # it was done before
        shutil.rmtree(folder)
    if not (folder / "run.json").exists():  # nothing was recorded yet
        assert loaded.run(*AUDIT, "--out", folder).code in VERDICTS
    else:
        record = RunRecord.open(folder)
        before = found(record)
        assert loaded.run("report", folder, "--format", "json", "--redact").code == 0
        assert loaded.run("resume", folder).code in VERDICTS
        assert found(record)[: len(before)] == before, "nothing is repeated or lost"
    check_same(RunRecord.open(folder), undisturbed)


@pytest.mark.parametrize("moment", range(3))
def test_killed_at_a_random_moment(loaded, undisturbed, tmp_path, moment):
    record, seconds = undisturbed
    delay = random.Random(moment).uniform(0.1, 0.9) * seconds
    kill_and_resume(loaded, tmp_path / "run", delay, record)


@pytest.mark.slow
def test_killed_at_ten_random_moments(loaded, undisturbed, tmp_path):
    record, seconds = undisturbed
    moments = random.Random(10)
    for number in range(10):
        delay = moments.uniform(0, 1) * seconds
        kill_and_resume(loaded, tmp_path / f"run{number}", delay, record)


def test_killed_again_and_again(loaded, undisturbed, tmp_path):
    """One run, killed five times: every resume goes on from the last one's checkpoint."""
    record, seconds = undisturbed
    folder = tmp_path / "run"
    moments = random.Random(5)
    loaded.run(*AUDIT, "--out", folder, kill_once=folder / "run.json")
    killed = [
        loaded.run("resume", folder, kill_after=moments.uniform(0.2, 0.4) * seconds).code
        for _ in range(4)
    ]
    assert killed.count(-signal.SIGKILL) >= 2
    assert loaded.run("resume", folder).code in VERDICTS
    check_same(RunRecord.open(folder), record)


def test_a_cut_line_is_dropped(undisturbed, loaded, tmp_path):
    """The line is cut in the middle of a letter of two bytes, which is no UTF-8."""
    record, _ = undisturbed
    folder = tmp_path / "run"
    shutil.copytree(record.folder, folder)
    text = (folder / "findings.jsonl").read_text().splitlines(keepends=True)
    cut = "".join(text[:-1]).encode() + text[-1][:100].encode() + "é".encode()[:1]
    (folder / "findings.jsonl").write_bytes(cut)
    again = RunRecord.open(folder)
    assert found(again) == found(record)[:-1]
    assert again.missing() == [record.lines()[-1].id]
    assert loaded.run("resume", folder).code in VERDICTS
    check_same(again, record)


def test_half_written_files_are_removed(undisturbed, loaded, tmp_path):
    record, _ = undisturbed
    folder = tmp_path / "run"
    shutil.copytree(record.folder, folder)
    (folder / "claims" / ".some.npz.partial").write_bytes(b"half")
    (folder / ".run.json.partial").write_bytes(b"half")
    before = (folder / "findings.jsonl").read_bytes()
    assert loaded.run("resume", folder).code in VERDICTS
    assert (folder / "findings.jsonl").read_bytes() == before, "the run was done"
    check_same(RunRecord.open(folder), record)


# Stopped by Ctrl-C.


def test_ctrl_c_says_how_to_go_on(loaded, undisturbed, tmp_path):
    record, _ = undisturbed
    folder = tmp_path / "a run"
    ended = loaded.run(
        *AUDIT,
        "--out",
        folder,
        kill_once=folder / "findings.jsonl",
        signal_number=signal.SIGINT,
    )
    assert ended.code == 130, ended.err
    assert ended.err.rstrip().endswith(
        f"stopped; what is done is recorded, go on with: medbreach resume '{folder}'"
    )
    assert "Traceback" not in ended.err
    assert loaded.run("resume", folder).code in VERDICTS
    check_same(RunRecord.open(folder), record)


def test_ctrl_c_before_anything_is_recorded(loaded, tmp_path):
    ended = loaded.run(
        *AUDIT, "--out", tmp_path / "run", kill_after=0.05, signal_number=signal.SIGINT
    )
    assert (ended.code, ended.out) == (130, "")
    assert ended.err.strip() == "stopped"
    assert not (tmp_path / "run").exists()


class Deaf(Follower):
    """Catches a Ctrl-C at the third step, and goes on."""

    def steps(self, done, total):
        if done == 3:
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        self.done = done


def test_ctrl_c_that_somebody_catches_still_stops_the_run(tmp_path):
    settings = config.load(AUDIT[1:-2], None)
    session = prepare(settings, torch.device("cpu"))
    record = RunRecord.create(tmp_path / "run", header(session, settings))
    follower, before = Deaf(), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        list(carry_out(session, record, follower))
    assert follower.done == 3
    assert "invertinggradients" not in {line.finding.attack for line in record.lines()}
    assert signal.getsignal(signal.SIGINT) is before


# A full disk.


def test_a_disk_that_is_full_from_the_start(loaded, tmp_path):
    ended = loaded.run(*AUDIT, "--out", tmp_path / "runs" / "run", largest_file=1000)
    assert (ended.code, ended.out) == (2, "")
    assert re.fullmatch(r"medbreach: \S+/run cannot be written: File too large\n", ended.err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [10_000, 30_000])
def test_a_disk_that_becomes_full(loaded, undisturbed, tmp_path, size):
    """Files may have 10 kB, too little for the images, or 30 kB, too little for a checkpoint."""
    record, _ = undisturbed
    largest = max(file.stat().st_size for file in record.folder.rglob("*.npz"))
    assert 10_000 < largest < 60_000, "the sizes above no longer fit this audit"
    folder = tmp_path / "run"
    ended = loaded.run(*AUDIT, "--out", folder, largest_file=size)
    assert ended.code == 2
    *_, last = ended.err.splitlines()
    assert re.fullmatch(
        rf"medbreach: {folder}\S* cannot be written: File too large; what is done is recorded, go "
        rf"on with: medbreach resume {folder}",
        last,
    )
    cut = RunRecord.open(folder)
    assert found(cut) == found(record)[: len(found(cut))]
    assert loaded.run("report", folder, "--format", "text").code == 0
    assert loaded.run("resume", folder).code in VERDICTS
    check_same(cut, record)


@pytest.mark.parametrize("writes", [1, 30])
def test_no_room_left_at_any_write(loaded, undisturbed, tmp_path, writes):
    """The disk is full from the n-th time on that something is written; then there is room."""
    record, _ = undisturbed
    folder = tmp_path / "run"
    ended = loaded.run(*AUDIT, "--out", folder, writes=writes)
    assert ended.code == 2
    *_, last = ended.err.splitlines()
    assert "cannot be written: No space left on device; what is done is recorded" in last
    cut = RunRecord.open(folder)
    assert found(cut) == found(record)[: len(found(cut))]
    assert loaded.run("resume", folder).code in VERDICTS
    check_same(cut, record)


# Checkpoints inside an attack.


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    watch = FileWatch(lambda done, total: None, tmp_path / ".checkpoint.pt", seconds=0.0)
    watch.checkpoint(lambda: {"iteration": 1})

    def full(stream):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(RecordError, match="No space left on device"):
        watch.checkpoint(lambda: {"iteration": 2})
    assert watch.restore() == {"iteration": 1}
    assert [path.name for path in tmp_path.iterdir()] == [".checkpoint.pt"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a file", b"\x80\x02K\x01."])
def test_a_damaged_checkpoint_starts_the_attack_again(tmp_path, content, caplog):
    file = tmp_path / ".checkpoint.pt"
    file.write_bytes(content)
    assert FileWatch(lambda done, total: None, file).restore() is None
    assert "is damaged: the attack starts again" in caplog.text


def test_checkpoints_run_no_code(tmp_path):
    """A run folder may come from somebody else."""
    file = tmp_path / ".checkpoint.pt"
    torch.save({"state": Trap(tmp_path / "sprung")}, file)
    assert FileWatch(lambda done, total: None, file).restore() is None
    assert not (tmp_path / "sprung").exists()


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


# One run, two processes.


def test_two_processes_on_one_run(loaded, undisturbed, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(undisturbed[0].folder, folder)
    before = (folder / "findings.jsonl").read_bytes()
    with RunRecord.open(folder).writing():
        for command in (["resume", folder], [*AUDIT, "--out", folder, "--overwrite"]):
            ran = loaded.run(*command)
            assert ran.code == 2
            assert f"another process is writing to {folder}" in ran.err
        assert loaded.run("report", folder, "--format", "text").code == 0
    assert (folder / "findings.jsonl").read_bytes() == before
