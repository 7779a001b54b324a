"""Plugins that are wrong: each is named, and the others go on or the user is told what to do."""

import os
import subprocess
import sys

import pytest
from running import made_up_plugins, run_program, write_plugin_files

from medbreach import plugins
from medbreach.errors import PluginError
from medbreach.record import RunRecord
from medbreach.types import Role, Verdict

DEFENSE = """
    from dataclasses import dataclass, replace
    from medbreach import Defense, hookimpl

    @dataclass(frozen=True)
    class Made(Defense):
        name = "{name}"
        source = "made up"

        def wrap(self, train):
            def trained(task):
                update = train(task)
                return replace(update, change={{n: {change} for n, g in update.change.items()}})
            return trained

    @hookimpl
    def medbreach_defenses():
        return [Made]
"""
ATTACK = """
    from dataclasses import dataclass
    import torch
    from medbreach import Attack, Reconstruction, hookimpl

    @dataclass(frozen=True)
    class Made(Attack):
        name = "{name}"
        source = "made up"

        def run(self, exchange, rng):
            {body}

    @hookimpl
    def medbreach_attacks():
        return [Made]
"""
METRIC = """
    from dataclasses import dataclass
    import torch
    from medbreach import Metric, hookimpl

    @dataclass(frozen=True)
    class Made(Metric):
        name = "{name}"
        source = "made up"
        unit = "1"
        better = "lower"

        def run(self, claim, truth, spec):
            return {score}

    @hookimpl
    def medbreach_metrics():
        return [Made]
"""
HOOK = """
    from medbreach import hookimpl

    @hookimpl
    def {signature}:
        {body}
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Return a context in which plugins of given code are installed."""
    return lambda **codes: made_up_plugins(tmp_path, monkeypatch, **codes)


# Plugins that cannot be loaded.


