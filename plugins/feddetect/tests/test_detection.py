"""Detectors and penalties, against the released algorithm and against simulated losses."""

import numpy as np
import pytest
import torch

from medbreach.errors import ConfigError, ContractError
from medbreach.statistics import wilson
from medbreach_feddetect import FedDetect, FedDetectCalibrated
from medbreach_feddetect.calibration import (
    WORLDS,
    excess,
    highest_excess,
    highest_lead,
    lead,
    threshold,
    threshold_from_runs,
    world,
)
from medbreach_feddetect.forest import flagged_by_forest
from medbreach_feddetect.learner import LAST, MEAN
from medbreach_federation import Result

CLIENTS = 4


def results(losses):
    """Return what clients with such losses would send: weights that tell who sent them."""
    return {
        k: Result({"w": torch.full((2,), float(k))}, 1, {LAST: loss, MEAN: loss})
        for k, loss in enumerate(losses)
    }


def verdicts(rule, table):
    """Return who was flagged in each round."""
    found = []
    for r, losses in enumerate(table, start=1):
        made = rule.aggregate(r, {}, results(losses))
        found.append([k for k, told in made.of_clients.items() if told["flagged"]])
    return found


def test_the_released_detector_flags_somebody_in_most_benign_rounds():
    """The reference found exactly one of four flagged in 105 of 150 draws of N(5, 1): 70 %."""
    rng = np.random.default_rng(0)
    counts = [len(flagged_by_forest(rng.normal(5, 1, 4).tolist())) for _ in range(60)]
    rate = wilson(sum(count == 1 for count in counts), len(counts))
    assert rate.low < 0.70 < rate.high


def test_identical_losses_are_all_outliers_and_nobody_is_punished():
    assert flagged_by_forest([3.0] * 4) == [0, 1, 2, 3]
    rule = FedDetect(4, warm_up=0)
    assert verdicts(rule, [[3.0] * 4]) == [[]]
    assert rule.weights == [0.25] * 4


def test_three_clients_are_never_judged():
    rng = np.random.default_rng(1)
    rule = FedDetect(3, warm_up=0)
    table = np.abs(rng.normal(5, 3, (20, 3))).tolist()
    assert verdicts(rule, table) == [[]] * 20
    assert any(flagged_by_forest(row) for row in table)


def test_two_malicious_of_four_are_not_found():
    assert verdicts(FedDetect(4, warm_up=0), [[5.0, 5.1, 20.0, 20.1]]) == [[]]


def test_an_unusually_low_loss_is_flagged_too():
    assert flagged_by_forest([5.0, 5.1, 4.9, 0.1]) == [3]


def test_the_released_warm_up_lets_eleven_rounds_pass():
    """``epoch > 10``, counted from zero: the first verdict falls in the twelfth round."""
    table = [[5.0, 5.1, 4.9, 20.0]] * 13
    assert verdicts(FedDetect(4), table) == [[]] * 11 + [[3]] * 2


@pytest.mark.parametrize(("times", "weight"), [(1, 0.231), (2, 0.195), (5, 0.064), (10, 0.0010)])
def test_weights_after_so_many_detections(times, weight):
    rule = FedDetect(4, warm_up=0)
    for _ in range(times):
        rule.punish([1])
    assert rule.weights[1] == pytest.approx(weight, abs=0.0005 if weight > 0.01 else 0.00005)
    raw = 0.9 ** (times * (times + 1) / 2)
    assert rule.weights[1] == pytest.approx(raw / (raw + 3))
    assert sum(rule.weights) == pytest.approx(1)
    assert rule.counts == [0, times, 0, 0]


def test_the_mean_takes_the_weights_of_the_same_round():
    rule = FedDetect(4, warm_up=0)
    made = rule.aggregate(1, {}, results([5.0, 5.1, 4.9, 20.0]))
    others = (1 - 0.9 / 3.9) / 3
    assert made.weights["w"][0].item() == pytest.approx((0 + 1 + 2) * others + 3 * 0.9 / 3.9)
    assert made.of_clients[3]["weight"] == pytest.approx(0.9 / 3.9)
    assert made.of_clients[3]["suspect"] == made.of_clients[3]["flagged"] == 1.0


@pytest.mark.parametrize("kind", [FedDetect, FedDetectCalibrated])
def test_a_rule_goes_on_where_it_was_cut_off(kind):
    rng = np.random.default_rng(3)
    table = np.abs(rng.normal(5, 1, (12, 4))) + np.array([0, 0, 0, 20.0])
    settings = {"warm_up": 4} if kind is FedDetect else {"warm_up": 4, "above": 4.0}
    whole = kind(4, **settings)
    expected = verdicts(whole, table.tolist())
    first = kind(4, **settings)
    verdicts(first, table[:7].tolist())
    second = kind(4, **settings)
    second.go_on(first.keep())
    rest = [
        [
            k
            for k, told in second.aggregate(r, {}, results(row)).of_clients.items()
            if told["flagged"]
        ]
        for r, row in enumerate(table[7:].tolist(), start=8)
    ]
    assert rest == expected[7:]
    assert any(rest)
    assert second.weights == whole.weights


