"""Checks of who takes part, how often, and how that is counted."""

from medbreach_dp_lint.accounting import Linted, releases
from medbreach_dp_lint.checks.finding import Finding, words


def no_poisson(case: Linted) -> Finding | None:
    """Find that amplification by sampling is counted on without Poisson sampling."""
    sampling = case.said.sampling
    if not sampling.amplified or sampling.rate >= 1 or sampling.method == "poisson":
        return None
    how = "shuffled batches" if sampling.method == "shuffle" else "a fixed number drawn each time"
    count = releases(case.said, case.said.schedule)[1]
    return Finding(
        "no-poisson-sampling",
        "error",
        f"The accountant counts on Poisson sampling at rate {words(sampling.rate)}, and the "
        f"configuration has {how}: without amplification one contribution is in {count:,} "
        "releases.",
        "Use Poisson sampling (poisson_sampling: true in Opacus), or count without amplification.",
    )


def steps_not_accounted(case: Linted) -> Finding | None:
    """Find steps that the accountant is not told of."""
    schedule = case.said.schedule
    if schedule.accounted is None or schedule.accounted >= schedule.total:
        return None
    return Finding(
        "steps-not-accounted",
        "error",
        f"The accountant is told of {schedule.accounted:,} steps, and {schedule.total:,} are taken "
        f"({schedule.rounds:,} rounds of {schedule.steps:,}).",
        "Account every noisy step of every round.",
    )


def epsilon_per_round(case: Linted) -> Finding | None:
    """Find an epsilon of one round that stands as that of the training."""
    claim, rounds = case.said.claim, case.said.schedule.rounds
    if claim.epsilon is None or not claim.recurs or claim.covers == "round" or rounds == 1:
        return None
    return Finding(
        "epsilon-per-round",
        "error",
        f"{claim.by} {words(claim.epsilon)} is spent in each of {rounds:,} rounds, and nothing "
        f"composes them: over the training it is {words(case.effective.training or 0.0)}.",
        "State the epsilon of the training, or say epsilon_covers: round beside it.",
    )


def wrong_client_count(case: Linted) -> Finding | None:
    """Find noise that is divided by more clients than reply."""
    clipping = case.said.clipping
    if not _uneven(case) or case.said.equal_weights is False:
        return None
    counted = (clipping.norm or 0.0) / (clipping.sensitivity or 1.0)
    replying = 1 / clipping.weight
    return Finding(
        "wrong-client-count",
        "error",
        f"The noise is divided by {words(counted)} clients (num_sampled_clients), and "
        f"{words(replying)} reply: one client weighs {words(counted / replying)} times what the "
        "noise is made for.",
        f"Divide by the least number that replies, {words(replying)}, or skip rounds with fewer.",
    )


def weighted_mean(case: Linted) -> Finding | None:
    """Find a mean in which clients count unequally."""
    if case.said.noise.added_by != "server" or case.said.equal_weights is True:
        return None
    right = "Weigh clients alike, and say equal_weights: true; or say largest_weight."
    if case.said.equal_weights is None:
        return Finding(
            "weights-unknown",
            "warning",
            "FedAvg weighs clients by their number of examples unless told otherwise, and the "
            "noise is made for equal weights: a large client may move the mean further than that.",
            right,
        )
    if not _uneven(case):
        return None
    weight = case.said.clipping.weight
    return Finding(
        "weighted-mean",
        "error",
        f"A client can have a share of {words(weight)} in the mean, and the noise is made for "
        "equal shares.",
        right,
    )


def _uneven(case: Linted) -> bool:
    """Return whether one client moves the mean further than the noise is made for."""
    clipping = case.said.clipping
    if case.said.noise.added_by != "server" or not clipping.sensitivity or not clipping.norm:
        return False
    return clipping.weight * clipping.norm > clipping.sensitivity * (1 + 1e-9)


CHECKS = (no_poisson, steps_not_accounted, epsilon_per_round, wrong_client_count, weighted_mean)