def test_a_plugin_that_raises_at_import_is_named_and_the_others_go_on(tmp_path):
    """In a process of its own, as it happens to a user."""
    write_plugin_files(tmp_path, "broken", "import nowhere_to_be_found")
    write_plugin_files(tmp_path, "sound", DEFENSE.format(name="sound", change="g"))
    ran = subprocess.run(
        [sys.executable, "-c", "from medbreach.cli import main; main()", "list", "defenses"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0
    assert "sound" in ran.stdout
    assert ran.stderr.strip() == (
        "medbreach: plugin broken is left out: ModuleNotFoundError while importing broken_plugin: "
        "No module named 'nowhere_to_be_found'"
    )


def test_the_list_of_plugins_says_why_one_is_left_out(installed):
    with installed(broken="1 / 0"):
        ran = run_program("list", "plugins")
    assert ran.code == 0
    assert "ZeroDivisionError while importing broken_plugin: division by zero" in ran.out
    assert "plugin broken is left out" in ran.err


def test_a_hook_that_does_not_exist(installed):
    code = HOOK.format(signature="medbreach_defences()", body="return []")
    with installed(misspelt=code):
        ran = run_program("list", "plugins")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == (
        "medbreach: plugin misspelt implements an unknown hook 'medbreach_defences'; did you mean "
        "medbreach_defenses?\n"
    )


def test_a_hook_with_an_argument_that_it_does_not_have(installed):
    code = HOOK.format(signature="medbreach_finding(result)", body="pass")
    with installed(greedy=code):
        ran = run_program("list", "plugins")
    assert ran.code == 2
    assert "Plugin 'greedy' for hook 'medbreach_finding'" in ran.err
    assert "'result'" in ran.err


# Plugins that offer something unfit.


def test_two_offers_of_one_name(installed):
    code = DEFENSE.format(name="twin", change="g")
    with installed(first=code, second=code):
        ran = run_program("list", "defenses")
        assert (ran.code, ran.out) == (2, "")
        assert ran.err == (
            "medbreach: first_plugin and second_plugin both offer 'twin': rename one, or leave one "
            "out with MEDBREACH_BLOCK=NAME; 'medbreach list plugins' has the names\n"
        )
        assert run_program("list", "plugins").code == 0


def test_a_built_in_name_is_taken(installed):
    with (
        installed(usurper=METRIC.format(name="psnr", score="1")),
        pytest.raises(
            PluginError, match=r"medbreach\.metrics\.psnr .*usurper_plugin|usurper_plugin"
        ),
    ):
        plugins.metrics()


def test_a_name_in_other_letters_is_taken_too(installed):
    with (
        installed(usurper=METRIC.format(name="PSNR", score="1")),
        pytest.raises(PluginError, match=r"both offer '(PSNR|psnr)'"),
    ):
        plugins.metrics()


def test_blocking_switches_a_plugin_off(installed, monkeypatch):
    code = DEFENSE.format(name="twin", change="g")
    monkeypatch.setenv("MEDBREACH_BLOCK", "second, ")
    with installed(first=code, second=code):
        assert plugins.defenses()["twin"].__module__ == "first_plugin"
        states = {p.name: p.state for p in plugins.installed()}
        assert (states["first"], states["second"]) == ("loaded", "blocked")
        assert "second_plugin" not in sys.modules


def test_a_name_to_block_that_no_plugin_has(monkeypatch):
    monkeypatch.setenv("MEDBREACH_BLOCK", "exmaple")
    with pytest.warns(
        plugins.PluginWarning,
        match="plugin 'exmaple' of MEDBREACH_BLOCK does not exist; did you mean example",
    ):
        plugins.new_manager()


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        ("dict", "<class 'dict'> was offered where a list of Metric classes is needed"),
        ("[dict]", "<class 'dict'> was offered as Metric, which it is not"),
        ("[PSNR()]", "PSNR() was offered as Metric, which it is not"),
        ("[type('Bare', (Metric,), {})]", ".Bare has no name: add name: ClassVar[str]"),
        (
            "[type('Bare', (Metric,), {'name': 'bare', 'source': 'me'})]",
            ".Bare is no frozen dataclass: put @dataclass(frozen=True) above it",
        ),
        (
            "[dataclasses.dataclass(frozen=True)(type('Lax', (PSNR,), {'name': 'lax', "
            "'__call__': lambda *_: None}))]",
            ".Lax overrides __call__, which checks what the component returns: leave it alone",
        ),
    ],
)
def test_offers_that_are_no_components(installed, returned, sentence):
    code = (
        "import dataclasses\nfrom medbreach import Metric, hookimpl\n"
        "from medbreach.metrics import PSNR\n"
        f"@hookimpl\ndef medbreach_metrics(): return {returned}\n"
    )
    with installed(odd=code):
        ran = run_program("list", "metrics")
    assert ran.code == 2
    assert sentence in ran.err


# Plugins whose hooks fail.


@pytest.mark.parametrize(
    ("signature", "arguments"),
    [
        ("medbreach_attacks()", ["list", "attacks"]),
        ("medbreach_cases()", ["list", "cases"]),
        ("medbreach_commands(cli)", ["no-such-command"]),
    ],
)
def test_a_hook_that_raises(installed, signature, arguments):
    with installed(faulty=HOOK.format(signature=signature, body="raise ValueError('oh no')")):
        ran = run_program(*arguments)
    hook = signature.partition("(")[0]
    assert ran.code == 2
    assert ran.err == f"medbreach: plugin faulty failed in {hook}: ValueError: oh no\n"


@pytest.mark.parametrize("package", ["nowhere.cases", "json"])
def test_a_package_of_cases_that_is_not_there(installed, package):
    with installed(faulty=HOOK.format(signature="medbreach_cases()", body=f"return '{package}.x'")):
        ran = run_program("list", "cases")
    assert ran.code == 2
    assert f"a plugin offers the cases in {package}.x, which is no package" in ran.err


# Plugins that return something wrong in an audit.


def audited(folder, *settings):
    ran = run_program(
        "audit", "case=example", "case/server=honest-but-curious", "audit.null_draws=2",
        "--device", "cpu", "--out", folder, *settings,
    )  # fmt: skip
    return ran, RunRecord.open(folder).findings()


