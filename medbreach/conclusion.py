"""What an audit's findings say together."""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from medbreach.plan import Levels
from medbreach.statistics import chance, tail, wilson
from medbreach.types import Finding, Rate, Role, Verdict
from medbreach.verdicts import gap_in_controls, is_doubtful, least_p_value

LOOSE: Final = 0.25  # upper ends of intervals that a reader is warned of


class Cell(NamedTuple):
    """All seeds of one attack on one stack of defenses.

    Attributes:
        attack: Name of the attack's settings.
        defenses: Names of the defenses.
        identified: Identified records over all records, with an interval.
        p_value: Probability of at least so many by luck; None if nothing was scored.
        verdict: What the seeds say together.
        findings: The findings.
    """

    attack: str
    defenses: tuple[str, ...]
    identified: Rate
    p_value: float | None
    verdict: Verdict
    findings: tuple[Finding, ...]


class Conclusion(NamedTuple):
    """The outcome of an audit.

    Attributes:
        verdict: ``leak``, ``no leak found`` or ``inconclusive``.
        sentence: The verdict in one sentence.
        reasons: What else a reader has to know to rely on it.
        cells: What each attack on each stack of defenses showed.
    """

    verdict: Verdict
    sentence: str
    reasons: tuple[str, ...]
    cells: tuple[Cell, ...]


def conclude(
    findings: Iterable[Finding], planned: Sequence[str] = (), alpha: float = 0.05
) -> Conclusion:
    """Return what findings say together.

    An audit leaks if one of its findings does, or if an attack's seeds do together. It is
    inconclusive if nothing leaks but an attack failed, did not apply, did not solve its control, or
    had too few records and decoys to show anything.

    Args:
        findings: All findings of a run.
        planned: Ids of all its attempts; empty if the findings are all there is to be.
        alpha: Probability at most of calling harmless updates a leak.
    """
    findings = list(findings)
    tried = [f for f in findings if f.role is Role.ATTACK]
    keys = dict.fromkeys((f.attack, f.defenses) for f in tried)
    seeds = max(1, len({f.seed for f in tried}))
    levels = Levels.of(alpha, planned) if planned else Levels.sharing(alpha, len(keys), seeds)
    cells = tuple(
        _cell([f for f in tried if (f.attack, f.defenses) == key], findings, levels) for key in keys
    )
    missing = max(0, len(planned) - len(findings))
    reasons = (*_reasons(findings, cells, missing), *_cautions(cells))
    leaks = [c for c in cells if c.verdict is Verdict.LEAK]
    if leaks:
        worst = max(leaks, key=lambda c: c.identified.count / max(1, c.identified.total))
        return Conclusion(Verdict.LEAK, _leak_sentence(worst), reasons, cells)
    closed = (Verdict.NO_LEAK, Verdict.REFUSED)
    if cells and not missing and all(c.verdict in closed for c in cells):
        return Conclusion(Verdict.NO_LEAK, _no_leak_sentence(cells), reasons, cells)
    sentence = "Inconclusive: no leak shows, but not every attack could have shown one."
    if not cells:
        sentence = "Inconclusive: only controls were run, which cannot show a leak."
    if missing:
        sentence = f"Unfinished: {missing} attempts have no finding yet, and no leak shows so far."
    return Conclusion(Verdict.INCONCLUSIVE, sentence, reasons, cells)


def share_leaked(conclusion: Conclusion) -> float:
    """Return the greatest share of records that one leaking attack identified."""
    return max(
        (
            c.identified.count / max(1, c.identified.total)
            for c in conclusion.cells
            if c.verdict is Verdict.LEAK
        ),
        default=0.0,
    )


def false_claims(finding: Finding) -> int:
    """Return the number of claims that identify no record."""
    return finding.claims - sum(finding.identified)


def _cell(tried: Sequence[Finding], findings: Sequence[Finding], levels: Levels) -> Cell:
    scored = [f for f in tried if f.p_value is not None]
    count = sum(sum(f.identified) for f in scored)
    p_value = tail(count, [pool for f in scored for pool in f.pools]) if scored else None
    first = tried[0]
    rate = wilson(count, sum(f.records for f in scored))
    verdict = _verdict(tried, findings, p_value, levels)
    return Cell(first.attack, first.defenses, rate, p_value, verdict, tuple(tried))


