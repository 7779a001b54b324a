"""The report for a terminal or a mail: text."""

from medbreach.conclusion import false_claims, median_scores
from medbreach.record import RunRecord
from medbreach.report.summary import Summary, limits, summarise, threat_model
from medbreach.statistics import chance
from medbreach.types import Finding

COLUMNS = ("attack", "defenses", "seed", "identified", "chance", "false claims", "psnr", "verdict")


def render_text(record: RunRecord, redact: bool = False) -> str:
    """Return a run's report as text."""
    del redact
    summary = summarise(record)
    sections = [
        summary.conclusion.sentence,
        _bullets(list(summary.conclusion.reasons)),
        "Threat model\n" + _bullets(threat_model(summary.resolved)),
        "Findings\n" + _table(summary),
        "Limits\n" + _bullets(limits(summary)),
    ]
    return "\n\n".join(section for section in sections if section)


def _bullets(sentences: list[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _table(summary: Summary) -> str:
    rows = [COLUMNS, *(_row(line.finding) for line in summary.lines)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _row(finding: Finding) -> tuple[str, ...]:
    psnr = median_scores(finding).get("psnr")
    role = "" if finding.role == "attack" else f" ({finding.role})"
    return (
        finding.attack + role,
        ", ".join(finding.defenses) or "none",
        str(finding.seed),
        f"{sum(finding.identified)} of {finding.records}",
        f"{chance(finding.decoys):.1%}" if finding.decoys else "",
        str(false_claims(finding)),
        "" if psnr is None else f"{psnr:.1f} dB",
        str(finding.verdict) + (f": {finding.note}" if finding.note else ""),
    )
