"""The whole command: a table, a page, resume, grids, and what it refuses."""

import json
import shutil

import pytest
from running import run_program

from medbreach.cli.codes import Exit
from medbreach.errors import ConfigError
from medbreach.plan import ADAPTIVE
from medbreach.plugins import defenses
from medbreach.record import RunRecord
from medbreach.report.summary import summarise
from medbreach.statistics import wilson
from medbreach.tradeoff.line import Line
from medbreach.tradeoff.points import Leak, Point, front, points
from medbreach.tradeoff.predictions import Interval
from medbreach.tradeoff.prepare import expand
from medbreach.types import Guarantee, Verdict

QUICK = (
    "attack=invertinggradients", "attack.optim.max_iterations=2", "audit.null_draws=1",
    "audit.metrics=[psnr]", "training.rounds=2",
)  # fmt: skip
STACKS = "defense=[none,example_sign]"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tradeoff") / "run"
    return folder, run_program("tradeoff", STACKS, *QUICK, "--out", folder)


def test_it_writes_a_table_and_a_page(done):
    folder, ran = done
    assert ran.code == 0, ran.err
    content = json.loads((folder / "tradeoff.json").read_text())
    assert [p["stack"] for p in content["points"]] == ["none", "example_sign"]
    for point in content["points"]:
        assert 0 <= point["utility"]["accuracy"]["low"] <= point["utility"]["auc"]["high"] <= 1
        assert point["seconds_per_round"] > 0
        assert [leak["attack"] for leak in point["leaks"]] == ["invertinggradients"]
    assert content["points"][0]["cost"]["accuracy"] == {"value": 0, "low": 0, "high": 0}
    assert content["points"][0]["times"] == 1
    page = (folder / "tradeoff.html").read_text()
    assert page.count("<svg") == 2
    assert "http" not in page.replace("http-equiv", "")
    text = (folder / "tradeoff.txt").read_text()
    assert ran.out.strip() == text.strip()
    assert "Saying the most frequent class always is" in text
    assert "example_sign: no attack here adapts to it" in text
    assert (folder / "audit" / "report.html").is_file()


def test_the_same_command_goes_on(done, tmp_path):
    folder, _ = done
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    lines = (copy / "trainings.jsonl").read_text().splitlines()
    (copy / "trainings.jsonl").write_text(lines[0] + "\n" + lines[1][:20])
    findings = copy / "audit" / "findings.jsonl"
    findings.write_text("".join(findings.read_text().splitlines(keepends=True)[:-1]))
    again = run_program("tradeoff", STACKS, *QUICK, "--out", copy)
    assert again.code == 0, again.err
    assert "trained none" not in again.err
    assert "trained example_sign" in again.err

    def stable(folder):
        points = json.loads((folder / "tradeoff.json").read_text())["points"]
        return [(p["stack"], p["utility"], p["cost"], p["leaks"]) for p in points]

    assert stable(copy) == stable(folder)


def test_other_settings_need_another_folder(done):
    folder, _ = done
    ran = run_program("tradeoff", STACKS, *QUICK, "training.learning_rate=0.1", "--out", folder)
    assert ran.code == 2
    assert "holds a trade-off of other settings: choose another --out" in ran.err


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    ran = run_program("tradeoff", *QUICK, "--out", tmp_path)
    assert ran.code == 2
    assert "holds something else" in ran.err
    assert [f.name for f in tmp_path.iterdir()] == ["notes.txt"]


def test_a_training_that_comes_to_nothing_is_told(tmp_path):
    settings = [x for x in QUICK if "rounds" not in x]
    ran = run_program(
        "tradeoff", STACKS, *settings, "training.rounds=3", "training.learning_rate=1e20",
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert "the training diverged: lower training.learning_rate" in ran.out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["training.round=3"], "training has no key 'round'; did you mean rounds?"),
        (["training.rounds=0"], "training: rounds must be at least 1, got 0"),
        (["--grid", "example_sign=[1]"], "write DEFENSE.KEY=[V1,V2,...]"),
        (["--grid", "other.std=[1]"], "other is not among the defenses: add it to defense=[...]"),
        (["--grid", "example_sign.most=[1,2]"], "defense has no key 'most'"),
        (["--grid", "example_sign.most_clients=[]"], "write at least one value"),
        (["--grid", "example_sign.name=[x]"], "name is no setting of the defense"),
        (["training.seeds=2"], "training.seeds is 2, but audit.seeds gives 1"),
        (["--grid", "example_sign.k=1", "--grid", "example_sign.k=2"], "is given twice"),
    ],
)
def test_input_that_cannot_be(arguments, sentence, tmp_path):
    ran = run_program("tradeoff", STACKS, *QUICK[:-1], *arguments, "--out", tmp_path / "run")
    assert ran.code == 2
    assert sentence in ran.err
    assert not (tmp_path / "run").exists()


