"""Checks of what bounds one contribution."""

import math
from typing import Final

from medbreach_dp_lint.accounting import Linted, count_takes_all
from medbreach_dp_lint.checks.finding import Finding, words

NEVER: Final = 10.0  # times the typical norm: a bound that clips next to nothing (ours)
HUGE: Final = 1000.0  # a bound that clips nothing, where no typical norm is given (ours)


def no_clipping(case: Linted) -> Finding | None:
    """Find noise without a bound."""
    said = case.said
    if said.mechanism != "noise" or said.clipping.norm is not None:
        return None
    return Finding(
        "no-clipping",
        "error",
        "Noise is added, but nothing bounds what one contribution can do, so no epsilon holds.",
        "Clip each contribution to a norm, and scale the noise by it.",
    )


def batch_clipping(case: Linted) -> Finding | None:
    """Find that the batch's gradient is clipped."""
    if case.said.clipping.of != "batch" or case.said.clipping.norm is None:
        return None
    return Finding(
        "batch-clipping",
        "error",
        "The gradient of the batch is clipped, not that of each example: one example can turn it "
        "around, so the sensitivity is twice the bound, whatever the batch size.",
        "Clip each example's gradient before they are summed.",
    )


def sensitivity_below_clip(case: Linted) -> Finding | None:
    """Find a sensitivity that is less than what the clipping lets through."""
    clipping = case.said.clipping
    if clipping.norm is None or clipping.sensitivity is None or _is_central(case):
        return None
    if clipping.sensitivity >= clipping.norm * (1 - 1e-9):
        return None
    factor = clipping.norm / clipping.sensitivity if clipping.sensitivity else math.inf
    stated, spent = case.said.claim.epsilon, case.effective.per_round
    tail = ""
    if stated is not None and spent is not None:
        tail = f": epsilon of a round is {words(spent)}, not {words(stated)}"
    return Finding(
        "sensitivity-not-clip",
        "error",
        f"The noise is made for a sensitivity of {words(clipping.sensitivity)}, and a clipped "
        f"contribution can be {words(clipping.norm)}, {words(factor)} times that{tail}.",
        f"Set the sensitivity to the clipping norm, {words(clipping.norm)}.",
    )


def clips_nothing(case: Linted) -> Finding | None:
    """Find a bound that is far above what is to be clipped."""
    norm, typical = case.said.clipping.norm, case.said.clipping.typical
    if norm is None or norm <= (HUGE if typical is None else NEVER * typical):
        return None
    usual = "what gradients and updates have" if typical is None else f"the usual {words(typical)}"
    return Finding(
        "clip-never",
        "warning",
        f"The clipping norm {words(norm)} is far above {usual}: it never clips, and the noise, "
        "which is scaled by it, drowns the update; such settings are often a bound switched off.",
        "Set it near the median norm.",
    )


def count_noise(case: Linted) -> Finding | None:
    """Find noise on the count of clipped contributions that leaves none of the budget."""
    multiplier, std = case.said.noise.multiplier, case.said.count_std
    if not count_takes_all(case.said) or std is None or multiplier is None:
        return None
    return Finding(
        "clipped-count-noise",
        "error",
        f"Adaptive clipping counts the clipped contributions with noise {words(std)}, which alone "
        f"takes the whole budget of the noise multiplier {words(multiplier)}: no noise on the "
        "update can make up for it, and the framework stops with an error.",
        f"Set the noise on the count above {words(multiplier / 2)} (Andrew et al. 2021, theorem "
        "1).",
    )


def _is_central(case: Linted) -> bool:
    return case.said.noise.added_by == "server"


CHECKS = (no_clipping, batch_clipping, sensitivity_below_clip, clips_nothing, count_noise)