def test_bad_input_of_rules():
    assert FedDetect(5).least == 5
    with pytest.raises(ConfigError, match="compares the losses of all 4 clients, but 3 took part"):
        FedDetect(4).aggregate(1, {}, results([1.0, 2.0, 3.0]))
    with pytest.raises(ContractError, match="client 2 reports a generator loss of nan in round 7"):
        FedDetect(4).aggregate(7, {}, results([1.0, 2.0, float("nan"), 3.0]))
    with pytest.raises(ConfigError, match="decay"):
        FedDetect(4, decay=0)
    with pytest.raises(ConfigError, match="with 3 clients nobody can be told apart"):
        FedDetectCalibrated(3)
    with pytest.raises(ConfigError, match="rounds must be more than the warm-up"):
        threshold(4, 10, rounds=10)
    runs = [np.ones((20, 4))] * 19
    for given, words in (
        ((runs[:18], 10), r"a rate of 0\.05 takes at least 19 benign runs"),
        (([*runs[:18], np.ones((21, 4))], 10), "as many rounds and clients each"),
        ((runs, 20), "more than 20 rounds, but have 20"),
        (([*runs[:18], np.full((20, 4), np.nan)], 10), "leave out runs that diverged"),
        ((runs, 10, 0.0), "rate must lie between 0 and 1, got 0"),
        (([], 10, 1.5), r"rate must lie between 0 and 1, got 1\.5"),
    ):
        with pytest.raises(ConfigError, match=words):
            threshold_from_runs(*given)


