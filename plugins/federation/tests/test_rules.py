"""Rules against closed forms: Flower's strategies see changes, and whole numbers stay whole."""

import pytest
import torch

from medbreach_federation import FlowerRule, Mean, Result, Strength

BEFORE = {"w": torch.tensor([1.0, -2.0]), "count": torch.tensor(3)}


def results(*changes, records=None):
    records = records or [1] * len(changes)
    return {
        k: Result({"w": BEFORE["w"] + torch.tensor(c), "count": torch.tensor(3 + k)}, n)
        for k, (c, n) in enumerate(zip(changes, records, strict=True))
    }


def test_the_mean_weighs_by_records_or_not():
    sent = results([1.0, 0.0], [4.0, 3.0], records=[2, 1])
    assert torch.allclose(Mean().aggregate(1, BEFORE, sent).weights["w"], torch.tensor([3.0, -1.0]))
    alike = Mean(by_records=False).aggregate(1, BEFORE, sent).weights
    assert torch.allclose(alike["w"], torch.tensor([3.5, -0.5]))
    assert torch.equal(alike["count"], torch.tensor(4))  # 3.5, rounded to even


def test_flowers_average_is_the_mean():
    sent = results([1.0, 0.0], [4.0, 3.0], [0.5, 0.25], records=[2, 1, 5])
    ours, theirs = (r.aggregate(1, BEFORE, sent).weights for r in (Mean(), FlowerRule("fedavg")))
    assert torch.allclose(ours["w"], theirs["w"])
    assert theirs["w"].dtype == torch.float32
    assert torch.equal(ours["count"], theirs["count"])


@pytest.mark.parametrize(
    ("name", "strength", "expected"),
    [
        ("median", Strength(), [2.0, 0.0]),
        ("trimmed_mean", Strength(trimmed=0.2), [7 / 3, -1 / 3]),  # of 2, 2, 3 and of -1, 0, 0
        ("krum", Strength(malicious=1), [2.0, 0.0]),
        ("multi_krum", Strength(malicious=1, selected=3), [5 / 3, -1 / 3]),
    ],
)
def test_robust_rules_leave_the_outlier_out(name, strength, expected):
    sent = results([1.0, -1.0], [2.0, 0.0], [3.0, 1.0], [2.0, 0.0], [900.0, -900.0])
    rule = FlowerRule(name, strength)
    assert rule.least <= 5
    made = rule.aggregate(1, BEFORE, sent).weights
    assert torch.allclose(made["w"], BEFORE["w"] + torch.tensor(expected), atol=1e-6)


def test_krum_tells_small_changes_of_large_weights_apart():
    """Distances from squared norms of the weights themselves would drown in rounding."""
    before = {"w": torch.full((4,), 1e4)}
    changes = [0.01, 0.0101, 0.0102, 0.0101, 0.05]
    sent = {k: Result({"w": before["w"] + c}, 1) for k, c in enumerate(changes)}
    made = FlowerRule("krum", Strength(malicious=1)).aggregate(1, before, sent).weights
    assert torch.allclose(made["w"] - before["w"], torch.full((4,), 0.0101), atol=1e-3)


def test_fedadam_is_its_formula_and_goes_on():
    """Reddi et al. 2020, algorithm 2, with the bias correction of Adam that Flower adds."""
    strength = Strength(server_learning_rate=0.1)
    rule = FlowerRule("fedadam", strength, buffers={"var"})
    before = {"w": torch.zeros(2), "var": torch.tensor([0.5])}
    sent = {0: Result({"w": torch.tensor([1.0, -3.0]), "var": torch.tensor([0.1])}, 1)}
    first = rule.aggregate(1, before, sent).weights
    m, v = 0.1 * torch.tensor([1.0, -3.0]), 0.01 * torch.tensor([1.0, 9.0])
    rate = 0.1 * (1 - 0.99**2) ** 0.5 / (1 - 0.9**2)
    assert torch.allclose(first["w"], rate * m / (v.sqrt() + 1e-3), atol=1e-6)
    assert torch.equal(first["var"], torch.tensor([0.1])), "a variance is averaged, not stepped"
    other = FlowerRule("fedadam", strength, buffers={"var"})
    other.go_on(rule.keep())
    again = {0: Result({"w": first["w"] + 1.0, "var": first["var"]}, 1)}
    ours = rule.aggregate(2, first, again).weights["w"]
    assert torch.equal(ours, other.aggregate(2, first, again).weights["w"])
    fresh = FlowerRule("fedadam", strength, buffers={"var"})
    assert not torch.allclose(ours, fresh.aggregate(2, first, again).weights["w"])


def test_multi_krum_takes_all_but_the_malicious_ones():
    """m = n - f of Blanchard et al. 2017, where nothing else is asked for; krum takes one."""
    sent = {k: Result({"w": torch.tensor(k + 0.0)}, 1) for k in range(5)}
    sent[4] = Result({"w": torch.tensor(900.0)}, 1)
    before = {"w": torch.tensor(0.0)}
    made = FlowerRule("multi_krum").aggregate(1, before, sent).weights["w"]
    assert float(made) == (0 + 1 + 2 + 3) / 4
    six = {**sent, 5: Result({"w": torch.tensor(4.0)}, 1)}
    assert float(FlowerRule("multi_krum").aggregate(1, before, six).weights["w"]) == 10 / 5


def test_a_mean_is_of_the_type_of_what_was_sent():
    before = {"w": torch.zeros(2)}
    sent = {k: Result({"w": torch.ones(2, dtype=torch.float64)}, 1) for k in range(2)}
    assert Mean().aggregate(1, before, sent).weights["w"].dtype == torch.float32


def test_only_what_a_strategy_leaves_is_averaged(monkeypatch):
    """The mean of all tensors in double precision would be thrown away."""
    seen = []

    def mean(sent, shares, likes):
        seen.extend(likes)
        return dict(likes)

    monkeypatch.setattr("medbreach_federation.flower_rule.weighted_mean", mean)
    FlowerRule("median").aggregate(1, BEFORE, results([1.0, 0.0], [2.0, 0.0], [3.0, 0.0]))
    assert seen == ["count"]


@pytest.mark.parametrize(
    ("name", "strength", "least"),
    [
        ("krum", Strength(malicious=2), 7),
        ("krum", Strength(malicious=1, selected=9), 5),
        ("multi_krum", Strength(malicious=0, selected=6), 6),
        ("trimmed_mean", Strength(trimmed=0.1), 10),
        ("median", Strength(), 3),
        ("fedavg", Strength(), 1),
    ],
)
def test_rules_know_how_few_clients_they_make_sense_with(name, strength, least):
    assert FlowerRule(name, strength).least == least
