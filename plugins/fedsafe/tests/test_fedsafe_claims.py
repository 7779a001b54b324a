"""Verdicts on tables that are made up: what is robustness, what is chance, what is no network."""

import numpy as np
import pytest

from medbreach import Collection, Entry, ImageSpec
from medbreach.tradeoff.predictions import Interval
from medbreach_fedsafe.measures import Answers
from medbreach_fedsafe.reproduction.attackers import CONTROL, FGSM, MAIN, main_attackers
from medbreach_fedsafe.reproduction.claims import (
    claims,
    overhead_shows,
    reduction_shows,
    summary,
    usable,
    warnings,
)
from medbreach_fedsafe.reproduction.run import Made, Row
from medbreach_fedsafe.reproduction.setting import (
    ADVERSARIAL,
    ARMS,
    BOTH,
    NOISE,
    PLAIN,
    QUICK,
    Setting,
)
from medbreach_fedsafe.shares import Roles, Shares

PATIENTS = 200
LABELS = np.arange(PATIENTS) % 2
ENTRIES = [Entry(lambda: None, f"{k}", f"p{k}", k % 2) for k in range(4)]
SHARES = Shares(
    ImageSpec(1, (8, 8)), ("a", "b"), Collection(ImageSpec(1, (8, 8)), ENTRIES, ("a", "b")),
    Roles(((0,),), (1,), (2, 3)),
)  # fmt: skip
WHITE_BOX = "Noise protects against white-box attacks (on oneself)"
TRANSFERRED = "Noise protects against transferred attacks (on others)"
COMPARABLE = "Noise is as robust as conventional adversarial training"
FEWER = "With noise, adversarial training needs fewer images"
REDUCTION = "With noise the attack success rate falls by up to 27%"


def answers(right, fooled, others=None):
    """Shares of images, the first ones of each class: right at first, and fooled of the right."""
    rank = np.arange(PATIENTS) // 2 / (PATIENTS / 2)
    clean = np.where(rank < right, LABELS, 1 - LABELS)
    clean, attacked = np.stack([clean] * 3), np.empty((3, 3, PATIENTS), dtype=int)
    for source in range(3):
        for client in range(3):
            share = fooled if source == client or others is None else others
            attacked[source, client] = np.where(rank < right * share, 1 - clean[0], clean[0])
    return Answers(LABELS, np.arange(PATIENTS), clean, attacked, (0, 1, 2))


def constant():
    same = np.zeros((3, PATIENTS), dtype=int)
    return Answers(LABELS, np.arange(PATIENTS), same, np.stack([same] * 3), (0, 1, 2))


def made_up(arms, *, seeds=1, weak=None, times=1.0):
    """Every arm as told, by name; those that are not told are as plain."""
    setting = Setting(scale=QUICK._replace(seeds=seeds))
    rows = []
    for arm in setting.arms:
        told = arms.get(arm.name, arms[PLAIN])
        each = list(told) if isinstance(told, list) else [told] * seeds
        control = [a if a.clean.std() == 0 else answers(0.8, 0.02) for a in each]
        of = {a.name: each for a in main_attackers(setting.eps, setting.scale)}
        of[CONTROL] = control
        if weak is not None:
            of[weak] = control
        rounds = [(times if arm.name == BOTH else 1.0, 0.1)] * 9
        rows.append(Row(arm, of, rounds, [0.5], False))
    return Made(setting, rows, SHARES, {})


def verdicts(made):
    return {one.claimed: one.shows for one in claims(made)}


ATTACKED = answers(0.8, 0.6)
ROBUST = answers(0.8, 0.1)


def test_what_noise_does_is_told():
    shown = verdicts(made_up({PLAIN: ATTACKED, NOISE: answers(0.8, 0.6, 0.1)}))
    assert shown[WHITE_BOX] == "does not appear"
    assert shown[TRANSFERRED] == "appears"


def test_a_network_that_always_says_the_same_is_no_robustness():
    """It is fooled by nothing: a success rate of 0."""
    made = made_up({PLAIN: ATTACKED, NOISE: constant(), ADVERSARIAL: ATTACKED})
    shown = verdicts(made)
    assert shown[WHITE_BOX] == shown[TRANSFERRED] == shown[COMPARABLE] == "cannot tell"
    assert shown[REDUCTION] == "cannot tell"
    assert summary(made).startswith(
        "In short: nothing can be told of noise here, since the networks"
    )
    assert any("noise (50.0 %)" in words for words in warnings(made))
    baseline = verdicts(made_up({PLAIN: ATTACKED, NOISE: ATTACKED, ADVERSARIAL: constant()}))
    assert baseline[COMPARABLE] == baseline[FEWER] == "cannot tell"
    assert baseline[WHITE_BOX] == "does not appear"


