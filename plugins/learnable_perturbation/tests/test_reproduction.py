"""The tables of the source: what is tried, what is published, and a run from end to end."""

import csv

import pytest
import torch

from medbreach.errors import DataError
from medbreach_learnable_perturbation.reproduction.run import reproduce
from medbreach_learnable_perturbation.reproduction.setting import (
    BIDO_PSNR,
    DP_PSNR,
    FULL,
    NORMAL,
    OWN_PSNR,
    QUICK,
    Scale,
    Setting,
)

CPU = torch.device("cpu")
TINY = Scale(2, 2, 1, 2, 1, 1, 1, 1, 1)


def test_the_published_numbers_are_those_of_the_source():
    """Six settings of each, as its tables have them."""
    for published in (DP_PSNR, OWN_PSNR, BIDO_PSNR):
        assert {data: len(values) for data, values in published.items()} == {
            "cifar10": 6, "bloodmnist": 6,
        }  # fmt: skip
    assert min(OWN_PSNR["bloodmnist"]) == 6.02
    assert BIDO_PSNR["cifar10"][2, 10] == 9.18


@pytest.mark.parametrize(("scale", "count"), [(QUICK, 5), (NORMAL, 9), (FULL, 17)])
def test_every_family_is_tried(scale, count):
    variants = Setting("cifar10", scale).variants
    assert len(variants) == count
    assert {v.family for v in variants} == {
        "no defense", "DP-SGD", "BiDO (HSIC)", "fixed noise", "learned noise",
    }  # fmt: skip
    assert len({v.stack for v in variants}) == count


def test_full_is_what_was_published():
    variants = {v.stack: v for v in Setting("cifar10", FULL).variants}
    assert variants["BiDO (2, 10)"].published == "9.18"
    assert variants["DP-SGD, noise 0.01"].published == "16.35 (level 1 of 6)"
    assert (FULL.records, FULL.width, FULL.rounds, FULL.iterations) == (8, 64, 400, 24000)
    assert FULL.batches * FULL.records == 64


def test_data_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="give cifar10, bloodmnist, a folder"):
        _ = Setting(str(tmp_path / "none")).overrides


@pytest.mark.slow
def test_it_runs_and_goes_on(tmp_path):
    """From end to end on a network of two channels; numbers are checked against the record."""
    told = []
    text = reproduce(Setting("", TINY), tmp_path / "run", CPU, told.append)
    rows = list(csv.DictReader((tmp_path / "run" / "table.csv").read_text().splitlines()))
    assert [(r["defense"], r["attacker"]) for r in rows] == [
        ("none", "plain"), ("DP-SGD, noise 0.3", "plain"), ("DP-SGD, noise 0.3", "adaptive"),
        ("BiDO (0.1, 3)", "plain"), ("BiDO (0.1, 3)", "adaptive"),
        ("fixed noise, mean 0.1", "plain"), ("fixed noise, mean 0.1", "adaptive"),
        ("learned noise", "plain"), ("learned noise", "adaptive"),
    ]  # fmt: skip
    for row in rows:
        assert 3 < float(row["PSNR"]) < 40
        assert float(row["MSE (normalised)"]) > float(row["MSE"])
    assert float(rows[1]["epsilon"]) > 0
    assert "the record itself" in text
    assert "gave away no more than chance allows either" in text
    assert "exact" in text
    page = (tmp_path / "run" / "table.html").read_text()
    assert page.count("<tr>") == 1 + len(rows) + 1 + 3
    again = []
    assert reproduce(Setting("", TINY), tmp_path / "run", CPU, again.append) == text
    assert len(told) == 5 + 12
    assert again == []
