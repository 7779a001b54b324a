"""Checks of outgoing filters, and of what they let pass."""

from medbreach_dp_lint.accounting import Linted
from medbreach_dp_lint.checks.finding import Finding, some, words


def not_private(case: Linted) -> Finding | None:
    """Find a filter that looks like privacy and is none."""
    names = _of_kind(case, "heuristic")
    if not names or case.said.mechanism == "svt":
        return None
    return Finding(
        "not-dp-filter",
        "error",
        f"{some(names)} cuts values off and adds no noise: what is kept leaves as it is, and no "
        "epsilon holds.",
        "Do not call it differential privacy; clip the update and add noise at the client.",
    )


def unknown_filter(case: Linted) -> Finding | None:
    """Find a filter of which nothing is known here."""
    names = _of_kind(case, "unknown")
    if not names:
        return None
    return Finding(
        "unknown-filter",
        "error",
        f"{some(names)} {'is' if len(names) == 1 else 'are'} not known here, and counted as no "
        "protection.",
        "Read what it does, and lint its numbers as plain numbers.",
    )


def only_encrypted(case: Linted) -> Finding | None:
    """Tell that encryption is no differential privacy."""
    names = _of_kind(case, "encryption")
    if not names or case.said.mechanism != "none":
        return None
    return Finding(
        "encryption-only",
        "error",
        f"{some(names)} hides single updates from the server, and what is decrypted, the sum, "
        "has no noise.",
        "Add noise before the encryption.",
    )


def release_unpaid(case: Linted) -> Finding | None:
    """Find that SVTPrivacy's epsilon leaves the release out."""
    said = case.said
    if said.mechanism != "svt":
        return None
    released = said.svt.released(said.parameters)
    return Finding(
        "svt-release-budget",
        "error" if released > said.svt.selection else "note",
        f"SVTPrivacy's epsilon {words(said.svt.selection)} pays only for choosing values; sending "
        f"{said.svt.uploaded(said.parameters):,} of {said.parameters:,} takes {words(released)} "
        "more in each round.",
        "Set epsilon_release, and state the sum of both over all rounds.",
    )


def scalars_pass(case: Linted) -> Finding | None:
    """Tell what SVTPrivacy's account does not cover."""
    if case.said.mechanism != "svt":
        return None
    return Finding(
        "svt-not-covered",
        "note",
        "SVTPrivacy sends scalars, such as BatchNorm's counters, without noise, and may accept "
        "more values than its selection is accounted for; its sum covers neither.",
        "Take the sum as the class's own, not as proven.",
    )


def buffers_sent(case: Linted) -> Finding | None:
    """Find BatchNorm where records are to be protected."""
    said = case.said
    if said.mechanism != "noise" or said.unit != "record" or not said.network.batch_norm:
        return None
    sent = ""
    if said.network.buffers_sent:
        sent = ", and its running mean and variance leave without noise"
    return Finding(
        "batch-norm",
        "error",
        f"BatchNorm mixes the records of a batch, so no gradient belongs to one record{sent}.",
        "Replace BatchNorm by GroupNorm (opacus.validators.ModuleValidator.fix does it).",
    )


def whole_number_buffers(case: Linted) -> Finding | None:
    """Find arrays on which Flower's clipping fails."""
    said = case.said
    network = said.network
    if said.unit != "client" or not (network.batch_norm and network.buffers_sent):
        return None
    return Finding(
        "whole-number-buffers",
        "warning",
        "BatchNorm's counter of batches is a whole number, which Flower's clipping and noise do "
        "not work on: the round fails, or the counter leaves as it is.",
        "Send no buffers, or use GroupNorm.",
    )


def _of_kind(case: Linted, kind: str) -> tuple[str, ...]:
    return tuple(f.name for f in case.said.filters if f.kind == kind)


CHECKS = (
    not_private,
    unknown_filter,
    only_encrypted,
    release_unpaid,
    scalars_pass,
    buffers_sent,
    whole_number_buffers,
)
