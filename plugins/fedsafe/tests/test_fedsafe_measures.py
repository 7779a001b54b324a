"""Success rates and AATR on tables made by hand."""

import numpy as np
import pytest

from medbreach_fedsafe.measures import Answers, advantage, change, estimate, rates, strongest

# two clients, four images; client 0 is right on 0, 1, 2, client 1 on 0, 1, 3
LABELS = np.array([0, 0, 1, 1])
CLEAN = np.array([[0, 0, 1, 0], [0, 0, 0, 1]])
BY_0 = [[1, 0, 0, 0], [1, 0, 0, 1]]  # made on 0: fools 0 on images 0 and 2, 1 on image 0
BY_1 = [[0, 0, 1, 1], [1, 1, 1, 0]]  # made on 1: fools 0 on none that it had right, 1 on 0, 1, 3


def answers(patients=(0, 1, 2, 3), attacked=(BY_0, BY_1), sources=(0, 1)):
    return Answers(LABELS, np.array(patients), CLEAN, np.array(attacked), sources)


def test_a_table_by_hand():
    """Accuracy 3/4; self (2/3 + 3/3) / 2; others (1/3 + 0/3) / 2.

    AATR of source 0: on images 0 (both right, both fooled) and 2 (only 0 right): (1 + 1) / 2.
    Of source 1: images 0 and 1 fool one of two, image 3 the only one: (1/2 + 1/2 + 1) / 3.
    """
    found = {name: float(value[0]) for name, value in rates(answers()).items()}
    assert found == pytest.approx(
        {"accuracy": 3 / 4, "asr_self": 5 / 6, "asr_others": 1 / 6, "aatr": (1 + 2 / 3) / 2}
    )


def test_an_answer_that_was_wrong_before_is_no_success():
    """Client 1 was wrong on image 2; that its answer changes there counts nowhere."""
    moved = np.array([BY_0, BY_1])
    moved[:, 1, 2] = 1 - moved[:, 1, 2]
    assert rates(answers(attacked=moved)) == rates(answers())


def test_identical_networks_fool_each_other_as_themselves():
    clean = np.stack([CLEAN[0]] * 3)
    attacked = np.stack([np.stack([BY_0[0]] * 3)] * 3)
    found = rates(Answers(LABELS, np.arange(4), clean, attacked, (0, 1, 2)))
    assert found["asr_self"] == found["asr_others"] == pytest.approx(2 / 3)
    assert found["aatr"] == 1


def test_a_source_that_is_no_client_has_no_self():
    found = estimate([answers(attacked=[BY_0], sources=(None,))])
    assert set(found) == {"accuracy", "asr_others"}
    assert found["asr_others"].value == pytest.approx((2 / 3 + 1 / 3) / 2)


def test_nothing_succeeds():
    found = estimate([answers(attacked=np.stack([CLEAN, CLEAN]))])
    assert found["asr_self"] == found["asr_others"] == (0, 0, 0)
    assert "aatr" not in found


def test_the_interval_is_over_patients_and_not_over_images():
    """Ten images of one patient are no more evidence than one."""
    one = answers()
    same = Answers(
        np.tile(LABELS, 10), np.tile(np.arange(4), 10), np.tile(CLEAN, 10),
        np.tile(np.array([BY_0, BY_1]), 10), (0, 1),
    )  # fmt: skip
    few, many = estimate([one])["accuracy"], estimate([same])["accuracy"]
    assert few == many
    assert few == (0.75, 0.5, 1.0)
    alone = Answers(same.labels, np.zeros(40, dtype=int), same.clean, same.attacked, (0, 1))
    assert estimate([alone])["accuracy"] == (0.75, 0.75, 0.75)


def test_a_change_draws_the_same_patients_for_both():
    """With itself it is nothing, however wide both intervals are."""
    assert change([answers()], [answers()])["asr_self"] == (0, 0, 0)
    better = answers(attacked=np.stack([CLEAN, CLEAN]))
    found = change([better, better], [answers()])
    assert found["asr_self"].value == pytest.approx(-5 / 6)
    assert found["asr_self"].high < 0
    assert "aatr" not in found


def test_answers_that_do_not_fit():
    with pytest.raises(ValueError, match="have shape"):
        answers(sources=(0,))
    with pytest.raises(ValueError, match="4 answers but 3 labels"):
        Answers(LABELS[:3], np.arange(4), CLEAN, np.array([BY_0, BY_1]), (0, 1))


def test_several_seeds_are_drawn_like_patients():
    """Two trainings that differ: their luck is in the interval, however many patients there are."""
    labels, people = np.zeros(500, dtype=int), np.arange(500)

    def fooled(share):
        attacked = (np.arange(500) < 500 * share).astype(int)[None, None]
        return Answers(labels, people, np.zeros((1, 500), dtype=int), attacked, (0,))

    low, high = fooled(0.2), fooled(0.8)
    alone, both = estimate([low, low])["asr_self"], estimate([low, high])["asr_self"]
    assert alone.high - alone.low < 0.1
    assert both.value == pytest.approx(0.5)
    assert both.low < 0.25
    assert both.high > 0.75
    apart = change([low, high], [high, high])["asr_self"]
    assert apart.low < -0.5
    assert apart.high > -0.1
    paired = change([low, high], [low, high])["asr_self"]
    assert paired == (0, 0, 0)


def test_each_training_is_held_against_its_own_commonest_class():
    """90 % right where 80 % are of a class, and 70 % where 50 % are: 10 and 20 points."""

    def one(right, share):
        labels = (np.arange(500) >= 500 * share).astype(int)
        clean = np.where(np.arange(500) % 50 < 50 * right, labels, 1 - labels)[None]
        return Answers(labels, np.arange(500), clean, clean[None], (0,))

    found = advantage([one(0.9, 0.8), one(0.7, 0.5)])
    assert found.value == pytest.approx(0.15)
    assert 0 < found.low < 0.1
    assert advantage([one(0.52, 0.5)]).low < 0


def test_the_strongest_of_several_attacks():
    """An image counts if either fools its network."""
    one, other = answers(), answers(attacked=(BY_1, BY_0))
    hits = [(rates_of.attacked != CLEAN) & (CLEAN == LABELS) for rates_of in (one, other)]
    best = strongest([one, other])
    assert np.array_equal((best.attacked != CLEAN) & (CLEAN == LABELS), hits[0] | hits[1])
    assert float(rates(best)["asr_self"][0]) >= float(rates(one)["asr_self"][0])
