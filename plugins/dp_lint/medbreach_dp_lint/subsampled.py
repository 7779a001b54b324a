"""The Gaussian mechanism on a Poisson sample, by Opacus' accountants."""

import contextlib
import math
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Final, Literal

import numpy as np

from medbreach_dp_lint.gaussian import epsilon_of, mu_of

PRV_WORK: Final = 3000.0  # epsilon * sqrt(steps), above which PRVs take long; RDP is used (ours)
SEARCH_WORK: Final = 400.0  # likewise, where a noise multiplier is sought with them (ours)
PRV_DELTA: Final = 1e-12  # delta below which PRVs take long (ours)
SEARCH_EPSILON: Final = 100.0  # above which no noise multiplier is sought (ours)
SEARCH_ALL: Final = 10_000_000  # steps above which none is sought with any accountant (ours)
SEARCH_STEPS: Final = 50_000  # likewise (ours)

LEAST: Final = 0.01  # noise multiplier below which accountants may not end (ours)
MOST: Final = 0.99  # likewise, rate above which (ours)
LEFT_OUT: Final = "Gaussian mechanism in closed form, amplification by sampling left out"

Accountant = Literal["prv", "rdp", "gdp"]


@cache
def sampled_epsilon(
    multiplier: float, rate: float, steps: int, delta: float, accountant: Accountant
) -> tuple[float, str]:
    """Return an epsilon for adding or removing one record, and how it was counted.

    Without sampling it is exact. With it, the accountant's number, or that without amplification if
    that is smaller.

    Args:
        multiplier: Standard deviation over sensitivity, above 0.
        rate: Probability of taking part in a step.
        steps: Number of steps.
        delta: At which delta.
        accountant: Which of Opacus' accountants.
    """
    unsampled = epsilon_of(math.sqrt(steps) / multiplier, delta)
    if rate >= 1:
        return unsampled, composed(steps)
    if multiplier < LEAST or rate > MOST or unsampled == math.inf:
        return unsampled, LEFT_OUT
    multiplier, rate = min(multiplier, 1e4), max(rate, 1e-12)  # both count too much, not too little
    if accountant == "gdp":
        return _asked("gdp", multiplier, rate, steps, delta), "Opacus' GDP accountant"
    counted, by = _asked("rdp", multiplier, rate, steps, delta), "Opacus' RDP accountant"
    quick = counted * math.sqrt(steps) <= PRV_WORK and delta >= PRV_DELTA
    if accountant == "prv" and quick:
        counted = min(counted, _asked("prv", multiplier, rate, steps, delta))
        by = "Opacus' PRV accountant"
    if unsampled < counted:
        return unsampled, LEFT_OUT
    return counted, by


def composed(releases: int) -> str:
    """Return how releases without sampling are counted."""
    if releases == 1:
        return "Gaussian mechanism in closed form"
    return f"Gaussian mechanism in closed form, {releases:,} releases composed exactly"


def pair_epsilon(multiplier: float, rate: float, steps: int, delta: float) -> tuple[float, str]:
    """Return a bound on epsilon for replacing one record on a Poisson sample.

    A record is removed and another added: a mechanism that is (e, d)-private for either is
    (2 e, (1 + exp(e)) d)-private for both. Never worse than twice the sensitivity without sampling.

    Args:
        multiplier: Standard deviation over the sensitivity for adding or removing.
        rate: Probability of taking part in a step.
        steps: Number of steps.
        delta: At which delta.
    """
    unsampled = epsilon_of(2 * math.sqrt(steps) / multiplier, delta)
    one = 0.0
    for _ in range(60):
        smaller = delta / (1 + math.exp(min(one, 700.0)))
        after, _ = sampled_epsilon(multiplier, rate, steps, smaller, "rdp")
        if after <= one * (1 + 1e-6):
            return min(2 * one, unsampled), "at most, by removing one and adding another, RDP"
        one = after
        if 2 * one >= unsampled:
            break
    return unsampled, "at most, with twice the sensitivity, amplification by sampling left out"


@cache
def calibrated(
    epsilon: float, delta: float, rate: float, steps: int, accountant: Accountant
) -> float | None:
    """Return the noise multiplier that Opacus takes for an epsilon; None if it takes long."""
    from opacus.accountants.utils import get_noise_multiplier  # type: ignore[import-untyped]

    if rate >= 1:
        return math.sqrt(steps) / mu_of(epsilon, delta)
    slow = accountant == "prv" and (
        epsilon * math.sqrt(steps) > SEARCH_WORK or steps > SEARCH_STEPS or delta < PRV_DELTA
    )
    if rate > MOST or epsilon > SEARCH_EPSILON or steps > SEARCH_ALL or slow:
        return None
    with _quiet():
        try:
            found = get_noise_multiplier(
                target_epsilon=epsilon,
                target_delta=delta,
                sample_rate=rate,
                steps=steps,
                accountant=accountant,
            )
        except (ValueError, ArithmeticError, MemoryError):
            return None
    return float(found) or None


def _asked(
    accountant: Accountant, multiplier: float, rate: float, steps: int, delta: float
) -> float:
    from opacus.accountants import create_accountant  # type: ignore[import-untyped]

    with _quiet():
        made = create_accountant(accountant)
        made.history = [(multiplier, rate, steps)]
        try:
            found = float(made.get_epsilon(delta=delta))
        except (ValueError, ArithmeticError, MemoryError, RuntimeError):
            return math.inf
    return found if math.isfinite(found) and found >= 0 else math.inf


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what accountants warn about: the ends of their grids."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield
