"""The report for people: one page of HTML that needs nothing from the network."""

import functools
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from medbreach.record import RunRecord
from medbreach.report import tables
from medbreach.report.cards import exhibit
from medbreach.report.figures import figures
from medbreach.report.groups import grouped
from medbreach.report.phrasing import TIMES, verdict_kind
from medbreach.report.summary import Summary, decoys, full_threat_model, limits, summarise
from medbreach.report.templates import templates
from medbreach.text import legible


def render_html(record: RunRecord, redact: bool = False) -> str:
    """Return a run as a page.

    Whatever comes from files, headers and plugins is escaped, and the page forbids itself scripts
    and the network. A redacted page holds no image, nor anything made from one but scores; the
    record's images are not even read.

    Raises:
        RecordError: The record is damaged.
    """
    summary = summarise(record, redact=redact)
    return _environment().get_template("report.html.j2").render(_page(record, summary, redact))


@functools.cache
def _environment() -> Environment:
    made = templates("report")
    made.finalize = _finalize
    return made


def _finalize(value: Any) -> Any:
    return legible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _page(record: RunRecord, summary: Summary, redact: bool) -> dict[str, Any]:
    """Return what the template shows."""
    header, lines, conclusion = summary.header, summary.lines, summary.conclusion
    groups = grouped([line.finding for line in lines], conclusion)
    findings = [
        tables.attacks_table(lines),
        tables.together_table(conclusion.cells),
        tables.blind_table(lines),
        tables.solvable_table(lines),
    ]
    return {
        "conclusion": conclusion,
        "kind": verdict_kind(conclusion.verdict),
        "redacted": redact,
        "facts": _facts(summary),
        "threats": full_threat_model(summary),
        "exhibition": exhibit(record, lines, redact=redact),
        "findings": [table for table in findings if table.rows],
        "scores": [
            table
            for table in (tables.likeness_table(groups), tables.baseline_table(groups))
            if table.rows
        ],
        "figures": figures(groups),
        "limits": limits(summary),
        "overrides": header["overrides"],
        "settings": tables.settings_table("Every setting, defaults included", summary.resolved),
        "software": tables.settings_table("Software and images", _provenance(header)),
    }


def _facts(summary: Summary) -> dict[str, str]:
    header, case = summary.header, summary.resolved["case"]
    spec, images = header["images"]["spec"], header["images"]
    size = f" {TIMES} ".join(map(str, spec["space"]))
    channels = f"{spec['channels']} channel{'s' * (spec['channels'] != 1)}"
    fewest, most = decoys(summary)
    unit = "pixels" if len(spec["space"]) == 2 else "voxels"
    return {
        "Case": case["name"],
        "Images": f"{case['data']['name']}: {size} {unit}, {channels}",
        "Images in the data set": _population(images),
        "Decoys of each record": f"{fewest} to {most}" if fewest != most else str(most),
        "Network": case["model"]["name"],
        "Run": f"{_moment(header['created'])}, on {header['device']}",
    }


def _population(images: Mapping[str, Any]) -> str:
    whose = f", of {images['patients']} {images['patients_are']}"
    return f"{images['entries']}{whose if images['patients_are'] != 'images' else ''}"


def _moment(iso: str) -> str:
    return iso.replace("T", " ").replace("+00:00", " UTC")


def _provenance(header: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("created", "device", "user_network", "software", "images")
    return {key: header[key] for key in kept if key in header}