def test_a_network_that_names_no_class_is_refused(tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def build(): return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 1))\n"
        "def loss(x, y): return nn.functional.mse_loss(x[:, 0], y.to(x))\n"
    )
    ran = run_program(
        "tradeoff", *QUICK, "--model", f"{tmp_path}/net.py:build", "--out", tmp_path / "run"
    )
    assert ran.code == 2
    assert "returns outputs of shape (2, 1) for 2 images: accuracy takes (2, 2)" in ran.err
    assert not (tmp_path / "run").exists()


def test_the_audit_beside_it_knows_the_users_network(tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def build(): return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2))\n"
    )
    network = ("--model", f"{tmp_path}/net.py:build")
    ran = run_program("tradeoff", *QUICK, *network, "--out", tmp_path / "run")
    assert ran.code == 0, ran.err
    audit = tmp_path / "run" / "audit"
    findings = audit / "findings.jsonl"
    findings.write_text("".join(findings.read_text().splitlines(keepends=True)[:-1]))
    assert "repeat --model" in run_program("resume", audit).err
    again = run_program("resume", audit, *network, "--fail-on", "never")
    assert again.code == Exit.INCONCLUSIVE, again.err


def test_a_guarantee_that_cannot_be_given_is_refused_before_anything_is_written(
    tmp_path, monkeypatch
):
    def guarantee(self, work):
        if work.rounds is not None:
            raise ConfigError("that is no guarantee over two rounds")

    monkeypatch.setattr(defenses()["example_sign"], "guarantee", guarantee)
    ran = run_program("tradeoff", STACKS, *QUICK, "--out", tmp_path / "run")
    assert ran.code == 2
    assert "that is no guarantee over two rounds" in ran.err
    assert not (tmp_path / "run").exists()


def test_a_defense_that_fails_spoils_its_own_row_only(tmp_path, monkeypatch):
    sign, given = defenses()["example_sign"], Guarantee(2.0, 0.0, "record", "replace one", 2, "So.")
    monkeypatch.setattr(sign, "aggregate", lambda self, updates: 1 / 0)
    monkeypatch.setattr(sign, "guarantee", lambda self, work: given)
    ran = run_program("tradeoff", STACKS, *QUICK, "--out", tmp_path / "run")
    assert ran.code == 0, ran.err
    none, spoilt = json.loads((tmp_path / "run" / "tradeoff.json").read_text())["points"]
    assert none["seeds"] == 1
    assert spoilt["seeds"] == 0
    assert "division by zero" in spoilt["problems"][0]
    assert [g["epsilon"] for g in spoilt["guarantees"]] == [2.0]


def test_the_weakest_guarantee_of_all_seeds_counts(done):
    lines = [
        Line("a", seed, guarantees=(Guarantee(epsilon, 0.0, "record", "replace one", 1, ""),))
        for seed, epsilon in enumerate([1.0, 3.0, 2.0])
    ]
    conclusion = summarise(RunRecord.open(done[0] / "audit")).conclusion
    (found,) = points(lines, {}, conclusion, "none")
    assert [g.epsilon for g in found.guarantees] == [3.0]


def test_an_audit_does_not_train(tmp_path):
    ran = run_program("audit", "training.rounds=3", "--out", tmp_path / "run")
    assert ran.code == 2
    assert "training.rounds has no effect on an audit: leave it out" in ran.err


def test_a_grid_repeats_the_stacks_that_have_the_defense():
    stacks = {
        "none": [],
        "a": [{"label": "a", "name": "x", "std": 1}],
        "a+b": [{"label": "a", "name": "x", "std": 1}, {"label": "b", "name": "y"}],
        "b": [{"label": "b", "name": "y"}],
    }
    found = expand(stacks, {"a.std": [2, 3], "b.k": ["v"]})
    assert list(found) == [
        "none", "a std=2", "a std=3", "a std=2+b k=v", "a std=3+b k=v", "b k=v",
    ]  # fmt: skip
    assert found["a std=3+b k=v"] == [
        {"label": "a std=3", "name": "x", "std": 3}, {"label": "b k=v", "name": "y", "k": "v"},
    ]  # fmt: skip
    assert stacks["a"][0]["std"] == 1


def point(name, leaked, accuracy):
    leak = Leak("attack", wilson(leaked, 10), 20.0, Verdict.LEAK)
    utility = {"accuracy": Interval(accuracy, accuracy, accuracy)}
    return Point(name, utility, {}, 1.0, 1.0, (leak,), (), (), 1)


def test_the_front_is_what_nothing_beats():
    found = [
        point("none", 9, 0.9), point("good", 3, 0.88), point("as good", 3, 0.88),
        point("worse", 5, 0.85), point("safe", 0, 0.6), point("silly", 9, 0.5),
    ]  # fmt: skip
    assert [p.stack for p in front(found)] == ["safe", "good", "as good", "none"]


def test_the_worst_attack_counts():
    plain = Leak("a", wilson(0, 10), 30.0, Verdict.NO_LEAK)
    knowing = Leak(f"a{ADAPTIVE}", wilson(4, 10), 20.0, Verdict.LEAK)
    refused = Leak("b", wilson(0, 0), None, Verdict.REFUSED)
    found = Point("x", {}, {}, None, None, (plain, knowing, refused), (), (), 0)
    assert found.worst == knowing
    assert found.judged_by_adaptive