def by_hand(history, clients):
    """Return the excess of each client, without any shortcut."""
    scaled = np.arcsinh(np.array(history))
    count = len(scaled)
    blocks = scaled[count // 2 :].mean(0), scaled[count // 4 : count // 2].mean(0)
    compared = max(2, clients - max(1, clients // 2 - 1))
    found = []
    for k in range(clients):
        values = []
        for means in blocks:
            others = np.sort(np.delete(means, k))[:compared]
            spread = others.std(ddof=1) * np.sqrt(1 + 1 / compared)
            values.append((means[k] - others.mean()) / spread)
        found.append(min(values))
    return found


@pytest.mark.parametrize("clients", [4, 5, 7, 10])
@pytest.mark.parametrize("rounds", [4, 5, 23])
def test_the_excess_is_what_it_says(clients, rounds):
    history = np.random.default_rng(clients).gamma(2, 3, (rounds, clients)).tolist()
    assert excess(history) == pytest.approx(by_hand(history, clients), rel=1e-6)
    table = np.array(history)
    every = [max(excess(history[:r])) for r in range(4, rounds + 1)]
    assert max(highest_excess(table, 0)) == pytest.approx(max(every))


def false_alarms(draw, above, warm_up, rounds, runs, clients=CLIENTS):
    rng = np.random.default_rng(77)
    table = draw(rng, runs, rounds, clients)
    return wilson(sum(max(highest_excess(run, warm_up)) > above for run in table), runs)


UNSEEN = {
    "independent rounds": world(),
    "independent rounds, heavy tails": world(noise="t3"),
    "rounds that remember": world(memory=0.9),
    "rounds that remember, heavy tails": world(noise="t3", memory=0.9),
    "a random walk": world(memory=1.0),
    "clients that differ": world("normal", 100.0),
    "clients that differ as much as rounds": world("normal", 1.0, "t3", 0.5),
    "clients that differ a little, walk": world("t3", 5.0, memory=1.0),
}


@pytest.mark.parametrize("name", UNSEEN)
def test_the_calibrated_rule_keeps_its_rate_where_it_was_not_calibrated(name):
    """At most 5 % of benign runs have any false alarm in 60 rounds: 600 runs a world."""
    above = threshold(CLIENTS, 10, rounds=60)
    rate = false_alarms(UNSEEN[name], above, 10, 60, 600)
    assert rate.low <= 0.05, f"{rate.count} of {rate.total}"


def test_it_keeps_its_rate_in_each_world_it_was_calibrated_in():
    above = threshold(CLIENTS, 10, rounds=60)
    rates = {name: false_alarms(draw, above, 10, 60, 600) for name, draw in WORLDS.items()}
    assert all(rate.low <= 0.05 for rate in rates.values()), rates
    assert max(rate.high for rate in rates.values()) > 0.03, "the threshold is far too high"


def test_the_released_rule_does_not():
    rng = np.random.default_rng(0)
    alarmed = sum(
        any(flagged_by_forest(row) for row in rng.normal(5, 1, (6, CLIENTS)).tolist())
        for _ in range(10)
    )
    assert alarmed >= 8


def test_who_stands_out_is_flagged_by_the_calibrated_rule():
    rng = np.random.default_rng(0)
    table = np.exp(rng.normal(1, 0.2, (30, 4)) + np.array([0.1, 0, -0.1, 1.5]))
    rule = FedDetectCalibrated(4, rounds=60)
    found = verdicts(rule, table.tolist())
    assert found[:11] == [[]] * 11
    assert sum(flagged == [3] for flagged in found[11:]) >= 15
    assert rule.weights[3] < 0.01


def test_the_calibrated_rule_is_one_sided():
    table = np.full((30, 4), 5.0) + np.random.default_rng(0).normal(0, 0.1, (30, 4))
    table[:, 2] = 0.1
    assert not any(verdicts(FedDetectCalibrated(4, rounds=60), table.tolist()))


def test_two_malicious_of_ten_do_not_hide_each_other():
    rng = np.random.default_rng(0)
    table = np.exp(rng.normal(1, 0.2, (40, 10)))
    table[:, [2, 7]] *= 8
    found = verdicts(FedDetectCalibrated(10, rounds=40), table.tolist())
    assert found[-1] == [2, 7]


def test_a_threshold_from_benign_runs_is_their_rank():
    """Of 19 runs the highest one; of 39, the second highest."""
    rng = np.random.default_rng(5)
    runs = list(np.abs(rng.standard_cauchy((39, 20, 4))))
    highest = [max(highest_lead(run, 8)) for run in runs]
    assert threshold_from_runs(runs[:19], 8) == max(highest[:19])
    assert threshold_from_runs(runs, 8) == sorted(highest)[-2]


def test_a_threshold_from_benign_runs_keeps_the_rate():
    """400 federations of a kind that no world is like: 19 runs to calibrate, one to watch."""
    rng = np.random.default_rng(6)
    alarms = 0
    for _ in range(400):
        shift = rng.standard_cauchy((20, 1, 4))
        runs = np.abs(shift + rng.standard_cauchy((20, 16, 4)))
        alarms += max(highest_lead(runs[-1], 8)) > threshold_from_runs(list(runs[:-1]), 8)
    assert wilson(int(alarms), 400).low <= 0.05


@pytest.mark.parametrize("spread", [0.5, 5.0, 20.0])
@pytest.mark.parametrize("memory", [0.0, 1.0])
def test_losses_of_critics_keep_the_rate_on_the_plain_scale(spread, memory):
    """Their level and sign mean nothing: clients differ for good around zero."""
    rng, above = np.random.default_rng(8), threshold(CLIENTS, 8, rounds=32)
    noise = rng.standard_normal((1000, 32, CLIENTS))
    walk = np.cumsum(noise, axis=1) if memory else noise
    losses = spread * rng.standard_normal((1000, 1, CLIENTS)) + walk
    alarms = sum(max(highest_excess(run, 8, "plain")) > above for run in losses)
    assert wilson(alarms, 1000).low <= 0.05
    for score in (highest_excess, highest_lead):
        assert score(losses[0] + 100, 8, "plain") == pytest.approx(score(losses[0], 8, "plain"))


def test_a_rule_judges_on_its_scale():
    losses = [[-3.0, -2.5, -3.5, 4.0], [-3.1, -2.4, -3.3, 4.2]] * 8
    plain = FedDetectCalibrated(4, 0, above=1.0, scale="plain")
    verdicts(plain, losses)
    assert [plain.scores(k)["excess"] for k in range(4)] == excess(losses, "plain")
    assert excess(losses, "plain") != excess(losses)


@pytest.mark.parametrize("clients", [4, 10])
def test_the_lead_is_what_it_says(clients):
    table = np.random.default_rng(clients).gamma(2, 3, (23, clients))
    means = np.arcsinh(table[11:]).mean(0)
    compared = {4: 3, 10: 6}[clients]
    by_hand = [means[k] - np.sort(np.delete(means, k))[:compared].mean() for k in range(clients)]
    assert lead(table.tolist()) == pytest.approx(by_hand)
    every = [lead(table[:r].tolist()) for r in range(9, 24)]
    assert highest_lead(table, 8) == pytest.approx(np.max(every, axis=0))


def test_benign_runs_of_ones_own_find_what_the_simulated_threshold_misses():
    """A loss a third higher, where benign clients differ by a tenth: too few to tell by spread."""
    rng = np.random.default_rng(9)

    def run():
        return np.exp(rng.normal(0, 0.1, (1, 4)) + rng.normal(1, 0.1, (32, 4)))

    own = threshold_from_runs([run() for _ in range(39)], 8)
    found = {"own": 0, "simulated": 0}
    for _ in range(20):
        attacked = run() * np.array([1.6, 1, 1, 1])
        for name, rule in (
            ("own", FedDetectCalibrated(4, 8, lead=own)),
            ("simulated", FedDetectCalibrated(4, 8, rounds=32)),
        ):
            found[name] += [0] in verdicts(rule, attacked.tolist())
    assert found["own"] >= 16
    assert found["simulated"] <= 5