def test_one_training_of_several_that_collapsed_counts():
    good, bad = answers(0.9, 0.5), constant()
    assert usable([good, good, good])
    assert not usable([good, good, bad])
    assert not usable([answers(0.52, 0.5)])
    made = made_up({PLAIN: ATTACKED, NOISE: [ROBUST, ROBUST, bad]}, seeds=3)
    assert verdicts(made)[TRANSFERRED] == "cannot tell"


def test_less_accuracy_is_not_comparable():
    """As rarely fooled, but far less often right."""
    shown = verdicts(
        made_up({PLAIN: ATTACKED, NOISE: answers(0.7, 0.1), ADVERSARIAL: answers(0.95, 0.1)})
    )
    assert shown[COMPARABLE] == "does not appear"
    same = verdicts(made_up({PLAIN: ATTACKED, NOISE: ROBUST, ADVERSARIAL: ROBUST}))
    assert same[COMPARABLE] == "not contradicted"


def test_the_strongest_attacker_decides_on_white_box_attacks():
    """PGD fails under noise, where the other attackers go on as before."""
    made = made_up({PLAIN: ATTACKED, NOISE: ATTACKED})
    rows = [
        row._replace(answers={**row.answers, MAIN: [ROBUST]}) if row.arm.name == NOISE else row
        for row in made.rows
    ]
    assert verdicts(made._replace(rows=rows))[WHITE_BOX] == "does not appear"


def test_retraining_alone_is_no_merit_of_noise():
    """Adversarial training takes 50 points, and noise with it no more than it does alone."""
    arms = {PLAIN: ATTACKED, NOISE: ATTACKED, ADVERSARIAL: ROBUST, BOTH: ROBUST}
    assert verdicts(made_up(arms))[REDUCTION] == "does not appear"
    arms = {PLAIN: ATTACKED, NOISE: answers(0.8, 0.6, 0.1), ADVERSARIAL: ROBUST, BOTH: ROBUST}
    assert verdicts(made_up(arms))[REDUCTION] == "appears"


@pytest.mark.parametrize(
    ("falls", "shows"),
    [
        ([(-0.4, -0.5, -0.28), (0.0, -0.1, 0.1)], "appears"),
        ([(-0.3, -0.4, -0.2), (0.0, -0.1, 0.1)], "cannot tell"),
        ([(-0.1, -0.26, 0.1), (0.0, -0.1, 0.1)], "does not appear"),
    ],
)
def test_a_fall_as_great_as_published(falls, shows):
    assert reduction_shows([Interval(*one) for one in falls]) == shows


@pytest.mark.parametrize(
    ("times", "shows"),
    [
        ((1.045, 1.03, 1.06), "appears"),
        ((1.5, 0.9, 2.6), "cannot tell"),
        ((1.0, 0.9, 1.03), "cannot tell"),
        ((0.9, 0.85, 0.95), "does not appear"),
        ((1.3, 1.2, 1.4), "does not appear"),
    ],
)
def test_what_a_round_costs_more(times, shows):
    assert overhead_shows(Interval(*times)) == shows


def test_the_overhead_is_that_of_both():
    claimed = "A round costs 4 to 5 % more"
    assert verdicts(made_up({PLAIN: ATTACKED}, times=1.045))[claimed] == "appears"
    assert verdicts(made_up({PLAIN: ATTACKED}, times=0.9))[claimed] == "does not appear"


def test_what_intervals_leave_out_is_said():
    one, three = (made_up({PLAIN: ATTACKED}, seeds=n) for n in (1, 3))
    assert "luck in training, of which there is one of each arm, is not" in summary(one)
    assert "the choice of patients explains" in summary(one)
    assert "luck" not in summary(three)
    assert "the choice of patients and trainings explains" in summary(three)
    assert any(w.startswith("3 trainings of each arm") for w in warnings(three))


def test_a_main_attack_that_is_weaker_than_one_step_is_warned_of():
    made = made_up({PLAIN: ATTACKED})
    assert any("the attack of the main tables is too weak" in words for words in warnings(made))
    strong = made_up({PLAIN: ATTACKED}, weak=FGSM)
    assert not any("too weak" in words for words in warnings(strong))


def test_every_arm_that_a_claim_rests_on_is_there():
    assert {row.arm.name for row in made_up({PLAIN: ATTACKED}).rows} >= set(ARMS)
