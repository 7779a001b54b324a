"""The closed forms behind the verdict, against simulation and scipy."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from medbreach.statistics import Pool, chance, masses, tail, tail_of_draws, wilson


@pytest.mark.parametrize(("count", "total"), [(0, 4), (2, 4), (4, 4), (1, 100), (37, 200)])
def test_wilson_equals_scipy(count, total):
    expected = stats.binomtest(count, total).proportion_ci(0.95, method="wilson")
    rate = wilson(count, total)
    assert (rate.low, rate.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_nothing_tried_says_nothing():
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0)


@pytest.mark.parametrize(("records", "decoys"), [(1, 4), (2, 3), (3, 2)])
def test_tail_counts_orders(records, decoys):
    orders = list(itertools.permutations(range(records + decoys)))
    for k in range(records + 1):
        ahead = sum(sum(p > max(order[records:]) for p in order[:records]) >= k for order in orders)
        assert tail(k, [Pool(records, decoys)]) == pytest.approx(ahead / len(orders))


def test_one_record_has_the_chance_level():
    assert tail(1, [Pool(1, 99)]) == chance(99) == 0.01


def test_classes_and_rounds_together_equal_a_simulation():
    pools = [Pool(2, 3), Pool(3, 4), Pool(1, 2)]
    rng = torch.Generator().manual_seed(0)
    draws = 40_000
    total = torch.zeros(draws)
    for pool in pools:
        scores = torch.rand(draws, pool.records + pool.decoys, generator=rng)
        best = scores[:, pool.records :].max(1, keepdim=True).values
        total += (scores[:, : pool.records] > best).sum(1)
    share = float((total >= 2).float().mean())
    assert tail(2, pools) == pytest.approx(share, abs=4 * (share / draws) ** 0.5)


def test_nothing_found_is_no_surprise():
    assert tail(0, [Pool(4, 99), Pool(4, 99)]) == 1.0
    assert sum(masses([Pool(4, 9), Pool(2, 5)])) == pytest.approx(1.0)


def test_the_tail_of_many_draws_is_a_convolution():
    pools = [Pool(4, 9), Pool(2, 5)]
    total = [1.0]
    for _ in range(30):
        total = list(np.convolve(total, masses(pools)))
    for count in (0, 1, 20, 40, 180):
        expected = sum(total[count:])
        assert tail_of_draws(count, pools, 30) == pytest.approx(expected, abs=1e-12)
