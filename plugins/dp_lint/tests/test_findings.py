"""Planted mistakes are found, each by its own name; right configurations pass."""

import json
import math
import re
from pathlib import Path

import pytest

from medbreach_dp_lint.accounting import linted
from medbreach_dp_lint.checks import CHECKS, findings
from medbreach_dp_lint.configuration import Configuration
from medbreach_dp_lint.files import read
from medbreach_dp_lint.formats import configuration

HERE = Path(__file__).parent
CLEAN = sorted((HERE / "clean").iterdir())
WRONG = sorted((HERE / "wrong").iterdir())
JSON = {  # what the files find that cannot say so in a comment
    "encryption.json": {"encryption-only"},
    "no_filters.json": {"no-mechanism"},
    "own_filter.json": {"unknown-filter"},
    "percentile.json": {"not-dp-filter"},
    "svt_defaults.json": {"svt-release-budget", "epsilon-meaningless"},
}
NOTES = {
    "secure-mode-off",
    "trusted-server",
    "svt-not-covered",
    "svt-release-budget",
    "replace-one",
}


def case_of(file, **added):
    return linted(configuration(read(file), file.name, added))


def expected(file):
    if file.suffix == ".json":
        return JSON[file.name]
    first = file.read_text().splitlines()[0]
    return set(first.removeprefix("# errors:").split())


@pytest.mark.parametrize("file", WRONG, ids=lambda f: f.stem)
def test_what_is_wrong_is_found_and_nothing_else(file):
    found = findings(case_of(file))
    assert {f.id for f in found if f.severity != "note"} == expected(file)
    assert all(f.wrong.endswith(".") and f.right.endswith(".") for f in found)


@pytest.mark.parametrize("file", CLEAN, ids=lambda f: f.stem)
def test_what_is_right_passes(file):
    case = case_of(file)
    found = findings(case)
    assert {f.severity for f in found} <= {"note"}
    assert {f.id for f in found} <= NOTES
    assert math.isfinite(case.effective.training)


def test_the_planted_mistakes_are_many_and_of_every_kind():
    planted = set().union(*map(expected, WRONG))
    assert len(planted) >= 30
    assert len(CLEAN) >= 10
    cases = [case_of(file) for file in (*WRONG, *CLEAN)]
    silent = [check.__name__ for check in CHECKS if all(check(case) is None for case in cases)]
    assert not silent


def test_every_finding_is_documented():
    package, page = HERE.parent / "medbreach_dp_lint", HERE.parents[2] / "docs/defenses/dp_lint.md"
    sources = "".join(file.read_text() for file in package.glob("checks/*.py"))
    made = set(re.findall(r'Finding\(\s*"([a-z0-9-]+)"', sources))
    assert len(made) >= 35
    assert made == set(re.findall(r"`([a-z0-9]+(?:-[a-z0-9]+)*)`", _table(page.read_text())))


def _table(page):
    after = page.split("## What it finds")[1].split("## How it counts")[0]
    return "\n".join(line.split("|")[1] for line in after.splitlines() if line.startswith("|"))


def test_no_guarantee_never_passes():
    nothing = linted(Configuration(source="nothing", framework="none"))
    assert nothing.effective.training == math.inf
    assert "error" in {f.severity for f in findings(nothing)}


def test_flip_on_flower_has_an_epsilon_of_two_hundred_million():
    case = case_of(HERE / "wrong" / "flip_flower_defaults.yaml")
    assert case.said.noise.scale == pytest.approx(4.845e-5, rel=1e-3)
    mu = 1.0 / case.said.noise.scale
    assert case.effective.per_round == pytest.approx(mu**2 / 2 + 4.2649 * mu, rel=1e-5)
    assert case.effective.per_round == pytest.approx(2.131e8, rel=1e-3)
    assert case.nominal.per_round == 10.0


def test_svt_spends_what_was_reported():
    case = case_of(HERE / "wrong" / "svt_defaults.json", parameters=7_033_290, rounds=10)
    assert round(case.effective.per_round) == 70_333
    assert case.effective.per_round == pytest.approx(0.1 + 703_329 * 0.1)
    assert case.effective.training == pytest.approx(703_330.0)
    assert not case.said.assumed[0].startswith("The update is taken")
    assert "1,000,000" in case_of(HERE / "wrong" / "svt_defaults.json").said.assumed[0]


def test_shuffled_batches_are_counted_once_an_epoch():
    from medbreach_dp_lint.gaussian import epsilon_of

    case = case_of(HERE / "wrong" / "shuffled.yaml")
    assert case.effective.training == pytest.approx(epsilon_of(math.sqrt(5), 1e-5))
    assert case.nominal.training < 2 < case.effective.training


def test_dropouts_and_weights_scale_the_sensitivity():
    from medbreach_dp_lint.gaussian import epsilon_of

    case = case_of(HERE / "wrong" / "dropouts.yaml")
    assert case.effective.training == pytest.approx(epsilon_of(math.sqrt(20) / (5 * 0.6), 1e-4))
    assert case.nominal.training == pytest.approx(epsilon_of(math.sqrt(20) / 5, 1e-4))
    case = case_of(HERE / "wrong" / "weighted.yaml")
    assert case.effective.training == pytest.approx(epsilon_of(0.4 * 10 / 5, 1e-4))


def test_other_bounds_are_other_sensitivities():
    from medbreach_dp_lint.gaussian import epsilon_of

    local = case_of(HERE / "clean" / "flower_local_rounds.yaml")
    z = math.sqrt(2 * math.log(1.25e6)) / 0.5
    assert local.effective.training == pytest.approx(epsilon_of(math.sqrt(10) / z, 1e-6))
    laplace = case_of(HERE / "wrong" / "laplace_l2.yaml")
    assert laplace.effective.training == pytest.approx(math.sqrt(10_000) / 100.0)


def test_rounds_that_nobody_composes_cost_more():
    case = case_of(HERE / "wrong" / "per_round_as_total.yaml")
    assert case.nominal.per_round == case.nominal.training == 1.0
    assert case.effective.training > 3 * case.effective.per_round


def test_the_sentences_are_plain_json():
    case = case_of(HERE / "wrong" / "no_clipping.yaml")
    from medbreach_dp_lint.rendering import plain

    told = json.loads(json.dumps(plain(case, findings(case)), allow_nan=False))
    assert told["effective"]["training"] is None
    assert told["differential_privacy"] is False
