"""Checks of what a configuration says that it gives."""

from dataclasses import replace
from typing import Final

from medbreach_dp_lint.accounting import Linted, effective, own_account
from medbreach_dp_lint.checks.finding import Finding, words

MEANINGLESS: Final = 50.0  # exp(50) = 5e21: even a guess of that improbability may come true (ours)
TOLERANCE: Final = (1.02, 0.02)  # of an epsilon, relative and absolute: what accountants err (ours)


def delta_missing(case: Linted) -> Finding | None:
    """Find Gaussian noise without a delta."""
    if not _needs_delta(case) or case.said.claim.delta is not None:
        return None
    return Finding(
        "delta-missing",
        "error",
        "No delta is given, and an epsilon of Gaussian noise says nothing without one.",
        "Give a delta well below one over the number of those protected.",
    )


def delta_zero(case: Linted) -> Finding | None:
    """Find a delta of 0 with Gaussian noise."""
    if not _needs_delta(case) or case.said.claim.delta != 0:
        return None
    return Finding(
        "delta-zero",
        "error",
        f"delta is 0, and Gaussian noise has no finite epsilon there; {case.said.delta:g} is "
        "counted with.",
        "Give a delta above 0, well below one over the number of those protected.",
    )


def delta_too_large(case: Linted) -> Finding | None:
    """Find a delta with which some could be published as they are."""
    population, delta = case.said.sampling.population, case.said.claim.delta
    if not _needs_delta(case) or population is None or not delta or delta * population < 1:
        return None
    return Finding(
        "delta-too-large",
        "error",
        f"delta {delta:g} is not below one over the {population:,} protected: it would allow "
        "publishing one of them as it is.",
        f"Set delta well below {1 / population:.2g}.",
    )


def adjacency_mixed_up(case: Linted) -> Finding | None:
    """Find a count for adding or removing one where replacing one is claimed."""
    said = case.said
    if said.claim.adjacency != "replace_one" or said.mechanism != "noise" or _holds(case):
        return None
    counted = said.clipping.sensitivity
    full = (said.clipping.norm or 0.0) * said.clipping.weight
    if counted is not None and counted >= 2 * full * (1 - 1e-9):
        return None
    return Finding(
        "adjacency",
        "error",
        "It is said to protect the replacement of one by another, and is counted for adding or "
        "removing one: a replacement moves the sum by up to twice the clipping norm.",
        "Count with twice the clipping norm, or claim adjacency: add_or_remove.",
    )


def replaced(case: Linted) -> Finding | None:
    """Tell what holds where a client's update may be replaced by any other."""
    said = case.said
    if said.unit != "client" or said.mechanism != "noise" or said.claim.adjacency is not None:
        return None
    other = effective(replace(said, claim=replace(said.claim, adjacency="replace_one")))
    if other.training is None or other.training == float("inf"):
        return None
    return Finding(
        "replace-one",
        "note",
        "The numbers are for a client that takes part or sends no change; that its update is "
        f"replaced by any other, as local differential privacy has it, is {words(other.training)}.",
        "Say adjacency: replace_one to count with twice the clipping norm.",
    )


def wrong_unit(case: Linted) -> Finding | None:
    """Find protection that is said to be of another unit than it is."""
    unit, claimed = case.said.unit, case.said.claim.unit
    if claimed is None or claimed == unit:
        return None
    if unit == "client":
        return Finding(
            "unit",
            "warning",
            f"What is clipped is the update of a whole client, so clients are protected, and with "
            f"them each {claimed}, at the same epsilon; numbers of {claimed}s have no place in it.",
            "Claim protects: client, with delta and sampling counted in clients.",
        )
    return Finding(
        "unit",
        "error",
        f"What is clipped is the gradient of one record, so single records are protected, not a "
        f"{claimed}, whose many records add up.",
        f"Claim protects: record, or clip all that one {claimed} contributes as one.",
    )


def understated(case: Linted) -> Finding | None:
    """Find an epsilon below what the configuration's own numbers give."""
    said = case.said
    stated = said.claim.epsilon
    if said.mechanism != "noise" or stated is None or said.noise.calibration != "given":
        return None
    own = own_account(said)
    if said.noise.kind == "laplace":
        own = case.effective
    counted = own.per_round if said.claim.covers == "round" else own.training
    if counted is None or counted <= stated * TOLERANCE[0] + TOLERANCE[1]:
        return None
    return Finding(
        "epsilon-understated",
        "error",
        f"{said.claim.by} is {words(stated)}, and its own noise, sampling and steps give "
        f"{words(counted)}.",
        "State what the accountant gives, or add noise until it gives what is stated.",
    )


def meaningless(case: Linted) -> Finding | None:
    """Find an epsilon that excludes nothing."""
    spent = case.effective.training
    if spent is None or spent <= MEANINGLESS or spent == float("inf"):
        return None
    return Finding(
        "epsilon-meaningless",
        "error",
        f"Epsilon {words(spent)} bounds nothing: the limit here, ours, is {MEANINGLESS:g}, where "
        "odds of one in 5e21 may already become even.",
        "Add noise, clip harder or release less often; noise may still stop an attack, which an "
        "audit can measure and epsilon does not tell.",
    )


def weak_accountant(case: Linted) -> Finding | None:
    """Find the accountant that may count too little."""
    if case.said.accountant != "gdp":
        return None
    return Finding(
        "gdp-accountant",
        "warning",
        "The GDP accountant is an approximation that can count less than what is spent (Gopi et "
        "al. 2021); Opacus calls it experimental.",
        "Use the prv or the rdp accountant.",
    )


def _needs_delta(case: Linted) -> bool:
    return case.said.mechanism == "noise" and case.said.noise.kind == "gaussian"


def _holds(case: Linted) -> bool:
    """Return whether the stated epsilon holds for the claimed adjacency."""
    stated, spent = case.said.claim.epsilon, case.effective.training
    if stated is None or spent is None or case.said.noise.calibration == "accountant":
        return False
    if case.said.claim.covers == "round":
        spent = case.effective.per_round or spent
    return spent <= stated * TOLERANCE[0] + TOLERANCE[1]


CHECKS = (
    delta_missing,
    delta_zero,
    delta_too_large,
    adjacency_mixed_up,
    replaced,
    wrong_unit,
    understated,
    meaningless,
    weak_accountant,
)
