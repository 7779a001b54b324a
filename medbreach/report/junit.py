"""The report for continuous integration: JUnit XML."""

from collections.abc import Collection, Iterable, Sequence
from typing import Final
from xml.etree import ElementTree as ET

from medbreach.record import RunRecord
from medbreach.report.summary import summarise
from medbreach.text import legible
from medbreach.types import Finding, Role, Verdict

_OUTCOMES: Final = {
    Verdict.LEAK: "failure",
    Verdict.FAILED: "error",
    Verdict.INCONCLUSIVE: "error",
    Verdict.NOT_APPLICABLE: "skipped",
}


def render_junit(record: RunRecord, redact: bool = False) -> str:
    """Return a run as one test suite: the verdict, every finding, and what is still missing.

    A leak is a failure; what is inconclusive, failed or missing is an error. A seed that is
    inconclusive by itself is skipped if all seeds together are not.
    """
    summary = summarise(record, redact=redact)
    name = f"medbreach.{summary.resolved['case']['name']}"
    conclusion = summary.conclusion
    answered = {
        (cell.attack, cell.defenses)
        for cell in conclusion.cells
        if cell.verdict in (Verdict.LEAK, Verdict.NO_LEAK)
    }
    cases = [
        _case(name, "verdict", _OUTCOMES.get(conclusion.verdict), conclusion.sentence),
        *(_finding_case(line.id, line.finding, answered) for line in summary.lines),
        *(_case(name, attempt, "error", "no finding yet") for attempt in summary.missing),
    ]
    seconds = sum((line.finding.seconds for line in summary.lines), 0.0)
    suite = _suite(cases, seconds)
    ET.indent(suite)
    xml: bytes = ET.tostring(suite, encoding="utf-8", xml_declaration=True)
    return xml.decode()


def _suite(cases: Sequence[ET.Element], seconds: float) -> ET.Element:
    counts = {
        "tests": len(cases),
        "failures": _count(cases, "failure"),
        "errors": _count(cases, "error"),
        "skipped": _count(cases, "skipped"),
    }
    attributes = {key: str(count) for key, count in counts.items()}
    suite = ET.Element("testsuite", {"name": "medbreach", **attributes, "time": f"{seconds:.3f}"})
    suite.extend(cases)
    return suite


def _count(cases: Iterable[ET.Element], kind: str) -> int:
    return sum(case.find(kind) is not None for case in cases)


def _finding_case(
    identity: str, finding: Finding, answered: Collection[tuple[str, tuple[str, ...]]]
) -> ET.Element:
    found = f"{sum(finding.identified)} of {finding.records} records identified"
    message = f"{finding.verdict}: {finding.note or found}"
    kind = _OUTCOMES.get(finding.verdict)
    inconclusive = finding.role is Role.ATTACK and finding.verdict is Verdict.INCONCLUSIVE
    if inconclusive and (finding.attack, finding.defenses) in answered:
        kind = "skipped"
    return _case(f"medbreach.{finding.case}", identity, kind, message, finding.seconds)


def _case(
    group: str, name: str, outcome: str | None, message: str, seconds: float = 0.0
) -> ET.Element:
    case = ET.Element(
        "testcase", classname=legible(group), name=legible(name), time=f"{seconds:.3f}"
    )
    if outcome is not None:
        ET.SubElement(case, outcome, message=legible(message))
    return case
