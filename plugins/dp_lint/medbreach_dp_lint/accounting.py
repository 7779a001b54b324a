"""What a configuration states of its epsilon, and what it has, per round and over the training."""

import math
from dataclasses import dataclass

from medbreach_dp_lint.configuration import Configuration, Schedule
from medbreach_dp_lint.gaussian import epsilon_of
from medbreach_dp_lint.subsampled import composed, pair_epsilon, sampled_epsilon


@dataclass(frozen=True)
class Account:
    """Two epsilons, at the configuration's delta.

    Attributes:
        per_round: Of one round; None if nothing says it.
        training: Of all rounds; None if nothing says it.
        by: How they were counted, half a sentence.
    """

    per_round: float | None
    training: float | None
    by: str


@dataclass(frozen=True)
class Linted:
    """A configuration with its epsilons.

    Attributes:
        said: The configuration.
        nominal: What it states, or what its own way of counting gives.
        effective: What the mechanism has, by what is known of it.
    """

    said: Configuration
    nominal: Account
    effective: Account


def linted(said: Configuration) -> Linted:
    """Return a configuration with its epsilons."""
    return Linted(said, nominal(said), effective(said))


def nominal(said: Configuration) -> Account:
    """Return what a configuration states; else what its accountant would say."""
    claim, rounds = said.claim, said.schedule.rounds
    if claim.epsilon is None:
        return own_account(said)
    by = f"{claim.by}, as configured"
    if claim.recurs or claim.covers == "round":
        stated_as_total = claim.covers != "round" or rounds == 1
        return Account(claim.epsilon, claim.epsilon if stated_as_total else None, by)
    return Account(claim.epsilon if rounds == 1 else None, claim.epsilon, by)


def own_account(said: Configuration) -> Account:
    """Return what the configuration's accountant says when it is told what is configured.

    Only Gaussian noise with a multiplier is counted; it is taken at its word on sampling, on the
    sensitivity and on the steps.
    """
    multiplier, schedule = said.noise.multiplier, said.schedule
    if said.mechanism != "noise" or said.noise.kind != "gaussian" or not multiplier:
        return Account(None, None, "nothing to count")
    rate = said.sampling.rate if said.sampling.amplified else 1.0
    accountant = said.accountant or "prv"
    steps = schedule.accounted or schedule.total
    by_round = min(schedule.steps, steps)
    once, _ = sampled_epsilon(multiplier, rate, by_round, said.delta, accountant)
    whole, by = sampled_epsilon(multiplier, rate, steps, said.delta, accountant)
    return Account(once, whole, f"{by}, as configured")


def effective(said: Configuration) -> Account:
    """Return what a configuration's mechanism gives to whom it protects."""
    if said.mechanism == "svt":
        return _sparse_vector(said)
    reason = unprotected(said)
    if reason is not None:
        return Account(math.inf, math.inf, reason)
    if said.noise.kind == "laplace":
        return _laplace(said)
    return _gaussian(said)


def unprotected(said: Configuration) -> str | None:
    """Return why no epsilon holds; None if one does."""
    noise = said.noise
    reasons = [
        (said.mechanism == "none", "nothing adds noise"),
        (not noise.scale, "no noise is added"),
        (said.clipping.norm is None, "no clipping bounds what one contribution can do"),
        (bool(noise.bare), "some layers get no noise"),
        (said.unit == "record" and said.network.batch_norm, "BatchNorm mixes the records"),
        (count_takes_all(said), "the noise on the count of clipped updates takes the whole budget"),
    ]
    return next((words for holds, words in reasons if holds), None)


def count_takes_all(said: Configuration) -> bool:
    """Return whether the count of adaptive clipping leaves nothing for the update."""
    multiplier, std = said.noise.multiplier, said.count_std
    return std is not None and bool(multiplier) and (multiplier or 0.0) >= 2 * std


def sensitivity(said: Configuration) -> float | None:
    """Return how far one record or client can move what the noise is added to.

    Twice the bound when it may be replaced by another, and when the batch's gradient is clipped,
    which any record may turn around.
    """
    clipping = said.clipping
    if clipping.norm is None:
        return None
    bound = clipping.norm * clipping.weight
    turned = said.adjacency == "replace_one" or clipping.of == "batch"
    order = math.sqrt(said.parameters) if _misfits(said) else 1.0
    return bound * order * (2.0 if turned else 1.0)


def releases(said: Configuration, schedule: Schedule) -> tuple[int, int]:
    """Return in how many releases of a round, and of the training, one record can be.

    Args:
        said: The configuration.
        schedule: Its schedule.
    """
    once = schedule.steps
    if said.sampling.method == "shuffle":
        once = math.ceil(round(schedule.steps * said.sampling.rate, 9))
    return once, once * schedule.rounds


def _misfits(said: Configuration) -> bool:
    return said.noise.kind == "laplace" and said.clipping.order == "l2"


def _gaussian(said: Configuration) -> Account:
    scale, moved = said.noise.scale or 0.0, sensitivity(said) or math.inf
    if moved == math.inf or scale == 0:
        return Account(math.inf, math.inf, "the noise is too small to count with")
    sampling, schedule = said.sampling, said.schedule
    if sampling.method == "poisson" and sampling.amplified and sampling.rate < 1:
        return _subsampled(said, scale, moved)
    counts = releases(said, schedule)
    once, whole = (epsilon_of(math.sqrt(n) * moved / scale, said.delta) for n in counts)
    by = composed(counts[1])
    if sampling.method != "poisson" and sampling.rate < 1:
        by += ", without amplification by sampling"
    return Account(once, whole, by)


def _subsampled(said: Configuration, scale: float, moved: float) -> Account:
    rate, schedule, delta = said.sampling.rate, said.schedule, said.delta
    if said.adjacency == "replace_one":
        multiplier = scale / moved * (1.0 if said.clipping.of == "batch" else 2.0)
        once, _ = pair_epsilon(multiplier, rate, schedule.steps, delta)
        whole, by = pair_epsilon(multiplier, rate, schedule.total, delta)
    else:
        once, _ = sampled_epsilon(scale / moved, rate, schedule.steps, delta, "prv")
        whole, by = sampled_epsilon(scale / moved, rate, schedule.total, delta, "prv")
    return Account(once, whole, by)


def _laplace(said: Configuration) -> Account:
    moved = sensitivity(said) or math.inf
    once, whole = (n * moved / (said.noise.scale or 0.0) for n in releases(said, said.schedule))
    return Account(once, whole, "sum over the releases, delta 0, without amplification by sampling")


def _sparse_vector(said: Configuration) -> Account:
    once = said.svt.selection + said.svt.released(said.parameters)
    by = "selection plus release, as the class sums them; rounds summed, delta 0"
    return Account(once, once * said.schedule.rounds, by)
