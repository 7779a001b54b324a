"""What a configuration gives, as text and as JSON."""

import math
from typing import Any

from medbreach_dp_lint.accounting import Account, Linted, sensitivity
from medbreach_dp_lint.checks import Finding
from medbreach_dp_lint.checks.finding import words

WIDTH = 14


def text(case: Linted, found: list[Finding]) -> str:
    """Return what a person reads: the verdict, the numbers, the findings, the assumptions."""
    said = case.said
    lines = [f"{said.source}: {verdict(case, found)}", f"  {said.framework}"]
    if not _is_infinite(case):
        lines += _table(case)
    for finding in found:
        lines.append(f"{finding.severity} {finding.id}: {finding.wrong}")
        lines.append(f"  right: {finding.right}")
    if all(finding.severity == "note" for finding in found):
        lines.append("nothing wrong found")
    lines += [f"assumed: {sentence}" for sentence in said.assumed]
    return "\n".join(_printable(line) for line in lines)


def verdict(case: Linted, found: list[Finding]) -> str:
    """Return the first line."""
    errors = sum(finding.severity == "error" for finding in found)
    tail = "" if not errors else f"; {errors} error{'s' if errors > 1 else ''}"
    if _is_infinite(case):
        return f"not differential privacy, {case.effective.by}{tail}"
    stated = case.nominal.training
    spent = case.effective.training or 0.0
    differs = case.said.claim.epsilon is not None and stated is not None
    beside = f", where {words(stated)} is stated" if differs and stated is not None else ""
    return (
        f"epsilon {words(spent)} at delta {delta(case):g} per {case.said.unit} over the training "
        f"({_neighbours(case)}){beside}{tail}"
    )


def delta(case: Linted) -> float:
    """Return the delta at which the effective epsilon holds."""
    pure = case.said.mechanism == "svt" or case.said.noise.kind == "laplace"
    return 0.0 if pure else case.said.delta


def plain(case: Linted, found: list[Finding]) -> dict[str, Any]:
    """Return what a machine reads; an epsilon that does not exist, or is infinite, is null."""
    said = case.said
    return {
        "source": said.source,
        "framework": said.framework,
        "verdict": verdict(case, found),
        "differential_privacy": not _is_infinite(case),
        "protects": said.unit,
        "adjacency": said.adjacency,
        "delta": delta(case),
        "rounds": said.schedule.rounds,
        "nominal": _account(case.nominal),
        "effective": _account(case.effective),
        "noise_scale": said.noise.scale,
        "sensitivity": sensitivity(said),
        "findings": [
            {"id": f.id, "severity": f.severity, "wrong": f.wrong, "right": f.right} for f in found
        ],
        "assumed": list(said.assumed),
    }


def _table(case: Linted) -> list[str]:
    rounds = case.said.schedule.rounds
    rows = [
        ("epsilon", "nominal", "effective"),
        ("per round", _cell(case.nominal.per_round), _cell(case.effective.per_round)),
    ]
    if rounds > 1:
        whole = (_cell(case.nominal.training), _cell(case.effective.training))
        rows.append((f"{rounds:,} rounds", *whole))
    lines = ["  " + "".join(cell.ljust(WIDTH) for cell in row).rstrip() for row in rows]
    lines += _mechanism(case)
    lines.append(f"  nominal: {case.nominal.by}")
    lines.append(f"  effective: {case.effective.by}")
    return lines


def _mechanism(case: Linted) -> list[str]:
    noise, moved = case.said.noise, sensitivity(case.said)
    if case.said.mechanism != "noise" or noise.scale is None or moved is None:
        return []
    measure = "standard deviation" if noise.kind == "gaussian" else "scale"
    return [
        f"  noise: {noise.kind}, {measure} {words(noise.scale)}; one {case.said.unit} moves what "
        f"it is added to by up to {words(moved)}"
    ]


def _cell(epsilon: float | None) -> str:
    return "-" if epsilon is None else words(epsilon)


def _neighbours(case: Linted) -> str:
    how = "replace one" if case.said.adjacency == "replace_one" else "add or remove one"
    return f"{how} {case.said.unit}"


def _is_infinite(case: Linted) -> bool:
    return case.effective.training is None or math.isinf(case.effective.training)


def _account(account: Account) -> dict[str, Any]:
    numbers = {"per_round": account.per_round, "training": account.training}
    finite = {k: v if v is not None and math.isfinite(v) else None for k, v in numbers.items()}
    return {**finite, "by": account.by}


def _printable(line: str) -> str:
    return "".join(c if c.isprintable() else "\ufffd" for c in line)
