"""Figures: what is drawn where is what the numbers say."""

import dataclasses
import math
from xml.etree import ElementTree as ET

import pytest

from medbreach.conclusion import conclude
from medbreach.report.drawing import ticks
from medbreach.report.figures import LEFT, RIGHT, figures
from medbreach.report.groups import grouped
from medbreach.statistics import tail, wilson
from medbreach.types import Finding, Role, Verdict

BLIND = Finding(
    case="case",
    server="honest_but_curious",
    attack="random",
    defenses=(),
    seed=0,
    role=Role.BLIND,
    verdict=Verdict.NO_LEAK,
    records=4,
    claims=4,
    identified=(False,) * 4,
    decoys=99,
    pools=((4, 99),),
    p_value=1.0,
    scores={"psnr": (10.0, 12.0, 14.0, 16.0)},
    baselines={"psnr": {"black": 5.0, "mean": 18.0, "nearest_decoy": 20.0}},
    null=wilson(7, 800),
)
ATTACK = dataclasses.replace(
    BLIND,
    attack="inverting",
    role=Role.ATTACK,
    verdict=Verdict.LEAK,
    identified=(True, True, False, False),
    p_value=0.001,
    null=None,
    scores={"psnr": (30.0, 28.0, 10.0, None)},
)


def drawn(*findings):
    groups = grouped(findings, conclude(findings))
    return [(f, ET.fromstring(str(f.drawing))) for f in figures(groups)]


def across(share):
    return LEFT + share * (RIGHT - LEFT)


def tip_of(element):
    return element.find("title").text


def test_identified_share_interval_and_chance_are_where_they_belong():
    _, svg = drawn(ATTACK, BLIND)[0]
    dots = {tip_of(dot).split(":")[0]: float(dot.get("cx")) for dot in svg.iter("circle")}
    assert dots == pytest.approx(
        {"inverting": across(0.5), "random (blind control)": across(7 / 800)}, abs=0.06
    )
    first = next(x for x in svg.iter("line") if x.get("class") == "range leak")
    rate = wilson(2, 4)
    assert float(first.get("x1")) == pytest.approx(across(rate.low), abs=0.06)
    assert float(first.get("x2")) == pytest.approx(across(rate.high), abs=0.06)
    chances = [float(x.get("x1")) for x in svg.iter("line") if x.get("class") == "chance"]
    assert chances == pytest.approx([across(0.01)] * 2, abs=0.06)


def test_luck_bars_are_the_exact_distribution():
    few = {"decoys": 3, "pools": ((4, 3),)}
    figure, svg = drawn(dataclasses.replace(ATTACK, **few), dataclasses.replace(BLIND, **few))[1]
    heights = [float(bar.get("height")) for bar in svg.iter("rect")]
    exact = [tail(k, [(4, 3)]) - tail(k + 1, [(4, 3)]) for k in range(5)]
    assert heights == pytest.approx([h * heights[0] / exact[0] for h in exact], abs=0.06)
    bars = [float(bar.get("x")) + float(bar.get("width")) / 2 for bar in svg.iter("rect")]
    seen = {tip_of(dot): float(dot.get("cx")) for dot in svg.iter("circle")}
    assert seen["inverting: 2 identified with 1 seed"] == pytest.approx(bars[2], abs=0.11)
    assert seen["random (blind control): 0 identified with 1 seed"] == pytest.approx(
        bars[0], abs=0.11
    )
    assert "random identified 7 of 800" in figure.caption


def test_psnr_is_drawn_beside_its_baselines():
    _, svg = drawn(ATTACK, BLIND)[2]
    places = [float(dot.get("cx")) for dot in svg.iter("circle")]
    assert len(places) == 7
    lines = [float(x.get("x1")) for x in svg.iter("line") if x.get("class") == "baseline"]
    tens = [x for x, dot in zip(places, svg.iter("circle"), strict=True) if "10.0" in tip_of(dot)]
    # 10, 20 and 30 dB lie equally far apart
    thirty = next(x for x, d in zip(places, svg.iter("circle"), strict=True) if "30" in tip_of(d))
    assert lines[2] - tens[0] == pytest.approx(thirty - lines[2], abs=0.2)
    assert lines == sorted(lines)


def test_infinite_psnr_lies_beyond_every_number():
    exact = dataclasses.replace(ATTACK, scores={"psnr": (math.inf, 40.0, 20.0, 10.0)})
    _, svg = drawn(exact)[2]
    places = {tip_of(dot): float(dot.get("cx")) for dot in svg.iter("circle")}
    assert max(places, key=places.get) == "inverting: ∞ dB"
    assert max(places.values()) <= RIGHT
    assert "∞" in [t.text for t in svg.iter("text")]


def test_only_infinite_psnr_can_be_drawn():
    baselines = {"psnr": {"nearest_decoy": math.inf}}
    exact = dataclasses.replace(ATTACK, scores={"psnr": (math.inf,) * 4}, baselines=baselines)
    _, svg = drawn(exact)[2]
    assert all(0 <= float(line.get("x1")) <= RIGHT for line in svg.iter("line"))


def test_seeds_are_pooled():
    again = dataclasses.replace(ATTACK, seed=1, identified=(True,) * 4)
    _, svg = drawn(ATTACK, again)[0]
    (dot,) = svg.iter("circle")
    assert float(dot.get("cx")) == pytest.approx(across(6 / 8), abs=0.06)


def test_nothing_scored_draws_nothing():
    assert drawn(dataclasses.replace(ATTACK, verdict=Verdict.FAILED, p_value=None)) == []


def test_many_records_stay_inside_the_drawing():
    many = dataclasses.replace(
        ATTACK,
        records=300,
        identified=(True,) * 300,
        pools=((300, 99),),
        scores={"psnr": (20.0,) * 300},
    )
    for _, svg in drawn(many):
        width = float(svg.get("viewBox").split()[2])
        for element in svg.iter():
            for name in ("x", "cx", "x1", "x2"):
                assert 0 <= float(element.get(name, 0)) <= width


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (0.0, 27.3), (0.0, 180.0), (-4.0, 61.0), (3.0, 3.0)]
)
def test_ticks_are_few_and_inside(low, high):
    found = ticks(low, high)
    assert 1 <= len(found) <= 6
    assert low - 1e-9 <= min(found)
    assert max(found) <= high + 1e-9
