"""The published claims, made again: what is tried, what is said, and a run from end to end."""

import csv
import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medbreach.errors import ConfigError, DataError, RecordError
from medbreach.statistics import wilson
from medbreach_feddetect import (
    FedDetect,
    FedDetectCalibrated,
    Gan,
    GanFederation,
    Poisoning,
    build,
    rules,
    write_setting,
)
from medbreach_feddetect.calibration import threshold_from_runs
from medbreach_feddetect.holdings import hold
from medbreach_feddetect.learner import LAST, MEAN
from medbreach_feddetect.measures.of_round import SHOWN
from medbreach_feddetect.reproduction import numbers
from medbreach_feddetect.reproduction import run as carried_out
from medbreach_feddetect.reproduction.claims import _agreed, claims
from medbreach_feddetect.reproduction.findings import Findings
from medbreach_feddetect.reproduction.numbers import (
    Spread,
    benign,
    flagged_rounds,
    flagged_runs,
    flagged_verdicts,
    losses_of,
    malicious,
)
from medbreach_feddetect.reproduction.run import replayed, reproduce
from medbreach_feddetect.reproduction.setting import (
    ARMS,
    CLIENTS,
    FULL,
    NORMAL,
    QUICK,
    Arm,
    Scale,
    Setting,
)
from medbreach_feddetect.rules import RELEASED_WARM_UP
from medbreach_federation import Instruction, RoundLine, run_federation

TINY = Scale(32, 2, 7, 4, 1, 16, 8, 4, 1, 1)


def on_a_loop(folder, build, rule, rounds, *, seed=0, tell=None, cluster=None):
    """Play a federation in this process: for tests only."""
    import torch

    learner, file = build(folder), folder / "federation.pt"
    weights = learner.first()
    memories = [{} for _ in range(learner.clients)]
    lines = [RoundLine(0, learner.evaluate(0, weights))]
    for r in range(1, rounds + 1):
        made = {
            k: learner.train(Instruction(k, r, weights, memories[k]))
            for k in range(learner.clients)
        }
        memories = [result.memory for result in made.values()]
        aggregate = rule.aggregate(r, weights, made)
        weights = aggregate.weights
        of_clients = {
            k: {**one.measures, **aggregate.of_clients.get(k, {})} for k, one in made.items()
        }
        evaluation = learner.evaluate(r, weights)
        lines.append(RoundLine(r, evaluation, aggregate.measures, of_clients, {}, 0.1))
        if tell:
            tell(lines[-1])
    torch.save({"weights": weights}, file)
    return lines


def lines_of(table):
    """Return a run of the plain mean with such losses."""
    return [
        RoundLine(r, clients={k: {LAST: loss, MEAN: loss} for k, loss in enumerate(row)})
        for r, row in enumerate(table)
    ]


def test_every_arm_is_tried():
    """The five of the source, both rules with and without attack, and never one twice."""
    kinds = {(arm.attack, arm.loss, arm.rule) for arm in ARMS}
    rules = ["mean", "released", "calibrated"]
    robust = {(True, "bce", rule) for rule in ("own", "median", "krum")}
    assert kinds == {*itertools.product([True, False], ["bce", "wgan_gp"], rules)} | robust
    assert len({arm.title for arm in ARMS}) == len({arm.name for arm in ARMS}) == len(ARMS)


def test_full_is_what_was_released():
    assert (FULL.width, FULL.rounds, FULL.warm_up, FULL.local_epochs, FULL.limit) == (
        64, 200, 11, 1, 0,
    )  # fmt: skip
    gan = Setting(scale=FULL).federation(ARMS[-1], 0).gan
    assert (gan.learning_rate, gan.batch_size, gan.penalty, gan.interpolation) == (
        2e-4, 32, 10.0, "normal",
    )  # fmt: skip
    assert NORMAL.warm_up == FULL.warm_up == RELEASED_WARM_UP
    assert QUICK.rounds > QUICK.warm_up


def test_runs_that_others_are_compared_with_are_more():
    quick = Setting(scale=QUICK, seeds=QUICK.seeds)
    runs = {arm.name: quick.seeds_of(arm) for arm in ARMS}
    assert runs.pop("benign-bce-mean") == 20, "19 give a threshold, and one is left out in turn"
    assert runs.pop("attack-bce-mean") == runs.pop("attack-bce-released") == 5
    assert set(runs.values()) == {1}
    assert {dataclasses.replace(quick, seeds=30).seeds_of(arm) for arm in ARMS} == {30}
    few = Setting(scale=QUICK._replace(benign_runs=19), seeds=1)
    assert few.seeds_of(Arm(True, "bce", "own")) == 0


