"""The differential privacy of clipped updates with noise, and why there is none otherwise."""

import math

from scipy.optimize import brentq
from scipy.special import log_ndtr

from medbreach_fedsafe.settings import FedSafe


def why_none(settings: FedSafe, *, buffers: bool) -> str:
    """Return why an arm has no epsilon towards the server; empty if it has one.

    Args:
        settings: Of the arm.
        buffers: Whether the network sends buffers.
    """
    if not settings.uplink or settings.sigma == 0:
        return "clients send their weights without noise"
    if settings.max_update_norm is None:
        return (
            "nothing bounds how far one record moves the weights (gradients are clipped, weights "
            "are not), so the sensitivity is unbounded and no noise has an epsilon"
        )
    if buffers:
        return "buffers leave without noise"
    return ""


def epsilon(settings: FedSafe, rounds: int, delta: float) -> float:
    """Return the epsilon of a client's updates over a whole training, towards the server.

    Replacing one of the client's records, or all of them, moves its clipped change by at most twice
    the norm that it is clipped to. The rounds compose as Gaussian mechanisms (Dong, Roth and Su
    2022, doi:10.1111/rssb.12454, corollaries 1 and 2), exactly. It is of the weights: how many
    records a client has, and how long it computes, it tells without noise, so both are taken as
    public.

    Args:
        settings: Of an arm for which `why_none` finds no reason.
        rounds: Of training.
        delta: Probability with which the bound may fail.
    """
    assert settings.max_update_norm is not None
    mu = math.sqrt(rounds) * 2 * settings.max_update_norm / settings.sigma
    return epsilon_of(mu, delta)


def epsilon_of(mu: float, delta: float) -> float:
    """Return the least epsilon of a mu-Gaussian-DP mechanism.

    >>> round(epsilon_of(1.0, 1e-5), 3)
    4.377
    """

    def excess(eps: float) -> float:
        first = log_ndtr(mu / 2 - eps / mu)
        second = eps + log_ndtr(-mu / 2 - eps / mu)
        gap = min(-1e-300, float(second - first))  # rounding may lead to 0 or above it
        return float(first) + math.log(-math.expm1(gap)) - math.log(delta)

    high = mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta)) + 1
    return 0.0 if excess(0.0) <= 0 else float(brentq(excess, 0.0, high, xtol=1e-9, rtol=1e-12))
