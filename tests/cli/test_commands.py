"""What each command does: list, show, data, report, audit and its exit codes."""

import json
import math
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from running import run_program

from medbreach import choices, plugins
from medbreach.cli import codes, program
from medbreach.cli.audit import exit_code
from medbreach.cli.inspect import KINDS, rows
from medbreach.conclusion import Cell, Conclusion
from medbreach.statistics import wilson
from medbreach.types import Verdict

LEAKING = (
    "case=brain_mr_3d", "case/server=malicious-model-rtf", "attack=imprint",
    "case.user.num_data_points=2", "audit.null_draws=2", "audit.metrics=[mse]", "audit.public=60",
    "--device", "cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def leak(tmp_path_factory):
    """A run that leaks, and what the program said about it."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, run_program("audit", "--out", folder, *LEAKING)


# list and show.


@pytest.mark.parametrize("kind", KINDS)
def test_list(kind):
    ran = run_program("list", kind)
    assert (ran.code, ran.err) == (0, "")
    listed = list(rows(kind))
    for name, text in listed:
        assert any(name in line and text in line for line in ran.out.splitlines()), name
    if kind in ("attacks", "servers", "metrics", "datasets", "models", "cases"):
        assert len(listed) >= 2
        assert all(text for _, text in listed if "breaching" not in str(text)) or kind == "cases"


def test_list_everything():
    ran = run_program("list")
    assert ran.code == 0
    for name in ("invertinggradients", "malicious-model-rtf", "psnr", "npz", "small_cnn"):
        assert name in ran.out
    assert "tag" not in [line.split()[0] for line in ran.out.splitlines() if line.strip()]


@pytest.mark.parametrize("kind", ["attack", "server", "defense", "metric", "dataset", "model"])
def test_show_every_component_by_its_choice_and_by_its_name(kind):
    kinds = getattr(plugins, f"{kind}s")()
    for name in {name for name, _ in rows(f"{kind}s")} | set(kinds):
        ran = run_program("show", kind, name)
        assert (ran.code, ran.err) == (0, ""), name
        assert ran.out.startswith(name)
        assert "Source: " in ran.out


def test_show_tells_what_a_choice_changes():
    shown = run_program("show", "attack", "MODERN").out
    assert "optimizer (str) = 'adam'" in shown
    assert "Differs from the source: " in shown
    assert "step_size" in shown


@pytest.mark.parametrize("case", choices.names("case"))
def test_show_case(case):
    ran = run_program("show", "case", case)
    assert ran.code == 0
    assert "user_type: " in ran.out
    assert "\nmodel: " in ran.out or "\ncaptured: " in ran.out  # which names the federation's


# data.


def test_data_list_says_what_is_here():
    ran = run_program("data", "list")
    assert ran.code == 0
    lines = {line.split()[0]: line.rstrip() for line in ran.out.splitlines()}
    assert set(plugins.datasets()) < set(lines)
    assert lines["dermoscopy"].endswith("yes")
    assert lines["npz"].endswith("reads files of yours: give case.data.path")


def test_data_fetch_of_what_is_here():
    ran = run_program("data", "fetch", "DERMOSCOPY")
    assert ran.code == 0
    assert ran.out == "dermoscopy is here already: it is installed with medbreach\n"


def test_data_fetch_of_what_is_not(monkeypatch):
    kind = plugins.datasets()["chest_ct"]
    monkeypatch.setattr(kind, "missing", classmethod(lambda cls: "not here"))
    lines = run_program("data", "list").out.splitlines()
    (line,) = [line.rstrip() for line in lines if line.startswith("chest_ct")]
    assert line.endswith("no: medbreach data fetch chest_ct")
    monkeypatch.setattr(kind, "fetch", classmethod(lambda cls: "/where/it/lies"))
    assert run_program("data", "fetch", "chest_ct").out == "/where/it/lies\n"


# report.


def test_report_in_every_format(leak, tmp_path):
    folder, _ = leak
    run_program("report", folder, "--format", "json", "--out", tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["verdict"] == "leak"
    ran = run_program("report", folder, "--format", "junit", "--out", tmp_path / "new" / "folder")
    suite = ET.fromstring(ran.out)
    assert int(suite.get("failures")) >= 1
    assert (tmp_path / "new" / "folder" / "report.xml").is_file()
    ran = run_program("report", folder, "--format", "text", "--out", tmp_path)
    assert ran.out.startswith("Leak: imprint identified 2 of 2 private records")
    assert ran.err == f"report: {tmp_path}/report.txt\n"
    ran = run_program("report", folder, "--redact", "--out", tmp_path)
    file = tmp_path / "report-redacted.html"
    assert ran.out == f"report: {file}\n"
    assert file.stat().st_size < (folder / "report.html").stat().st_size


def test_reports_are_the_same_again(leak, tmp_path):
    """A report is a function of the record."""
    folder, _ = leak
    run_program("report", folder, "--format", "json", "--out", tmp_path)
    assert (tmp_path / "report.json").read_text() == (folder / "report.json").read_text()


# audit and resume.


def test_an_audit_says_what_it_found(leak):
    folder, ran = leak
    assert ran.code == codes.Exit.LEAK
    assert "Leak: imprint identified 2 of 2 private records" in ran.out
    assert f"report: {folder}/report.html" in ran.out
    *_, last = ran.err.splitlines()
    assert last == "imprint, seed 0: 2 of 2 identified, leak"


def test_quiet(leak, tmp_path):
    ran = run_program("audit", "--out", tmp_path / "run", "--quiet", *LEAKING)
    assert (ran.code, ran.err) == (1, "")
    verdict, *rest = ran.out.splitlines()
    assert verdict.startswith("Leak: ")
    assert rest == [f"report: {tmp_path}/run/report.html", f"report: {tmp_path}/run/report.json"]
    again = run_program("resume", tmp_path / "run", "--quiet")
    assert again.out == ran.out


@pytest.mark.parametrize(
    ("threshold", "code"), [("any", 1), ("50%", 1), ("100 %", 1), ("never", 0)]
)
def test_fail_on(leak, threshold, code):
    folder, _ = leak
    assert run_program("resume", folder, "--fail-on", threshold).code == code


def test_no_leak_found(tmp_path):
    """Noise hides the record; the control is played without it, and is solved."""
    ran = run_program(
        "audit", "case=brain_mr_3d", "attack=analytic", "case.model=mlp", "audit.null_draws=2",
        "case.user.num_data_points=1", "case.user.local_diff_privacy.gradient_noise=10.0",
        "audit.metrics=[mse]", "--device", "cpu", "--out", tmp_path / "run",
    )  # fmt: skip
    assert ran.code == codes.Exit.NO_LEAK, ran
    assert "No leak found: " in ran.out
    assert "analytic (solvable control), seed 0: 1 of 1 identified, solved" in ran.err


def test_inconclusive(tmp_path):
    ran = run_program(
        "audit", "attack=blind_guess", "audit.null_draws=2", "--device", "cpu",
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert ran.code == codes.Exit.INCONCLUSIVE
    assert "Inconclusive: only controls were run" in ran.out


def conclusion_of(verdict, count):
    cell = Cell("attack", (), wilson(count, 4), 0.001, verdict, ())
    return Conclusion(verdict, "", (), (cell,))


@pytest.mark.parametrize(
    ("verdict", "count", "threshold", "code"),
    [
        (Verdict.LEAK, 1, 0.0, 1),
        (Verdict.LEAK, 1, 0.25, 1),
        (Verdict.LEAK, 1, 0.251, 0),
        (Verdict.LEAK, 4, 1.0, 1),
        (Verdict.LEAK, 4, math.inf, 0),
        (Verdict.NO_LEAK, 0, 0.0, 0),
        (Verdict.INCONCLUSIVE, 0, 0.0, 3),
        (Verdict.INCONCLUSIVE, 0, math.inf, 3),
    ],
)
def test_exit_codes(verdict, count, threshold, code):
    assert exit_code(conclusion_of(verdict, count), threshold) == code


def test_a_small_leak_does_not_hide_what_is_inconclusive():
    """Below the bound of ``--fail-on`` the other attacks decide."""
    leak, other = (conclusion_of(v, 1).cells[0] for v in (Verdict.LEAK, Verdict.INCONCLUSIVE))
    both = Conclusion(Verdict.LEAK, "", (), (leak, other))
    assert exit_code(both, 0.25) == 1
    assert exit_code(both, 0.5) == 3


def test_without_out_the_folder_is_named_after_the_case(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = run_program("audit", *LEAKING, "case.name=../a b/ü", "-q")
    assert ran.code == 1
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("___a_b_ü-")
    assert (folder / "report.html").is_file()


def test_verbose(tmp_path, caplog):
    """-vv shows where an attempt failed; without it, its finding says so in a line."""
    code = "from torch import nn\n\nclass Net(nn.Module):\n"
    code += "    def __init__(self):\n        super().__init__()\n"
    code += "        self.inner = nn.Linear(2048, 2)\n"
    code += "    def forward(self, images):\n"
    code += "        if len(images) == 8:\n            raise KeyError('in the network')\n"
    code += "        return self.inner(images.flatten(1))\n\ndef build():\n    return Net()\n"
    (tmp_path / "net.py").write_text(code)
    settings = (
        "audit", "case=brain_mr_3d", "attack=analytic", "audit.null_draws=2", "--device", "cpu",
        "--model", f"{tmp_path}/net.py:build",
    )  # fmt: skip
    ran = run_program(*settings, "--out", tmp_path / "one")
    assert ran.code == 3
    assert "KeyError: 'in the network'" in ran.err
    assert "Traceback" not in ran.err + caplog.text
    loud = run_program(*settings, "--out", tmp_path / "two", "--verbose", "-v")
    assert loud.code == 3
    assert "Traceback" in caplog.text
    caplog.clear()
    run_program("-vv", *settings, "--out", tmp_path / "three")
    assert "Traceback" in caplog.text, "before the command it means the same"
    caplog.clear()
    run_program(*settings, "--out", tmp_path / "four")
    assert "Traceback" not in caplog.text, "the next run is quiet again"


# Faults of medbreach itself.


def test_a_crash_does_not_look_like_a_leak(monkeypatch):
    def crash(*arguments, **options):
        raise ZeroDivisionError

    monkeypatch.setattr(program, "main", crash)
    ran = run_program("list")
    assert ran.code == codes.Exit.CRASHED == 70
    assert "Traceback" in ran.err
    assert ran.err.splitlines()[-1] == "medbreach: this is a fault of medbreach: ZeroDivisionError"


def test_a_reader_that_goes_away_does_not_look_like_a_leak(monkeypatch):
    def gone(*arguments, **options):
        raise BrokenPipeError

    monkeypatch.setattr(program, "main", gone)
    ran = run_program("list")
    assert (ran.code, ran.err) == (codes.Exit.PIPE_CLOSED, "")


# A copied run folder is a run folder.


def test_a_run_may_be_moved(leak, tmp_path):
    folder = Path(shutil.copytree(leak[0], tmp_path / "elsewhere"))
    assert run_program("resume", folder, "-q").code == 1
