"""Curves of the sweeps, of the balls, and of the training."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Final

from medbreach.report.drawing import Drawing
from medbreach.report.figures import Figure
from medbreach.tradeoff.figure import BOTTOM, LEFT, LEGEND, LINE, RIGHT, TOP, WIDTH, Axes
from medbreach.tradeoff.predictions import Interval
from medbreach_fedsafe.measures import estimate
from medbreach_fedsafe.reproduction.attackers import grid_attackers
from medbreach_fedsafe.reproduction.run import Made, Row
from medbreach_fedsafe.reproduction.setting import ADVERSARIAL, ARMS, BOTH, NOISE, PLAIN

HEIGHT: Final = 420.0
Curve = Sequence[tuple[float, Interval]]


def figures(made: Made) -> list[Figure]:
    """Return every figure."""
    return [
        _sigma_figure(made),
        _share_figure(made),
        *(
            _grid_figure(made, space, method)
            for space in ("pixels", "normalised")
            for method in ("pgd", "fgsm")
        ),
        _rounds_figure(made),
    ]


def curves(title: str, across: str, lines: Mapping[str, Curve], caption: str) -> Figure:
    """Return a figure of shares over a setting, with bars of their intervals."""
    drawing = Drawing(WIDTH, max(HEIGHT, TOP + LINE * (len(lines) + 2)), title)
    every = [x for curve in lines.values() for x, _ in curve]
    low, high = min(every), max(every)
    most = max(value.high for curve in lines.values() for _, value in curve)
    axes = Axes(drawing, (low, high if high > low else low + 1), (0.0, min(1.0, most + 0.05)), "")
    for number, (name, curve) in enumerate(lines.items(), start=1):
        kind = f"c{number % 6}"
        for (x1, one), (x2, two) in itertools.pairwise(curve):
            places = (axes.x(x1), axes.y(one.value), axes.x(x2), axes.y(two.value))
            drawing.line(*places, f"curve {kind}")
        for x, value in curve:
            drawing.line(axes.x(x), axes.y(value.low), axes.x(x), axes.y(value.high), "error")
            tip = f"{name}, {x:g}: {100 * value.value:.1f} %"
            drawing.dot(axes.x(x), axes.y(value.value), 4.0, f"spot {kind}", tip)
        y = TOP + LINE * number
        drawing.line(LEGEND, y - 4, LEGEND + 18, y - 4, f"curve {kind}")
        drawing.text(LEGEND + 24, y, name, "legend")
    drawing.text((LEFT + RIGHT) / 2, BOTTOM + 42, across, "axis", "middle")
    return Figure(title, drawing.markup(), caption)


def sigma_rows(made: Made) -> list[tuple[float, Row]]:
    """Return the noise arms by their deviation, and the plain one as deviation 0."""
    setting = made.setting
    wanted = [setting.fedsafe(NOISE, sigma=sigma) for sigma in setting.scale.sigmas]
    found = [(r.arm.fedsafe.sigma, r) for r in made.rows if r.arm.fedsafe in wanted]
    return [(0.0, made.row(PLAIN)), *sorted(found, key=lambda pair: pair[0])]


def share_rows(made: Made, name: str) -> list[tuple[float, Row]]:
    """Return the arms with retraining by their share of the pool, and the one without as 0."""
    setting = made.setting
    wanted = [setting.fedsafe(name, share=p) for p in setting.scale.shares]
    found = [(r.arm.fedsafe.retraining.share, r) for r in made.rows if r.arm.fedsafe in wanted]
    without = made.row(NOISE if name == BOTH else PLAIN)
    return [(0.0, without), *sorted(found, key=lambda pair: pair[0])]


def _curve(rows: Sequence[tuple[float, Row]], measure: str) -> Curve:
    values = [(x, estimate(row.main).get(measure)) for x, row in rows]
    return [(x, value) for x, value in values if value is not None]


def _sigma_figure(made: Made) -> Figure:
    rows = sigma_rows(made)
    names = {"accuracy": "accuracy", "asr_self": "ASR self", "asr_others": "ASR others"}
    lines = {words: _curve(rows, measure) for measure, words in names.items()}
    return curves(
        "Downlink noise", "sigma", lines,
        "Attack success rates of PGD on oneself and on others, and clean accuracy, in percent of "
        "images. Sigma 0 is the plain arm. Bars: 95 % intervals.",
    )  # fmt: skip


def _share_figure(made: Made) -> Figure:
    lines: dict[str, Curve] = {}
    for name in (ADVERSARIAL, BOTH):
        rows = share_rows(made, name)
        for measure, words in (("asr_self", "self"), ("asr_others", "others")):
            lines[f"{name}, {words}"] = _curve(rows, measure)
    shown = {name.replace("noise + adversarial", "both"): line for name, line in lines.items()}
    return curves(
        "Retraining on a share of the pool", "share p of the pool", shown,
        "Attack success rates of PGD. p 0 is the arm without retraining; both: noise + "
        "adversarial.",
    )  # fmt: skip


def _grid_figure(made: Made, space: str, method: str) -> Figure:
    asked = [
        a
        for a in grid_attackers(made.setting.eps, made.setting.scale)
        if (a.evasion.space, a.evasion.method) == (space, method)
    ]
    lines: dict[str, Curve] = {}
    for name in ARMS:
        row = made.row(name)
        for measure, words in (("asr_self", "self"), ("asr_others", "others")):
            if name in (PLAIN, ADVERSARIAL) and measure == "asr_others":
                continue  # all clients hold the same network
            values = [(a.evasion.eps, estimate(row.answers[a.name])[measure]) for a in asked]
            told = name.replace("noise + adversarial", "both")
            lines[f"{told}, {words}" if name in (NOISE, BOTH) else f"{told}, all"] = values
    where = "pixels, within bounds" if space == "pixels" else "normalised space, not clamped"
    unit = "share of the range" if space == "pixels" else "normalised units, as published"
    return curves(
        f"{method.upper()} in {where}", f"eps, {unit}", lines,
        "Attack success rates. all: without noise every client holds the same network, so others "
        "are fooled as oneself is.",
    )  # fmt: skip


def _rounds_figure(made: Made) -> Figure:
    lines = {
        name: [(float(k), Interval(a, a, a)) for k, a in enumerate(made.row(name).curve)]
        for name in ARMS
    }
    return curves(
        "Accuracy over rounds", "rounds", lines,
        "Of the global network, before noise, on patients who take no part in training; mean over "
        "trainings.",
    )  # fmt: skip
