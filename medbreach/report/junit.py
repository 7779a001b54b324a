"""The report for continuous integration: JUnit XML."""

from xml.etree import ElementTree as ET

from medbreach.record import RunRecord
from medbreach.report.summary import summarise
from medbreach.types import Finding, Role, Verdict

_SKIPPED = (Verdict.NOT_APPLICABLE,)
_ERRORS = (Verdict.FAILED, Verdict.INCONCLUSIVE)


def render_junit(record: RunRecord, redact: bool = False) -> str:
    """Return a run as one test suite: a leak is a failure, an inconclusive attempt an error."""
    del redact
    summary = summarise(record)
    suite = ET.Element("testsuite", name="medbreach")
    cases = [_case(line.id, line.finding) for line in summary.lines]
    suite.extend(cases)
    for kind, name in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        suite.set(name, str(sum(case.find(kind) is not None for case in cases)))
    suite.set("tests", str(len(cases)))
    suite.set("time", f"{sum(line.finding.seconds for line in summary.lines):.3f}")
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True)


def _case(identity: str, finding: Finding) -> ET.Element:
    case = ET.Element(
        "testcase",
        classname=f"medbreach.{finding.case}",
        name=identity,
        time=f"{finding.seconds:.3f}",
    )
    found = f"{sum(finding.identified)} of {finding.records} records identified"
    message = f"{finding.verdict}: {finding.note or found}"
    if finding.verdict is Verdict.LEAK:
        ET.SubElement(case, "failure", message=message)
    elif finding.verdict in _ERRORS:
        ET.SubElement(case, "error", message=message)
    elif finding.verdict in _SKIPPED and finding.role is not Role.BLIND:
        ET.SubElement(case, "skipped", message=message)
    return case