def _verdict(
    tried: Sequence[Finding], findings: Sequence[Finding], p_value: float | None, levels: Levels
) -> Verdict:
    doubtful = any(f.role is Role.BLIND and is_doubtful(f) for f in findings)
    pooled = p_value is not None and p_value <= levels.pooled
    if not doubtful and (pooled or any(f.verdict is Verdict.LEAK for f in tried)):
        return Verdict.LEAK
    unscored = {f.verdict for f in tried if f.p_value is None}
    if len(unscored) == 1 and p_value is None:
        return unscored.pop()
    open_question = unscored or doubtful or gap_in_controls(tried[0].attack, findings)
    if open_question or least_p_value(tried) > levels.pooled:
        return Verdict.INCONCLUSIVE
    return Verdict.NO_LEAK


def _leak_sentence(cell: Cell) -> str:
    rate = cell.identified
    pools = [pool for f in cell.findings for pool in f.pools]
    decoys = min(d for _, d in pools)
    least = "" if all(d == decoys for _, d in pools) else "at least "
    defended = f" behind {', '.join(cell.defenses)}" if cell.defenses else ""
    return (
        f"Leak: {cell.attack}{defended} identified {rate.count} of {rate.total} private records "
        f"among {least}{decoys} decoys each (95 % interval {rate.low:.0%} to {rate.high:.0%}; "
        f"chance {'at most ' if least else ''}{chance(decoys):.1%})."
    )


def _no_leak_sentence(cells: Sequence[Cell]) -> str:
    if all(c.verdict is Verdict.REFUSED for c in cells):
        return "No leak found: the client refused what the server sent, so nothing was given away."
    names = list(dict.fromkeys(c.attack for c in cells))
    controls = "its control" if len(names) == 1 else "their controls"
    widest = max((c.identified for c in cells), key=lambda rate: (rate.total > 0, rate.high))
    at_most = "" if len(cells) == 1 else "at most "
    return (
        f"No leak found: {', '.join(names)} identified {at_most}{widest.count} of {widest.total} "
        f"private records (95 % interval {widest.low:.0%} to {widest.high:.0%}), no more than "
        f"chance allows, while solving {controls}."
    )


def _reasons(findings: Sequence[Finding], cells: Sequence[Cell], missing: int) -> Iterable[str]:
    if missing:
        yield f"{missing} attempts have no finding yet: go on with 'medbreach resume'."
    noted = {(f.attack, f.note) for c in cells for f in c.findings if f.verdict in _EXPLAINED}
    for f in findings:
        failed = f.role is Role.SOLVABLE and f.verdict is not Verdict.SOLVED
        if failed and not any(f.attack == attack and f.note in note for attack, note in noted):
            yield f"{f.attack} did not pass its control: {f.note}."
        if f.role is Role.BLIND and f.verdict is Verdict.INCONCLUSIVE:
            yield f"The control {f.attack} failed: {f.note}."
    for cell in cells:
        if cell.verdict is Verdict.NO_LEAK:  # its seeds together answer what each leaves open
            continue
        notes = {f.note for f in cell.findings if f.verdict in _EXPLAINED and f.note}
        for note in sorted(notes):
            yield f"{cell.attack}: {note}."


def _cautions(cells: Sequence[Cell]) -> Iterable[str]:
    """Yield what a reader should know who takes no leak found for safety."""
    quiet = [cell for cell in cells if cell.verdict is Verdict.NO_LEAK]
    loosest = max(quiet, key=lambda cell: cell.identified.high, default=None)
    if loosest is not None and loosest.identified.high > LOOSE:
        rate = loosest.identified
        records = f"{rate.total} private record{'s' * (rate.total != 1)}"
        yield (
            f"{records} cannot show more: that {loosest.attack} identifies up to {rate.high:.0%} "
            "of all records is not ruled out; raise audit.seeds."
        )


_EXPLAINED = (Verdict.NOT_APPLICABLE, Verdict.FAILED, Verdict.REFUSED, Verdict.INCONCLUSIVE)
