"""The reports for programs: JSON that every parser takes, and JUnit XML that is well-formed."""

import json
import math
from xml.etree import ElementTree as ET

import pytest

from medbreach.report import render

EVERY = {
    *("case", "server", "attack", "defenses", "seed", "verdict", "records", "claims"),
    *("identified", "false_claims", "decoys", "scores", "seconds", "peak_memory_mb"),
}


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


def read(record):
    return json.loads(render(record, "json"), parse_constant=refuse)


def suite(record):
    """Return the test suite, read by expat, which is strict."""
    return ET.fromstring(render(record, "junit").encode())


def outcomes(root):
    return {
        case.get("name"): next((child.tag for child in case), "passed")
        for case in root.iter("testcase")
    }


def test_json_holds_what_the_record_holds(photographs):
    report = read(photographs)
    assert report["verdict"] == "leak"
    findings = {line.id: line.finding for line in photographs.lines()}
    rows = report["findings"] + report["controls"]
    assert {row["id"] for row in rows} == set(findings)
    assert {row["role"] for row in report["controls"]} == {"solvable control"}
    for row in rows:
        finding = findings[row["id"]]
        assert set(row) >= EVERY
        assert {"psnr", "ssim", "mse"} <= set(row["scores"])
        assert row["identified"] == sum(finding.identified)
        assert row["false_claims"] == finding.claims - sum(finding.identified)
        assert row["defenses"] == list(finding.defenses)
        assert row["interval"][0] <= row["identified"] / row["records"] <= row["interval"][1]


def test_infinite_psnr_survives_json(changed, photographs):
    scores = {"psnr": ["inf"] * 4, "ssim": [1.0] * 4, "mse": [0.0] * 4}
    report = read(changed(photographs, "attack", scores=scores))
    row = next(r for r in report["findings"] if r["role"] == "attack")
    assert float(row["scores"]["psnr"]) == math.inf
    assert [float(s) for s in row["scores_of_records"]["psnr"]] == [math.inf] * 4


def test_json_of_nothing_scored(changed, photographs):
    nothing = {"p_value": None, "records": 0, "claims": 0, "identified": [], "scores": {}}
    record = changed(photographs, "attack", verdict="not applicable", note="no", **nothing)
    report = read(record)
    assert report["verdict"] == "inconclusive"
    assert all(row["scores"] == {} for row in report["findings"] if row["role"] == "attack")


def test_json_of_an_unfinished_run(edit, photographs):
    report = read(edit(photographs, change_lines=lambda lines: lines[:3]))
    assert report["missing"] == 4
    assert report["verdict"] == "inconclusive"


def test_junit_counts(photographs):
    root = suite(photographs)
    found = outcomes(root)
    assert found["verdict"] == "failure"
    leaks = [line.id for line in photographs.lines() if line.finding.verdict == "leak"]
    assert leaks
    assert {name for name, outcome in found.items() if outcome == "failure"} == {"verdict", *leaks}
    assert int(root.get("failures")) == len(leaks) + 1
    assert int(root.get("tests")) == len(photographs.lines()) + 1
    assert root.get("errors") == root.get("skipped") == "0"


def test_junit_is_well_formed_whatever_the_notes_hold(changed, photographs):
    note = "<a>&\"'\x00\x07\x1b[2J\ud800\ufffe\n]]>é"
    record = changed(photographs, "attack", verdict="failed", p_value=None, note=note)
    root = suite(record)
    messages = [error.get("message") for error in root.iter("error")]
    assert any("<a>&\"'\ufffd\ufffd\ufffd[2J\ufffd\ufffd\n]]>é" in m for m in messages)


@pytest.mark.parametrize(
    ("verdict", "outcome"),
    [
        ("failed", "error"),
        ("inconclusive", "error"),
        ("not applicable", "skipped"),
        ("refused by a defense", "passed"),
        ("no leak found", "passed"),
    ],
)
def test_junit_outcomes(changed, photographs, verdict, outcome):
    found = outcomes(suite(changed(photographs, "attack", verdict=verdict, p_value=None)))
    assert {o for name, o in found.items() if name.startswith("attack--")} == {outcome}


def test_junit_cannot_pass_while_attempts_are_missing(edit, photographs):
    root = suite(edit(photographs, change_lines=lambda lines: lines[:-1]))
    last = photographs.lines()[-1].id
    assert outcomes(root)[last] == "error"


def test_junit_fails_where_only_all_seeds_together_leak(changed, photographs):
    once = {"identified": [True, False, False, False], "level": 0.001, "p_value": 0.0388}
    found = outcomes(suite(changed(photographs, "attack", verdict="no leak found", **once)))
    assert found.pop("verdict") == "failure"
    assert "failure" not in found.values()
