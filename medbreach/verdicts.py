"""What a finding is worth: a leak, none, or inconclusive, given the controls beside it."""

import math
from collections.abc import Iterable

from medbreach.plan import ADAPTIVE
from medbreach.statistics import chance, tail, tail_of_draws
from medbreach.types import Finding, Role, Verdict

BROKEN_SCORING = 1e-3  # a blind control's p-value under which the scoring itself is doubted


def judge(finding: Finding, earlier: Iterable[Finding]) -> tuple[Verdict, str]:
    """Return the verdict on a scored finding and the reason, given the controls before it."""
    assert finding.p_value is not None
    if finding.role is Role.BLIND:
        return _judge_blind(finding)
    if finding.role is Role.SOLVABLE:
        return _judge_solvable(finding)
    earlier = list(earlier)
    broken = next((f for f in earlier if f.role is Role.BLIND and is_doubtful(f)), None)
    if broken is not None:
        return Verdict.INCONCLUSIVE, f"the scoring is in doubt: {broken.note}"
    if finding.p_value <= finding.level:
        return Verdict.LEAK, finding.note
    gap = gap_in_controls(finding.attack, earlier)
    if gap:
        return Verdict.INCONCLUSIVE, gap
    if least_p_value([finding]) > finding.level:
        return Verdict.INCONCLUSIVE, (
            f"with {finding.records} records and {finding.decoys} decoys even a perfect "
            "reconstruction could not be told from luck"
        )
    return Verdict.NO_LEAK, finding.note


def gap_in_controls(attack: str, findings: Iterable[Finding]) -> str:
    """Return why an attack's finding nothing says nothing, or ``""``.

    The control of an attack that knows the defenses is that of the attack without them.
    """
    findings = list(findings)
    attack = attack.removesuffix(ADAPTIVE)
    if not any(f.role is Role.BLIND and f.p_value is not None for f in findings):
        return "no blind control could be run beside it"
    control = next((f for f in findings if f.role is Role.SOLVABLE and f.attack == attack), None)
    if control is None:
        return "the attack has no control"
    if control.verdict is not Verdict.SOLVED:
        return (
            f"no more than chance was identified, but the attack failed its control: {control.note}"
        )
    return ""


def least_p_value(findings: Iterable[Finding]) -> float:
    """Return the p-value that findings would have together with every record identified."""
    findings = list(findings)
    return tail(sum(f.records for f in findings), [pool for f in findings for pool in f.pools])


def is_doubtful(blind: Finding) -> bool:
    """Return whether a blind control identifies more than chance can explain."""
    null = blind.null
    if null is None or blind.p_value is None:
        return False
    often = tail_of_draws(null.count, blind.pools, null.total // blind.records)
    return min(often, blind.p_value) < BROKEN_SCORING


def _judge_solvable(finding: Finding) -> tuple[Verdict, str]:
    assert finding.p_value is not None
    if not all(finding.identified):
        return Verdict.INCONCLUSIVE, (
            "the attack does not solve even a case made easy for it, so its settings (too few "
            "steps, say) make it too weak"
        )
    if finding.p_value > finding.level:
        return Verdict.INCONCLUSIVE, (
            f"with {finding.decoys} decoys, solving it cannot be told from luck; it takes "
            f"{math.ceil(1 / finding.level) - 1}"
        )
    return Verdict.SOLVED, ""


def _judge_blind(finding: Finding) -> tuple[Verdict, str]:
    if not is_doubtful(finding):
        return Verdict.NO_LEAK, finding.note
    assert finding.null is not None
    share = finding.null.count / finding.null.total
    return Verdict.INCONCLUSIVE, (
        f"blind claims identify {sum(finding.identified)} of {finding.records} records, and "
        f"{share:.1%} over many draws, where chance is at most {chance(finding.decoys):.1%}"
    )
