"""Whole federations on Flower and Ray: what can be worked out by hand, faults, and going on."""

import json
import shutil

import pytest
import torch
import toy

from medbreach.errors import ConfigError, ContractError, RecordError
from medbreach.storage import locked
from medbreach_federation import FlowerRule, Mean, Strength, run_federation

MEAN = {"by_records": False}


def federation(folder, **settings):
    folder.mkdir(exist_ok=True)
    (folder / "toy.json").write_text(json.dumps(settings))
    return folder


def play(folder, rounds, **given):
    return run_federation(folder, toy.build, Mean(by_records=False), rounds, **given)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """Two rounds of four clients, each of whom fails once in its own way."""
    faults = {"1/1": "nan", "2/1": "raise", "3/2": "shape", "0/2": "names"}
    folder = federation(tmp_path_factory.mktemp("faulty") / "run", faults=faults)
    return folder, play(folder, 2)


def test_clients_that_fail_are_named_and_left_out(faulty):
    _, lines = faulty
    assert [line.round for line in lines] == [0, 1, 2]
    assert lines[1].isolated == {
        1: "it returned w with values that are not finite",
        2: "it failed: no such scanner",
    }
    assert lines[2].isolated == {
        0: "it returned other tensors than it was sent",
        3: "it returned w of shape (2,) instead of (3,)",
    }
    first = (1 + 4) / 2  # clients 0 and 3 add 1 and 4 to each of three entries
    assert lines[1].evaluation == {"sum": 3 * first}
    assert lines[2].evaluation == {"sum": 3 * (first + (2 + 3) / 2)}


def test_it_goes_on_after_its_last_round(faulty, tmp_path):
    """What was cut off while a round was played is played again, from the same memories."""
    folder = shutil.copytree(faulty[0], tmp_path / "copy")
    with (folder / "rounds.jsonl").open("a") as lines:
        lines.write('{"round": 3, "evaluation"')  # the line that a kill cut short
    torch.save({"visits": 77}, folder / "clients" / "0-3.pt")  # of the round that did not end
    made = play(folder, 3)
    assert [line.round for line in made] == [0, 1, 2, 3]
    assert made[3].clients[0]["visits"] == 3, "rounds 1 and 2 count, the one cut off does not"
    assert made[3].evaluation["sum"] == pytest.approx(made[2].evaluation["sum"] + 3 * 2.5)
    assert play(folder, 3) == made, "nothing is left to play"


@pytest.mark.slow
def test_a_process_that_dies_is_started_again(tmp_path):
    """Once: as if nothing had been. Every time: the client is left out of the round."""
    faults = {"1/1": "die once", "2/2": "die", "3/3": "sleep"}
    lines = play(federation(tmp_path / "run", faults=faults), 3, timeout=15)
    assert lines[1].isolated == {}
    assert lines[1].evaluation["sum"] == 3 * 2.5
    assert lines[2].isolated == {2: "its process died, twice"}
    assert lines[3].isolated == {3: "it did not answer in time"}
    assert lines[3].clients[2]["visits"] == 2


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
