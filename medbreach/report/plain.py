"""The report for a terminal or a mail: text."""

from collections.abc import Iterable

from medbreach.conclusion import false_claims
from medbreach.record import RunRecord
from medbreach.report import phrasing
from medbreach.report.groups import median_scores
from medbreach.report.summary import Summary, full_threat_model, limits, summarise
from medbreach.statistics import chance, wilson
from medbreach.text import legible
from medbreach.types import Finding, Role

COLUMNS = (
    "attack",
    "defenses",
    "seed",
    "identified",
    "95 % interval",
    "chance",
    "p",
    "false claims",
    "PSNR",
    "verdict",
)


def render_text(record: RunRecord, redact: bool = False) -> str:
    """Return a run's report as text."""
    summary = summarise(record, redact=redact)
    threats = full_threat_model(summary)
    sections = [
        summary.conclusion.sentence,
        _bullets(summary.conclusion.reasons),
        "Threat model\n" + _bullets(f"{topic}: {words}" for topic, words in threats.items()),
        "Findings\n" + _table(summary),
        "Limits\n" + _bullets(limits(summary)),
    ]
    return legible("\n\n".join(section for section in sections if section))


def _bullets(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {' '.join(sentence.split())}" for sentence in sentences)


def _table(summary: Summary) -> str:
    rows = [COLUMNS, *(_row(line.finding) for line in summary.lines)]
    rows = [tuple(" ".join(cell.split()) for cell in row) for row in rows]
    return phrasing.in_columns(rows)


def _row(finding: Finding) -> tuple[str, ...]:
    role = "" if finding.role is Role.ATTACK else f" ({finding.role})"
    heads = (finding.attack + role, phrasing.defended(finding.defenses), str(finding.seed))
    note = f": {finding.note}" if finding.note else ""
    verdict = f"{phrasing.outcome(finding)}{note}"
    if finding.p_value is None:
        return *heads, *[phrasing.NOTHING] * 6, verdict
    rate = wilson(sum(finding.identified), finding.records)
    return (
        *heads,
        phrasing.share(rate),
        phrasing.interval(rate),
        f"{chance(finding.decoys):.1%}",
        phrasing.p_value(finding.p_value),
        str(false_claims(finding)),
        phrasing.score("psnr", median_scores(finding).get("psnr")),
        verdict,
    )