@pytest.mark.parametrize(
    ("body", "note"),
    [
        ("return Reconstruction(exchange.public[:1] / 0)", "bad returned intensities that are not"),
        (
            "return Reconstruction(torch.zeros(1, 1, 4, 4))",
            "bad returned images of shape (1, 4, 4), not (2, 8, 8, 8)",
        ),
        ("return exchange.public", "bad returned a Tensor, no Reconstruction"),
        ("return None", "bad returned a NoneType, no Reconstruction"),
        ("raise KeyError('weights')", "KeyError: 'weights'"),
    ],
)
def test_a_broken_attack_is_a_failed_finding(installed, tmp_path, body, note):
    with installed(bad=ATTACK.format(name="bad", body=body)):
        ran, findings = audited(tmp_path / "run", "attack=bad")
    assert ran.code == 3
    assert "Inconclusive" in ran.out
    assert "no leak found" not in ran.out.lower()
    of_bad = [f for f in findings.values() if f.attack == "bad"]
    assert {f.role for f in of_bad} == {Role.SOLVABLE, Role.ATTACK}
    assert {f.verdict for f in of_bad} == {Verdict.FAILED}
    assert all(f.note.startswith(note) for f in of_bad)
    assert note in ran.out


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ("g / 0", "bad returned an update that is not finite"),
        ("g[:1]", "bad returned an update of other shapes than the model"),
        ("g.nowhere", "AttributeError: 'Tensor' object has no attribute 'nowhere'"),
    ],
)
def test_a_broken_defense_is_a_failed_finding(installed, tmp_path, change, note):
    with installed(bad=DEFENSE.format(name="bad", change=change)):
        ran, findings = audited(tmp_path / "run", "attack=example_one_row", "defense=bad")
    assert ran.code == 3
    (finding,) = [f for f in findings.values() if f.defenses]
    assert finding.verdict is Verdict.FAILED
    assert finding.note.startswith(note)
    assert note in ran.out


def test_a_broken_defense_does_not_hide_what_leaks_without_it(installed, tmp_path):
    with installed(bad=DEFENSE.format(name="bad", change="g / 0")):
        ran, _ = audited(tmp_path / "run", "attack=example_one_row", "defense=[none,bad]")
    assert ran.code == 1


@pytest.mark.parametrize(
    ("score", "note"),
    [
        ("(claim - truth).mean() * torch.nan", "bad returned no number for each of 1 records"),
        ("claim.nowhere", "AttributeError: 'Tensor' object has no attribute 'nowhere'"),
    ],
)
def test_a_broken_metric_is_named_and_hides_no_leak(installed, tmp_path, score, note):
    with installed(bad=METRIC.format(name="bad", score=score)):
        ran, findings = audited(
            tmp_path / "run", "attack=example_one_row", "audit.metrics=[bad,psnr]"
        )
    assert ran.code == 1
    (leak,) = (f for f in findings.values() if f.verdict is Verdict.LEAK)
    assert leak.note.startswith(f"bad failed: {note}")
    assert set(leak.scores) == {"psnr"}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("1 / 0", "plugin deaf failed in medbreach_finding: ZeroDivisionError: division by zero"),
        (
            "from medbreach import DataError; raise DataError('full')",
            "plugin failed in medbreach_finding: full",
        ),
    ],
)
def test_a_listener_that_raises_does_not_stop_an_audit(installed, tmp_path, body, told):
    code = HOOK.format(signature="medbreach_finding(finding)", body=body)
    with installed(deaf=code):
        ran, findings = audited(tmp_path / "run", "attack=example_one_row")
    assert ran.code == 1
    assert len(findings) == 4
    assert told in ran.err


@pytest.mark.parametrize("offer", ["5", "[5]", "[click.Command(None)]"])
def test_reproductions_that_are_no_commands(offer, installed):
    code = f"""
    import click
    from medbreach import hookimpl

    @hookimpl
    def medbreach_reproductions():
        return {offer}
    """
    with installed(bad=code):
        ran = run_program("reproduce", "--help")
        assert ran.code == 2
        assert "was offered as a command of medbreach reproduce, which it is not" in ran.err
        assert run_program("reproduce", "dkfz_2d", "--help").code == 0
