"""The Gaussian mechanism in closed form.

A release with sensitivity 1 and noise of standard deviation sigma is mu-GDP with mu = 1 / sigma,
and T of them compose to mu * sqrt(T), exactly (Dong et al. 2022, arXiv:1905.02383). Its delta at
every epsilon is that of Balle and Wang 2018 (arXiv:1805.06530, theorem 8).
"""

import math
from typing import Final

from scipy.optimize import brentq
from scipy.special import erfcx, log_ndtr, ndtr

_FAR: Final = -37.0  # standard deviations; the normal tail beyond it is below 1e-299


def delta_of(mu: float, epsilon: float) -> float:
    """Return the delta of a Gaussian mechanism.

    Args:
        mu: Sensitivity over standard deviation.
        epsilon: At which epsilon.
    """
    if mu == 0:
        return 0.0
    return _delta(mu, mu / 2 - epsilon / mu)


def epsilon_of(mu: float, delta: float) -> float:
    """Return the least epsilon of a Gaussian mechanism.

    With a = mu / 2 - epsilon / mu, delta is Phi(a) - phi(a) R(mu - a), where R is Mills' ratio; in
    this form nothing overflows, whatever mu is.

    Args:
        mu: Sensitivity over standard deviation.
        delta: At which delta, above 0 and below 1.
    """
    if mu == 0 or (mu < 1e9 and _delta(mu, mu / 2) <= delta):
        return 0.0
    top = min(mu / 2, 10.0)
    a = brentq(lambda x: _delta(mu, x) - delta, _FAR, top, xtol=1e-13) if delta > 1e-298 else _FAR
    return float(mu * (mu / 2 - a)) if mu < 1e150 else math.inf


def mu_of(epsilon: float, delta: float) -> float:
    """Return the mu with which a Gaussian mechanism is (epsilon, delta)-private.

    Args:
        epsilon: Above 0.
        delta: Above 0 and below 1.
    """
    high = 1.0
    while delta_of(high, epsilon) < delta:
        high *= 2
    return float(brentq(lambda mu: delta_of(mu, epsilon) - delta, 0.0, high, xtol=1e-14))


def classic_multiplier(epsilon: float, delta: float) -> float:
    """Return sqrt(2 ln(1.25 / delta)) / epsilon, whose proof needs epsilon < 1.

    Dwork and Roth 2014, theorem A.1.
    """
    return math.sqrt(2 * math.log(1.25 / delta)) / epsilon


def _delta(mu: float, a: float) -> float:
    mills = math.sqrt(math.pi / 2) * float(erfcx((mu - a) / math.sqrt(2)))
    density = math.exp(-a * a / 2) / math.sqrt(2 * math.pi)
    first = math.exp(float(log_ndtr(a))) if a < 0 else float(ndtr(a))
    return max(first - density * mills, 0.0)
