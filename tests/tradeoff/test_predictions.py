"""Accuracy, AUC and F1 against torchmetrics, and intervals over patients."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_auroc,
    multiclass_f1_score,
)

from medbreach.tradeoff import predictions
from medbreach.tradeoff.predictions import Predictions, auc, cost, measure, utility


def some(n, classes, skill, seed=0, each=1):
    """Predictions that are right the more often the greater the skill."""
    rng = torch.Generator().manual_seed(seed)
    patients = torch.arange(n) // each
    labels = torch.randint(classes, (int(patients.max()) + 1,), generator=rng)[patients]
    logits = torch.randn(n, classes, generator=rng)
    logits[torch.arange(n), labels] += skill
    return Predictions(logits.softmax(1), labels, patients)


@pytest.mark.parametrize("classes", [2, 3, 8])
def test_measures_are_those_of_torchmetrics(classes):
    said = some(400, classes, 1.0)
    found = measure(said)
    p, y = said.probabilities, said.labels
    assert found["accuracy"] == pytest.approx(
        multiclass_accuracy(p, y, classes, average="micro").item(), abs=1e-6
    )
    assert found["auc"] == pytest.approx(multiclass_auroc(p, y, classes).item(), abs=1e-5)
    assert found["f1"] == pytest.approx(multiclass_f1_score(p, y, classes).item(), abs=1e-5)


def test_ties_count_half():
    assert auc(np.array([0.5, 0.5]), np.array([True, False])) == 0.5
    assert auc(np.array([0.5]), np.array([True])) == 0.5, "one class only"


def test_the_interval_covers_as_often_as_it_says():
    """The true accuracy of such predictions, from very many."""
    truth = measure(some(200_000, 2, 1.0, seed=99))["accuracy"]
    inside = 0
    for seed in range(60):
        found = utility([some(60, 2, 1.0, seed)])["accuracy"]
        inside += found.low <= truth <= found.high
    assert inside >= 50


def test_images_of_one_patient_are_no_independent_evidence():
    alone, repeated = some(40, 2, 1.0), some(40, 2, 1.0)
    repeated = Predictions(
        repeated.probabilities.repeat(10, 1),
        repeated.labels.repeat(10),
        repeated.patients.repeat(10),
    )
    a, b = (utility([one])["accuracy"] for one in (alone, repeated))
    assert a.high - a.low == pytest.approx(b.high - b.low, abs=1e-9)


def test_a_cost_is_paired():
    """Two networks that differ on one patient of 40: the interval is far narrower than either's."""
    before = some(200, 2, 1.0, each=5)
    wrong = before.probabilities.clone()
    wrong[:5] = torch.nn.functional.one_hot(1 - before.labels[:5], 2).float()
    after = Predictions(wrong, before.labels, before.patients)
    found = cost([after], [before])["accuracy"]
    right = (before.probabilities[:5].argmax(1) == before.labels[:5]).float().sum().item()
    assert found.value == pytest.approx(-right / 200)
    alone = utility([before])["accuracy"]
    assert found.high - found.low < (alone.high - alone.low) * 0.8
    assert found.low <= found.value <= found.high <= 0


def of_half(seed, hard):
    """Predictions of half of the patients, mostly wrong where the patient is hard."""
    rng = np.random.default_rng(seed)
    patients = rng.permutation(len(hard))[: len(hard) // 2]
    labels = rng.integers(0, 2, len(patients))
    wrong = rng.random(len(patients)) < np.where(hard[patients], 0.85, 0.1)
    said = np.eye(2)[np.where(wrong, 1 - labels, labels)]
    return Predictions(*(torch.from_numpy(x) for x in (said, labels, patients)))


def test_further_seeds_on_the_same_patients_are_no_independent_evidence(monkeypatch):
    """Five seeds test overlapping halves of 120 patients, a quarter of whom are hard to tell."""
    monkeypatch.setattr(predictions, "DRAWS", 100)
    inside, truth = 0, 1 - (0.25 * 0.85 + 0.75 * 0.1)
    for repeat in range(20):
        hard = np.random.default_rng(repeat).random(120) < 0.25
        found = utility([of_half(100 * repeat + seed, hard) for seed in range(5)])["accuracy"]
        inside += found.low <= truth <= found.high
    assert inside >= 18
    one = some(60, 2, 1.0)
    alone, again = (utility([one] * seeds)["accuracy"] for seeds in (1, 3))
    assert again == pytest.approx(alone)
