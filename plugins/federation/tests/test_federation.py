"""Whole federations on Flower and Ray: what can be worked out by hand, faults, and going on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import toy
from flwr.supercore import telemetry

from medbreach.errors import ConfigError, ContractError, RecordError
from medbreach.storage import locked
from medbreach_federation import TELEMETRY, Cluster, FlowerRule, Mean, Strength, run_federation

SENT = []


def federation(folder, **settings):
    folder.mkdir(exist_ok=True)
    (folder / "toy.json").write_text(json.dumps(settings))
    return folder


def play(folder, rounds, **given):
    return run_federation(folder, toy.build, Mean(by_records=False), rounds, **given)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """Two rounds of seven clients, each of whom but one fails once in its own way."""
    faults = {
        "1/1": "nan", "2/1": "raise", "4/1": "records", "3/2": "shape", "0/2": "names",
        "5/2": "double",
    }  # fmt: skip
    folder = federation(tmp_path_factory.mktemp("faulty") / "run", clients=7, faults=faults)
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(telemetry, TELEMETRY, "1")  # as if Flower had been imported first
        changed.setattr("urllib.request.urlopen", lambda *a, **k: SENT.append(a))
        lines = play(folder, 2)
        time.sleep(0.5)  # it would send in a thread
    return folder, lines


def test_clients_that_fail_are_named_and_left_out(faulty):
    _, lines = faulty
    assert [line.round for line in lines] == [0, 1, 2]
    assert lines[1].isolated == {
        1: "it returned w with values that are not finite",
        2: "it failed: no such scanner",
        4: "the client's records must be a positive number up to 1000000000, got nan",
    }
    assert lines[2].isolated == {
        0: "it returned other tensors than it was sent",
        3: "it returned w of shape (2,) instead of (3,)",
        5: "it returned w as torch.float64 instead of torch.float32",
    }
    first = (1 + 4 + 6 + 7) / 4  # client k adds k + 1 to each of three entries
    assert lines[1].evaluation == {"sum": 3 * first}
    assert lines[2].evaluation == {"sum": 3 * (first + (2 + 3 + 5 + 7) / 4)}


def test_nothing_is_sent_to_anybody(faulty):
    assert SENT == []


def test_it_goes_on_after_its_last_round(faulty, tmp_path):
    """What was cut off while a round was played is played again, from the same memories."""
    folder = shutil.copytree(faulty[0], tmp_path / "copy")
    with (folder / "rounds.jsonl").open("a") as lines:
        lines.write('{"round": 3, "evaluation"')  # the line that a kill cut short
    torch.save({"visits": 77}, folder / "clients" / "0-3.pt")  # of the round that did not end
    made = play(folder, 3)
    assert [line.round for line in made] == [0, 1, 2, 3]
    assert made[3].clients[0]["visits"] == 3, "rounds 1 and 2 count, the one cut off does not"
    assert made[3].evaluation["sum"] == pytest.approx(made[2].evaluation["sum"] + 3 * 4)
    assert play(folder, 3) == made, "nothing is left to play"
    weights = torch.load(folder / "weights.pt", weights_only=True)
    assert float(weights["w"].sum()) == made[3].evaluation["sum"]


def test_the_weights_of_the_last_round_are_there_whenever_it_ends(faulty, tmp_path):
    folder = shutil.copytree(faulty[0], tmp_path / "copy")
    newest = torch.load(folder / "federation.pt", weights_only=True)["weights"]
    weights = torch.load(folder / "weights.pt", weights_only=True)
    assert all(torch.equal(weights[name], newest[name]) for name in newest)
    torch.save({"w": torch.zeros(3)}, folder / "weights.pt")  # as a kill between the two leaves it
    play(folder, 2)
    weights = torch.load(folder / "weights.pt", weights_only=True)
    assert torch.equal(weights["w"], newest["w"])


def test_fewer_rounds_than_were_played_are_refused(faulty, tmp_path):
    folder = shutil.copytree(faulty[0], tmp_path / "copy")
    before = {file: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    with pytest.raises(RecordError, match="has played 2 rounds, more than the 1 that are asked"):
        play(folder, 1)
    assert {file: file.read_bytes() for file in folder.iterdir() if file.is_file()} == before


@pytest.mark.parametrize("lost", ["rounds.jsonl", "federation.pt", "a line"])
def test_a_folder_that_lacks_rounds_is_damaged(faulty, tmp_path, lost):
    """Kills leave one line too many at most; it would begin anew, or with a gap, otherwise."""
    folder = shutil.copytree(faulty[0], tmp_path / "copy")
    lines = folder / "rounds.jsonl"
    if lost == "a line":
        first, _, last = lines.read_text().splitlines(keepends=True)
        lines.write_text(first + last)
    else:
        (folder / lost).unlink()
    with pytest.raises(RecordError, match=r"rounds\.jsonl is damaged: it should have rounds 0 to"):
        play(folder, 3)


@pytest.mark.slow
def test_only_who_kills_its_process_twice_is_left_out(tmp_path):
    """More clients than processes: those that come after find processes that work."""
    faults = {"5/1": "die", "3/2": "die once"}
    folder = federation(tmp_path / "run", clients=12, faults=faults)
    lines = play(folder, 2, cluster=Cluster(processes=2))
    assert lines[1].isolated == {5: "its process died, twice"}
    assert lines[1].evaluation["sum"] == pytest.approx(3 * (78 - 6) / 11)
    assert lines[2].isolated == {}
    assert lines[2].clients[5]["visits"] == 1
    assert lines[2].clients[3]["visits"] == 2


@pytest.mark.slow
def test_a_client_that_hangs_takes_nobody_down(tmp_path):
    """Of one process, it would keep the others waiting for as long as it hangs."""
    began = time.monotonic()
    folder = federation(tmp_path / "run", faults={"1/1": "sleep"})
    lines = play(folder, 3, timeout=10, cluster=Cluster(processes=1))
    assert time.monotonic() - began < toy.SLEEP / 4
    assert lines[1].isolated == {1: "it did not answer in time"}
    assert [sorted(line.clients) for line in lines[1:]] == [[0, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]


WAITING = """
import sys
from pathlib import Path
import toy
from medbreach_federation import Mean, run_federation
run_federation(Path(sys.argv[1]), toy.build, Mean(), 1)
"""


@pytest.mark.slow
def test_it_can_be_stopped_while_a_client_hangs(tmp_path):
    folder = federation(tmp_path / "run", faults={"1/1": "sleep"})
    memories = folder / "clients"
    with subprocess.Popen(
        [sys.executable, "-c", WAITING, folder], stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as running:  # fmt: skip
        end = time.monotonic() + 120
        while len(list(memories.glob("*.pt"))) < 3:
            assert time.monotonic() < end
            time.sleep(0.1)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
    assert said.endswith("KeyboardInterrupt\n")
    assert "ERROR" not in said
    assert "DEBUG" not in said


@pytest.mark.slow
def test_a_share_of_many_clients_is_drawn_by_the_seed(tmp_path):
    runs = [
        play(federation(tmp_path / name, clients=100), 2, fraction=0.1, seed=seed)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    drawn = [[sorted(line.clients) for line in lines[1:]] for lines in runs]
    assert drawn[0] == drawn[1] != drawn[2]
    assert [len(clients) for clients in drawn[0]] == [10, 10]
    assert runs[0][2].evaluation == runs[1][2].evaluation


def test_too_few_usable_results_end_it_with_the_reason(tmp_path):
    folder = federation(tmp_path / "run", clients=2, faults={"0/1": "nan", "1/1": "raise"})
    with pytest.raises(ContractError, match=r"round 1 has 0 usable results.*no such scanner"):
        play(folder, 1)


def test_fewer_clients_than_the_rule_needs(tmp_path):
    folder = federation(tmp_path / "run")
    with pytest.raises(ConfigError, match="krum needs 5 clients a round, and 4 of 4 take part"):
        run_federation(folder, toy.build, FlowerRule("krum", Strength(malicious=1)), 1)


def test_a_damaged_folder_is_told(tmp_path):
    folder = federation(tmp_path / "run")
    (folder / "federation.pt").write_bytes(b"PK\x03\x04 no")
    with pytest.raises(RecordError, match="is damaged: choose another --out"):
        play(folder, 1)


def test_a_folder_that_another_process_writes_to(tmp_path, monkeypatch):
    monkeypatch.setattr("medbreach_federation.record.PATIENCE", 0.3)
    folder = federation(tmp_path / "run")
    with (
        locked(folder),
        pytest.raises(RecordError, match="another process is writing to"),
    ):
        play(folder, 1)
