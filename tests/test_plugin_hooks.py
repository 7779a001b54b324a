"""Each hook, seen through the plugin under ``tests/plugin``, installed like anybody's."""

import inspect
import json
import sys

import pytest
from running import run_program

from medbreach import plugins
from medbreach.record import RunRecord
from medbreach.types import Role, Verdict

INSTALL = (
    "the plugin under tests/plugin is not installed: make setup, or pip install -e tests/plugin"
)


@pytest.fixture(autouse=True, scope="module")
def example():
    """The plugin, through its entry point."""
    found = {p.name: p for p in plugins.installed()}
    if "example" not in found:
        pytest.fail(INSTALL)
    assert found["example"].distribution.startswith("medbreach-example ")
    assert found["example"].state == "loaded"


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """The plugin's own case, attacked by its own attack, with and without its own defense."""
    folder = tmp_path_factory.mktemp("run")
    log = folder / "findings.log"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MEDBREACH_EXAMPLE_LOG", str(log))
        ran = run_program(
            "audit", "case=example", "attack=example_one_row", "defense=[none,example_sign]",
            "audit.null_draws=10", "audit.metrics=[psnr,example_edges]", "--device", "cpu",
            "--out", folder / "run",
        )  # fmt: skip
    assert ran.code == 1, ran.err
    return RunRecord.open(folder / "run"), log


def attempts(record):
    return {(f.role, f.attack, f.defenses): f for f in record.findings().values()}


def listed(kind):
    """The names that ``medbreach list`` has."""
    ran = run_program("list", kind)
    assert ran.code == 0
    return {line.split()[0] for line in ran.out.splitlines() if line.split()}


def test_hook_medbreach_attacks(audited):
    record, _ = audited
    finding = attempts(record)[Role.ATTACK, "example_one_row", ()]
    assert (finding.verdict, finding.identified) == (Verdict.LEAK, (True,))
    assert {"example_one_row", "example_division"} <= listed("attacks")


def test_hook_medbreach_servers(audited):
    record, _ = audited
    assert {f.server for f in record.findings().values()} == {"example_blank"}
    assert {"example-blank", "example_blank"} <= listed("servers")


def test_hook_medbreach_defenses(audited):
    record, _ = audited
    finding = attempts(record)[Role.ATTACK, "example_one_row", ("example_sign",)]
    assert finding.verdict is Verdict.REFUSED
    assert finding.note == "the layer 1 is blank, so the network learns from no image"
    assert "example_sign" in listed("defenses")


def test_hook_medbreach_metrics(audited):
    record, _ = audited
    finding = attempts(record)[Role.ATTACK, "example_one_row", ()]
    (error,) = finding.scores["example_edges"]
    assert 0 <= error < finding.baselines["example_edges"]["mean"]
    assert "example_edges" in listed("metrics")


def test_hook_medbreach_datasets(audited):
    record, _ = audited
    assert record.header()["images"]["spec"]["channels"] == 2
    assert record.header()["images"]["licence"] == "MIT (nibabel)"
    assert "example_pairs" in listed("datasets")


def test_hook_medbreach_models(audited):
    record, _ = audited
    assert record.header()["resolved"]["case"]["model"] == {"name": "example_linear"}
    assert "example_linear" in listed("models")


def test_hook_medbreach_cases(audited):
    record, _ = audited
    assert record.header()["resolved"]["case"]["name"] == "example"
    assert "example" in listed("cases")


def test_hook_medbreach_commands():
    ran = run_program("example-patients", "brain_mr")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("brain_mr: ")
    assert ran.out.endswith(" patients\n")


def test_hook_medbreach_reproductions():
    ran = run_program("reproduce", "example_result")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.endswith(" slices\n")
    assert "example_result" in run_program("reproduce", "--help").out
    wrong = run_program("reproduce", "example")
    assert wrong.code == 2
    assert "'example' is no published result: choose dkfz_2d, dkfz_3d, example_result" in wrong.err


def test_hook_medbreach_finding(audited):
    record, log = audited
    told = [json.loads(line) for line in log.read_text().splitlines()]
    recorded = record.findings().values()
    assert told == [{"attack": f.attack, "role": f.role, "verdict": f.verdict} for f in recorded]
    assert {line["role"] for line in told} == set(Role), "controls are findings too"


def test_every_hook_has_a_test_and_a_plugin_that_uses_it():
    here = dict(inspect.getmembers(sys.modules[__name__], inspect.isfunction))
    implemented = dict(inspect.getmembers(sys.modules["medbreach_example"], inspect.isfunction))
    for hook in plugins.hook_names():
        assert f"test_hook_{hook}" in here
        assert hook in implemented


def test_every_hook_says_what_it_is_for():
    for hook in plugins.hook_names():
        spec = getattr(plugins.manager().hook, hook).spec
        doc = inspect.getdoc(spec.function)
        assert doc.split("\n", 1)[0].endswith(".")
        assert all(f"{argument}: " in doc for argument in spec.argnames), hook


def test_the_record_names_the_plugins(audited):
    record, _ = audited
    assert ["example", "medbreach-example 0.1.0", "loaded"] in record.header()["software"][
        "plugins"
    ]


def test_built_in_components_come_through_the_same_hooks():
    own = plugins.new_manager(third_party=False)
    assert {name for name, _ in own.list_name_plugin()} == set(plugins.BUILTIN)
    for kind in ("attacks", "servers", "metrics", "datasets", "models"):
        offers = getattr(own.hook, f"medbreach_{kind}")()
        offered = {component.name for offer in offers for component in offer}
        assert offered
        assert offered <= set(getattr(plugins, kind)())