def test_more_runs_can_be_added_to_a_folder():
    one = Setting(scale=QUICK, seeds=1)
    more = dataclasses.replace(one, seeds=5, scale=QUICK._replace(attacked_runs=9))
    assert one.identity == more.identity
    assert one.identity != dataclasses.replace(one, scale=NORMAL).identity


def test_only_attacked_arms_have_a_malicious_client():
    for arm in ARMS:
        assert Setting().federation(arm, 3).poisoning.clients == ((0,) if arm.attack else ())


def test_every_rule_can_be_used_with_so_many_clients():
    assert all(Setting(scale=QUICK).rule(arm.rule).least <= CLIENTS for arm in ARMS)
    with pytest.raises(ConfigError, match="there is no rule best"):
        Setting().rule("best")


def test_data_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="give a folder of pictures"):
        _ = Setting(str(tmp_path / "none")).images


def pictures(folder, count, size=(32, 32)):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for k in range(count):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{k}.png")
    return folder


def test_pictures_without_classes_are_dealt_too(tmp_path):
    """The unconditional arms need no labels; the conditional one is left out."""
    flat = Setting(str(pictures(tmp_path / "flat", 60, (40, 48))), TINY)
    held = hold(flat.federation(ARMS[0], 0))
    assert [tuple(own.images.shape[1:]) for own in held.clients] == [(3, 32, 32)] * 4
    assert flat.conditional(True, 0) is None
    for name in ("a", "b"):
        pictures(tmp_path / "classes" / name, 30)
    assert Setting(str(tmp_path / "classes"), TINY).conditional(True, 0).gan.classes == 2


def test_what_does_not_fit_is_refused_before_anything_is_played(tmp_path):
    """What clients would fail on, each on its own, fails where the federation begins."""
    images = Setting(str(pictures(tmp_path / "flat", 60)), TINY).images
    (tmp_path / "trigger.png").write_text("no picture")
    poisoning = Poisoning((0,), picture=tmp_path / "trigger.png")
    for name, federation, words in (
        ("labels", GanFederation(Gan(classes=2), images=images), "these images have no labels"),
        ("trigger", GanFederation(Gan(), poisoning, images), "trigger.png"),
    ):
        write_setting(tmp_path / name, federation)
        with pytest.raises(DataError, match=words):
            run_federation(tmp_path / name, build, FedDetect(4), 2)
        assert not (tmp_path / name / "rounds.jsonl").exists()


@pytest.mark.parametrize(
    "wrong", [{"data": "nowhere"}, {"inception": Path("nowhere.pth")}], ids=["data", "inception"]
)
def test_what_cannot_be_done_leaves_nothing_behind(tmp_path, wrong):
    """Bad input ends in a sentence and exit code 2, before anything is written."""
    with pytest.raises(DataError, match="nowhere"):
        reproduce(Setting(scale=TINY, **wrong), tmp_path / "run", print)
    assert not (tmp_path / "run").exists()


def test_a_run_in_which_nobody_is_flagged_is_not_played_again():
    calm = lines_of([[5.0 + 0.01 * k + 0.1 * r for k in range(4)] for r in range(12)])
    same = replayed(FedDetectCalibrated(4, 4, rounds=12), calm)
    assert same is not None
    assert [line.clients[0][MEAN] for line in same] == [line.clients[0][MEAN] for line in calm]
    assert all(one["weight"] == 0.25 for line in same[1:] for one in line.clients.values())
    assert not flagged_runs([same]).count
    alarming = lines_of([[5.0, 5.1, 4.9, 30.0]] * 12)
    assert replayed(FedDetect(4, 4), alarming) is None


def test_flags_are_counted_after_the_warm_up_only():
    lines = [
        RoundLine(r, clients={k: {"flagged": float(k == 1 and r in (2, 5))} for k in range(4)})
        for r in range(1, 7)
    ]
    assert flagged_rounds([lines], 3)[:2] == (1, 3)
    assert flagged_rounds([lines], 3, malicious).flagged == 0
    assert flagged_verdicts([lines], 3)[:2] == (1, 12)
    assert flagged_verdicts([lines], 3, benign)[:2] == (1, 9)
    assert flagged_runs([lines, lines[:1]]) == wilson(1, 2)
    assert flagged_runs([lines], malicious).count == 0
    calm = [RoundLine(r, clients={k: {"flagged": 0.0} for k in range(4)}) for r in range(1, 7)]
    both = flagged_rounds([lines, calm], 3).share
    assert both == Spread.of([1 / 3, 0.0]), "rounds of a run are not independent: runs are"


