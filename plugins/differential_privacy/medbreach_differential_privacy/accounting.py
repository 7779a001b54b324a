"""What differential privacy noise gives: closed forms, and Opacus' accountants where there is none.

A Gaussian mechanism is told by one number, ``mu``: the sensitivity in standard deviations of the
noise. Mechanisms of ``mu`` each that are composed k times are one of ``sqrt(k) mu`` (Dong et al.
2022, arXiv:1905.02383), so that a training without subsampling has an exact epsilon.
"""

import math
import warnings

import numpy as np
from scipy.optimize import brentq
from scipy.special import erfcx, ndtr

LEAST = -37.0
"""Where the normal distribution has no mass left that a double can hold."""

GRID = 1e7
"""Points of the grid beyond which Opacus' PRV accountant is not asked (ours: half a gigabyte)."""


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Return the least epsilon of a Gaussian mechanism at a delta (Balle & Wang 2018, theorem 8).

    The theorem's ``delta = Phi(mu/2 - e/mu) - exp(e) Phi(-mu/2 - e/mu)`` is solved for
    ``t = mu/2 - e/mu``, with the exponential inside the second term: nothing overflows, however
    large epsilon is.

    Args:
        mu: Sensitivity in standard deviations of the noise.
        delta: Above 0 and below 1.
    """
    if mu == 0:
        return 0.0
    if mu == math.inf:
        return math.inf

    def excess(t: float) -> float:
        return float(ndtr(t) - math.exp(-t * t / 2) * erfcx((mu - t) / 2**0.5) / 2) - delta

    if excess(mu / 2) <= 0:  # even epsilon 0 has a smaller delta
        return 0.0
    t = float(brentq(excess, LEAST, mu / 2, xtol=1e-13))
    return max(0.0, mu * (mu / 2 - t))


def laplace_epsilon(sensitivity: float, scale: float, rounds: int) -> float:
    """Return the pure epsilon of Laplace noise, summed over rounds.

    Args:
        sensitivity: Greatest L1 distance of what two neighbours send.
        scale: Diversity of the noise.
        rounds: How often noise is drawn.
    """
    return math.inf if scale == 0 and rounds else rounds * sensitivity / (scale or 1.0)


def sampled_epsilon(
    noise_multiplier: float, sample_rate: float, steps: int, delta: float, accountant: str
) -> tuple[float, str]:
    """Return Opacus' epsilon of DP-SGD, and which accountant gave it.

    Opacus' PRV accountant overflows, or needs a grid too large for memory, where epsilon is in the
    hundreds; then its RDP accountant gives a greater bound.

    Args:
        noise_multiplier: Deviation of the noise on the sum, in clipping norms; above 0.
        sample_rate: Probability with which a step takes a record, at most 1.
        steps: Steps of the training, at least 1.
        delta: Above 0 and below 1.
        accountant: ``prv`` or ``rdp``.
    """
    from opacus.accountants import PRVAccountant, RDPAccountant  # slow to import

    history = [(noise_multiplier, sample_rate, steps)]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # orders at the end of the list: still a bound
        rdp = RDPAccountant()
        rdp.history = history
        bound = float(rdp.get_epsilon(delta))
        points = 200 * bound * math.sqrt(steps * math.log(12_000 / delta) / 2)
        if accountant == "prv" and points < GRID:
            prv = PRVAccountant()
            prv.history = history
            epsilon = float(prv.get_epsilon(delta))
            if math.isfinite(epsilon):
                return epsilon, "Opacus' PRV accountant"
    return bound, "Opacus' RDP accountant"


def check_accounting(delta: float, rounds: int) -> None:
    """Check settings of an accountant.

    Raises:
        ValueError: They are out of range.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie above 0 and below 1, got {delta}")
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
