"""Epsilon where there is one, against another accountant; reasons where there is none."""

import math

import pytest

from medbreach_fedsafe.guarantee import epsilon, epsilon_of, why_none
from medbreach_fedsafe.settings import FedSafe

CLIPPED = FedSafe(uplink=True, sigma=1.0, max_update_norm=0.25)


def test_the_published_arms_have_none():
    assert why_none(FedSafe(), buffers=False) == "clients send their weights without noise"
    assert "sensitivity is unbounded" in why_none(FedSafe(uplink=True), buffers=False)
    assert why_none(CLIPPED, buffers=True) == "buffers leave without noise"
    assert why_none(CLIPPED, buffers=False) == ""


@pytest.mark.parametrize("rounds", [1, 9])
def test_another_accountant_says_the_same(rounds):
    """A replaced record moves an update by twice its norm: noise of 2 sensitivities a round."""
    accounting = pytest.importorskip("dp_accounting")
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant()
    accountant.compose(accounting.GaussianDpEvent(2.0), rounds)
    expected = accountant.get_epsilon(1e-5)
    assert epsilon(CLIPPED, rounds, 1e-5) == pytest.approx(expected, rel=1e-3)


def test_it_is_the_least_epsilon_of_its_definition():
    """delta(epsilon) by quadrature of the two Gaussians."""
    import numpy as np

    mu, delta = 1.7, 1e-3
    eps = epsilon_of(mu, delta)
    x = np.linspace(-12, 14, 400001)
    p, q = (np.exp(-((x - m) ** 2) / 2) / math.sqrt(2 * math.pi) for m in (mu, 0.0))
    mass = np.trapezoid(np.maximum(0.0, p - math.exp(eps) * q), x)
    assert mass == pytest.approx(delta, rel=1e-3)
    assert epsilon_of(1e-6, 0.1) == 0.0
    assert epsilon_of(400.0, 1e-5) > 8e4


@pytest.mark.parametrize("mu", [1e-8, 1e-5, 1e-3, 1.0, 1e4])
@pytest.mark.parametrize("delta", [1e-12, 1e-9, 1e-5])
def test_it_is_there_for_any_noise(mu, delta):
    found = epsilon_of(mu, delta)
    assert 0 <= found <= mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta))