def test_intervals_over_seeds():
    """Student's t with two degrees of freedom: 4.303 standard errors."""
    spread = Spread.of([1.0, 2.0, 3.0])
    assert spread.mean == 2
    assert spread.high == pytest.approx(2 + 4.3027 / 3**0.5, rel=1e-4)
    assert spread.sign == 0
    assert Spread.of([1.0, 1.1, 1.05]).sign == 1
    assert Spread.of([-1.0, -1.1]).sign == -1
    assert Spread.of([4.0]) == (4.0, None, None)
    assert [_agreed(signs) for signs in ([1, 0], [1, 1], [1, -1], [0, 0], [-1, -1])] == [
        0, 1, 0, 0, -1,
    ]  # fmt: skip
    assert Spread.of([]).words() == "no run"
    assert Spread.of([]).sign == 0


def test_it_runs_from_end_to_end(tmp_path, monkeypatch):
    """Tiny networks for a few rounds, in this process; numbers are checked against the record."""
    monkeypatch.setattr(carried_out, "run_federation", on_a_loop)
    monkeypatch.setattr(numbers, "SIMULATED", 40)
    monkeypatch.setattr(numbers, "DRAWN", 5)
    told = []
    setting = Setting(scale=TINY, seeds=1)
    text = reproduce(setting, tmp_path / "run", told.append)
    rows = list(csv.DictReader((tmp_path / "run" / "table.csv").read_text().splitlines()))
    played = [arm for arm in ARMS if arm.rule != "own"]  # for want of benign runs
    assert [row["arm"] for row in rows] == [arm.title for arm in played]
    assert {row["runs"] for row in rows} == {"1"}
    rounds = list(csv.DictReader((tmp_path / "run" / "rounds.csv").read_text().splitlines()))
    assert len(rounds) == len(played) * TINY.rounds * 4
    flagged = {
        (row["arm"], row["seed"], row["round"])
        for row in rounds
        if row["arm"] == "attack-bce-released" and row["flagged"] == "1.0"
    }
    row = next(r for r in rows if r["arm"] == "attack + detection as released")
    of_others = sum(
        row["arm"] == "attack-bce-released" and row["flagged"] == "1.0" and row["client"] != "0"
        for row in rounds
    )
    assert row["false positives"] == f"{of_others / 9:.0%}"
    assert row["true positives"] == f"{(len(flagged) - of_others) / 3:.0%}"
    for words in ("chance: 1 in 4", "simulated rounds", "No published distance", "stand-in"):
        assert words in text
    page = (tmp_path / "run" / "table.html").read_text()
    assert page.count("data:image/png;base64,") == 3 * len(played)
    assert page.count('aria-label="Generator losses"') == len(played)
    other = dataclasses.replace(setting, scale=TINY._replace(rounds=8))
    with pytest.raises(RecordError, match="other settings"):
        reproduce(other, tmp_path / "run", told.append)


def made_up(arm, seed, own, others, rounds=8):
    """Return a run in which client 0 has one loss and the others another, on average."""
    rng = np.random.default_rng([seed, arm.attack])
    lines = [RoundLine(0, {"frechet_distance": 9.0, "kernel_distance": 1.0, SHOWN: 0.0})]
    for r in range(1, rounds + 1):
        clients = {
            k: {MEAN: level + rng.normal(0, 0.05), LAST: level, "weight": 0.25, "flagged": 0.0}
            for k, level in enumerate([own, others, others, others])
        }
        seen = {"frechet_distance": 5.0 + rng.normal(0, 0.1), "kernel_distance": 0.5}
        seen[SHOWN] = 0.2 * arm.attack
        lines.append(RoundLine(r, seen, clients=clients))
    return carried_out.Run(arm, seed, lines, Path("nowhere"))


def said(attacked, failed=0, seeds=4):
    """Return what is said of separation, where an attack leads to such losses."""
    setting = Setting(scale=TINY, seeds=seeds)
    runs = [
        made_up(arm, seed, *(attacked if arm.attack else (2.0, 2.0)))
        for arm in ARMS
        for seed in range(seeds)
    ]
    runs = [
        run._replace(lines=(), failure="client 3 dropped out in round 2: it failed")
        if (run.arm, run.seed) in [(Arm(True, "bce", "mean"), k) for k in range(failed)]
        else run
        for run in runs
    ]
    return dict(claims(Findings.of(setting, runs, {})))


@pytest.fixture
def few_draws(monkeypatch):
    """Make findings quickly, with a forest that always takes client 0 for the outlier."""
    monkeypatch.setattr(numbers, "SIMULATED", 20)
    monkeypatch.setattr(numbers, "DRAWN", 5)
    monkeypatch.setattr(rules, "flagged_by_forest", lambda losses, random_state: [0])


