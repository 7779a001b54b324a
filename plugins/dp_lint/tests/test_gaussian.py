"""The closed forms, against definitions, other accountants and numbers that are known."""

import math

import numpy as np
import pytest

from medbreach_dp_lint.gaussian import classic_multiplier, delta_of, epsilon_of, mu_of
from medbreach_dp_lint.subsampled import LEFT_OUT, calibrated, pair_epsilon, sampled_epsilon


def delta_by_integration(mu, epsilon):
    """The hockey-stick divergence of N(mu, 1) from N(0, 1), summed on a grid."""
    x = np.linspace(-12, 12 + mu, 400_001)
    p, q = (np.exp(-((x - m) ** 2) / 2) / math.sqrt(2 * math.pi) for m in (mu, 0.0))
    return float(np.maximum(p - math.exp(epsilon) * q, 0).sum() * (x[1] - x[0]))


@pytest.mark.parametrize(("mu", "epsilon"), [(0.1, 0.1), (1.0, 0.5), (1.0, 4.0), (3.0, 10.0)])
def test_delta_is_the_definition(mu, epsilon):
    assert delta_of(mu, epsilon) == pytest.approx(delta_by_integration(mu, epsilon), rel=1e-5)


@pytest.mark.parametrize("mu", [1e-3, 0.3, 1.0, 5.0, 40.0])
@pytest.mark.parametrize("delta", [1e-10, 1e-5, 1e-2])
def test_epsilon_and_mu_invert_delta(mu, delta):
    epsilon = epsilon_of(mu, delta)
    if epsilon == 0:
        assert delta_of(mu, 0.0) <= delta
    else:
        assert delta_of(mu, epsilon) == pytest.approx(delta, rel=1e-6)
        assert mu_of(epsilon, delta) == pytest.approx(mu, rel=1e-6)


def test_huge_and_tiny_sizes_stay_numbers():
    mu = 1e4 / classic_multiplier(10.0, 1e-5)
    assert epsilon_of(mu, 1e-5) == pytest.approx(mu**2 / 2 + 4.2649 * mu, rel=1e-6)
    assert epsilon_of(1e200, 1e-5) == math.inf
    assert epsilon_of(1e-300, 1e-5) == epsilon_of(0.0, 1e-5) == 0.0
    assert 0 < epsilon_of(1.0, 1e-300) < 40


def test_the_classic_formula_holds_below_one_and_fails_at_ten():
    assert epsilon_of(1 / classic_multiplier(0.9, 1e-5), 1e-5) < 0.9
    assert epsilon_of(1 / classic_multiplier(10.0, 1e-5), 1e-5) > 10.0


@pytest.mark.parametrize(("multiplier", "steps"), [(1.0, 1), (4.0, 20), (10.0, 1000)])
def test_composition_is_that_of_google(multiplier, steps):
    pld = pytest.importorskip("dp_accounting.pld.privacy_loss_distribution")
    one = pld.from_gaussian_mechanism(multiplier, use_connect_dots=True)
    theirs = one.self_compose(steps).get_epsilon_for_delta(1e-5)
    assert sampled_epsilon(multiplier, 1.0, steps, 1e-5, "prv")[0] == pytest.approx(
        theirs, rel=1e-3
    )


@pytest.mark.parametrize(
    ("multiplier", "rate", "steps"), [(1.0, 0.01, 1000), (0.8, 0.1, 50), (2.0, 0.3, 20)]
)
def test_sampling_is_that_of_google(multiplier, rate, steps):
    pld = pytest.importorskip("dp_accounting.pld.privacy_loss_distribution")
    one = pld.from_gaussian_mechanism(multiplier, sampling_prob=rate)
    theirs = one.self_compose(steps).get_epsilon_for_delta(1e-5)
    assert sampled_epsilon(multiplier, rate, steps, 1e-5, "prv")[0] == pytest.approx(
        theirs, rel=0.01, abs=0.02
    )
    rdp = sampled_epsilon(multiplier, rate, steps, 1e-5, "rdp")[0]
    assert theirs * 0.999 <= rdp <= theirs * 1.5


def test_replacing_is_bounded_from_above():
    pld = pytest.importorskip("dp_accounting.pld.privacy_loss_distribution")
    accounting = pytest.importorskip("dp_accounting")
    one = pld.from_gaussian_mechanism(
        2.0,
        sampling_prob=0.01,
        neighboring_relation=accounting.NeighboringRelation.REPLACE_ONE,
        value_discretization_interval=1e-3,
    )
    theirs = one.self_compose(100).get_epsilon_for_delta(1e-5)
    bound, _ = pair_epsilon(2.0, 0.01, 100, 1e-5)
    removed, _ = sampled_epsilon(2.0, 0.01, 100, 1e-5, "prv")
    assert removed < theirs <= bound < 4 * removed


def test_sampling_never_hurts_and_extremes_end():
    for multiplier, rate in ((0.3, 0.9), (1e-4, 0.5), (1.0, 1 - 1e-12), (1e-4, 1e-300)):
        epsilon, by = sampled_epsilon(multiplier, rate, 3, 1e-5, "prv")
        assert epsilon <= epsilon_of(math.sqrt(3) / multiplier, 1e-5) * (1 + 1e-9)
    assert by == LEFT_OUT
    assert sampled_epsilon(1e9, 1e-300, 10**15, 1e-5, "prv")[0] < 0.2


def test_a_target_is_reached():
    found = calibrated(3.0, 1e-5, 0.02, 500, "rdp")
    assert 2.9 < sampled_epsilon(found, 0.02, 500, 1e-5, "rdp")[0] <= 3.0
    assert sampled_epsilon(calibrated(2.0, 1e-5, 1.0, 7, "prv"), 1.0, 7, 1e-5, "prv")[0] == (
        pytest.approx(2.0)
    )
    assert calibrated(3.0, 1e-5, 0.02, 10**7, "prv") is None
