"""The report for programs: JSON."""

import json
from typing import Any

from medbreach.conclusion import false_claims
from medbreach.record import RunRecord, encode
from medbreach.report.groups import median_scores
from medbreach.report.summary import full_threat_model, limits, summarise
from medbreach.settings import plain
from medbreach.statistics import chance, wilson
from medbreach.types import Finding, Role


def render_json(record: RunRecord, redact: bool = False) -> str:
    """Return a run's numbers as JSON; numbers that are not finite are the strings inf and nan.

    ``findings`` holds the attacks and the blind controls, ``controls`` the cases that attacks must
    solve. There are no images in it either way.
    """
    summary = summarise(record, redact=redact)
    rows = [_row(line.id, line.finding) for line in summary.lines]
    report = {
        "verdict": summary.conclusion.verdict,
        "sentence": summary.conclusion.sentence,
        "reasons": list(summary.conclusion.reasons),
        "missing": len(summary.missing),
        "findings": [r for r in rows if r["role"] != Role.SOLVABLE],
        "controls": [r for r in rows if r["role"] == Role.SOLVABLE],
        "threat_model": full_threat_model(summary),
        "limits": limits(summary),
        "images": summary.header["images"],
        "settings": summary.resolved,
        "software": summary.header["software"],
        "created": summary.header["created"],
    }
    return json.dumps(encode(plain(report)), indent=2, allow_nan=False)


def _row(identity: str, finding: Finding) -> dict[str, Any]:
    row: dict[str, Any] = {"id": identity, **plain(finding)}
    interval = wilson(sum(finding.identified), len(finding.identified))
    return row | {
        "identified": sum(finding.identified),
        "identified_records": list(finding.identified),
        "interval": [interval.low, interval.high],
        "chance": chance(finding.decoys) if finding.decoys else None,
        "false_claims": false_claims(finding),
        "scores": median_scores(finding),
        "scores_of_records": {name: list(s) for name, s in finding.scores.items()},
    }