STANDS_OUT = "Does the malicious client's generator loss stand out?"


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ((4.0, 2.0), "The attack makes it stand out."),
        ((4.0, 4.0), "is not shown by these runs"),
        ((1.0, 2.0), "the opposite of the claim"),
    ],
)
def test_a_loss_stands_out_if_it_leads_those_of_others(losses, words, few_draws):
    """An attack that raises all losses alike, through the generator that all share, does not."""
    assert words in said(losses)[STANDS_OUT][0]


def test_a_trigger_that_generated_images_show_is_told(few_draws):
    told = said((4.0, 2.0))["Do generated images show the trigger?"][0]
    assert "by +0.200 (+0.200 to +0.200) of the way" in told
    assert "gets into what everybody generates" in told


def test_a_run_that_a_client_drops_out_of_does_not_count(few_draws):
    told = said((4.0, 2.0), failed=1)
    assert "in 3 of 3 runs with the attack" in told[STANDS_OUT][0]
    assert told["Which runs do not count?"] == [
        "attack, seed 0: client 3 dropped out in round 2: it failed."
    ]
    nothing = said((4.0, 2.0), failed=4)
    assert "no run" in nothing[STANDS_OUT][0]
    assert "is not shown by these runs" in nothing[STANDS_OUT][0]


def test_rules_are_tried_on_all_benign_runs(few_draws):
    told = said((4.0, 2.0))["How often is somebody flagged when nobody is malicious?"]
    found = next(words for words in told if "the losses of all 4 benign federations" in words)
    released, calibrated = found.split("; ")
    assert "as released, somebody would be flagged in 16 of 16 " in released
    assert "at all in 4 of 4 runs" in released
    assert "calibrated, somebody would be flagged in 0 of 16 " in calibrated
    assert "at all in 0 of 4 runs" in calibrated


def test_enough_benign_runs_give_a_threshold_of_their_own(few_draws):
    told = said((4.0, 2.0), seeds=20)["What can the calibrated rule find?"]
    assert len(told) == 3, "in general, without and with gradient penalty"
    assert "threshold from these 20 benign federations" in told[1]
    assert len(said((4.0, 2.0), seeds=19)["What can the calibrated rule find?"]) == 1


def test_a_threshold_from_benign_runs_is_played(tmp_path, monkeypatch):
    """20 benign federations give it; more of them give another, played in a folder of its own."""
    played = []

    def play(federation, rule, place, words, tell):
        arm = next(a for a in ARMS if place.name.startswith(f"{a.name}-"))
        played.append((place.name, getattr(rule, "lead", None)))
        return made_up(arm, federation.seed, 4.0 if arm.attack else 2.0, 2.0).lines

    monkeypatch.setattr(carried_out, "_play", play)
    setting = Setting(scale=TINY._replace(benign_runs=20), seeds=1)
    runs = list(carried_out._runs(setting, tmp_path, print))
    assert [run.arm.rule for run in runs].count("own") == 1
    assert runs[-1].arm == Arm(True, "bce", "own")
    name, lead = played[-1]
    calm = [np.array(losses_of(r.lines)) for r in runs if r.arm == Arm(False, "bce", "mean")]
    assert lead == threshold_from_runs(calm, TINY.warm_up)
    assert f"{lead:.6f}" in name


def test_a_client_that_drops_out_is_told(tmp_path, monkeypatch):
    def play(*_, **__):
        return [RoundLine(0), RoundLine(1, isolated={2: "it failed: it diverged"})]

    monkeypatch.setattr(carried_out, "run_federation", play)
    told = []
    setting = Setting(scale=TINY)
    rule = setting.rule(ARMS[0].rule)
    run = carried_out._run(setting, ARMS[0], 0, tmp_path, None, told.append, rule)
    assert run.failure == "client 2 dropped out in round 1: it failed: it diverged"
    assert "does not count" in told[0]


@pytest.mark.slow
def test_a_federation_on_flower_is_that_of_the_loop(tmp_path):
    """The same numbers from Flower's processes as from this one."""
    federation = Setting(scale=TINY._replace(rounds=3)).federation(ARMS[1], 0)
    kept = {}
    for name, play in (("flower", run_federation), ("loop", on_a_loop)):
        folder = tmp_path / name
        folder.mkdir()
        write_setting(folder, federation)
        kept[name] = play(folder, build, FedDetect(4, 1), 3)
    for one, other in zip(kept["flower"], kept["loop"], strict=True):
        assert one.clients == {k: pytest.approx(v, rel=1e-4) for k, v in other.clients.items()}
        assert one.evaluation == pytest.approx(other.evaluation, rel=1e-3)
