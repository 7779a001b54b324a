"""The figures of the page, drawn from numbers alone."""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from markupsafe import Markup

from medbreach.report import phrasing
from medbreach.report.drawing import Drawing, ticks
from medbreach.report.groups import Group, baseline, with_role
from medbreach.report.phrasing import TIMES, interval, score, share, verdict_kind
from medbreach.statistics import masses
from medbreach.types import Rate, Role

WIDTH: Final = 640.0
LEFT, RIGHT = 20.0, 620.0
ROW: Final = 40.0
BASELINES: Final = {"black": "black image", "mean": "mean image", "nearest_decoy": "nearest decoy"}


class Figure(NamedTuple):
    """A drawing and what it says.

    Attributes:
        title: Its heading.
        drawing: The drawing.
        caption: How to read it.
    """

    title: str
    drawing: Markup
    caption: str


class _Axis(NamedTuple):
    """A horizontal axis from ``low`` at the left to ``high`` at the right."""

    low: float
    high: float
    left: float = LEFT
    right: float = RIGHT

    def place(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.left + min(1.0, max(0.0, share)) * (self.right - self.left)


class _Row(NamedTuple):
    """A rate that the first figure shows."""

    title: str
    kind: str
    rate: Rate
    chance: float


def figures(groups: Sequence[Group]) -> list[Figure]:
    """Return every figure that there are numbers for."""
    there = [identified_figure(groups), luck_figure(groups), psnr_figure(groups)]
    return [figure for figure in there if figure is not None]


def identified_figure(groups: Sequence[Group]) -> Figure | None:
    """Show how many records were identified, with intervals, against chance."""
    rates = [(g, g.null if g.role is Role.BLIND else g.identified) for g in groups]
    rows = [_Row(*_look(g), rate, g.chance) for g, rate in rates if rate is not None]
    if not rows:
        return None
    axis, bottom = _Axis(0.0, 1.0), ROW * len(rows) + 8
    drawing = Drawing(WIDTH, bottom + 22, "Share of records identified by each attack and control")
    for tick in ticks(0.0, 1.0):
        _grid_line(drawing, axis, tick, f"{tick:.0%}", bottom)
    for k, row in enumerate(rows):
        _rate_row(drawing, axis, ROW * k, row)
    return Figure(
        "Identified records against chance",
        drawing.markup(),
        "Dot: share of records identified. Line: its 95 % Wilson interval. Dashed mark: chance. "
        "Blind controls are shown over their many draws; they may lie above chance "
        "only as far as luck explains. "
        "Solvable controls must lie at 100%.",
    )


def luck_figure(groups: Sequence[Group]) -> Figure | None:
    """Show how many records luck identifies in a round, beside how many were."""
    shown = with_role(groups, Role.ATTACK, Role.BLIND)
    if not shown:
        return None
    records = max(f.records for g in shown for f in g.findings)
    alike = [g for g in shown if all(f.records == records for f in g.findings)]
    rounds = [f for g in shown for f in g.findings if f.records == records]
    fewest = min(rounds, key=lambda f: f.decoys)
    gap = (RIGHT - LEFT) / (records + 1)
    axis = _Axis(0.0, max(1.0, float(records)), LEFT + gap / 2, RIGHT - gap / 2)
    top, height = 18.0, 110.0
    drawing = Drawing(
        WIDTH,
        top + height + 34 + ROW * len(alike),
        f"Probability of each number of {records} records identified by luck, and the numbers seen",
    )
    _luck_bars(drawing, axis, masses(fewest.pools), top + height)
    for k, group in enumerate(alike):
        _count_row(drawing, axis, top + height + 28 + ROW * k, group)
    drawing.text(LEFT, 11.0, "Probability by luck", "muted")
    return Figure(
        "What luck alone identifies",
        drawing.markup(),
        f"Bars: the probability that luck identifies so many of the {records} records of one round "
        f"in the round with the fewest decoys. Dots below: how many each attack and blind control "
        f"identified, one dot a seed. {_measured_luck(groups)}",
    )


def psnr_figure(groups: Sequence[Group]) -> Figure | None:
    """Show the PSNR of each claim against images that show nothing of a record."""
    shown = [g for g in with_role(groups, Role.ATTACK, Role.BLIND) if g.scores("psnr")]
    if not shown:
        return None
    lines = {
        words: value
        for name, words in BASELINES.items()
        if (value := baseline(shown, "psnr", name)) is not None
    }
    values = [v for g in shown for v in g.scores("psnr")]
    finite = [v for v in [*values, *lines.values()] if math.isfinite(v)] or [0.0]
    beyond = math.inf in values
    axis = _Axis(min(0.0, *finite), max(1.0, *finite) * 1.02, right=RIGHT - 40 * beyond)
    top = 6 + 16.0 * len(lines)
    bottom = top + ROW * len(shown) + 6
    drawing = Drawing(WIDTH, bottom + 22, "PSNR of each claim and of uninformative images, in dB")
    for tick in ticks(axis.low, axis.high):
        _grid_line(drawing, axis, tick, f"{tick:g} dB", bottom, top)
    for k, (words, value) in enumerate(lines.items()):
        _baseline_line(
            drawing, axis, value, f"{words} {score('psnr', value)}", 12 + 16.0 * k, bottom
        )
    if beyond:
        drawing.text(RIGHT, bottom + 17, "∞", "muted", "end")
    for k, group in enumerate(shown):
        _score_row(drawing, axis, top + ROW * k, group)
    return Figure(
        "PSNR of claims against images that show nothing",
        drawing.markup(),
        "Dot: one record's claim. Thick mark: their median. Vertical lines: the median PSNR of an "
        "all-black image, of the mean public image, and of each record's nearest decoy by pixels. "
        "A claim can lie left of them and identify its record, or right of them and not.",
    )


def _look(group: Group) -> tuple[str, str]:
    """Return the name and the colour of a group."""
    if group.role is Role.ATTACK:
        return group.title, verdict_kind(group.verdict)
    return f"{group.title} ({group.role})", "control"


def _grid_line(
    drawing: Drawing, axis: _Axis, value: float, words: str, bottom: float, top: float = 0.0
) -> None:
    x = axis.place(value)
    drawing.line(x, top, x, bottom, "grid")
    anchor = "start" if x - LEFT < 12 else "end" if RIGHT - x < 12 else "middle"
    drawing.text(x, bottom + 17, words, "muted", anchor)


def _rate_row(drawing: Drawing, axis: _Axis, y: float, row: _Row) -> None:
    rate, middle = row.rate, y + 29
    drawing.text(LEFT, y + 16, row.title)
    drawing.text(RIGHT, y + 16, share(rate), "number", "end")
    chance = axis.place(row.chance)
    drawing.line(chance, middle - 8, chance, middle + 8, "chance")
    drawing.line(axis.place(rate.low), middle, axis.place(rate.high), middle, f"range {row.kind}")
    tip = f"{row.title}: {share(rate)}, 95 % interval {interval(rate)}, chance {row.chance:.1%}"
    drawing.dot(axis.place(rate.count / max(1, rate.total)), middle, 5.0, f"dot {row.kind}", tip)


def _luck_bars(drawing: Drawing, axis: _Axis, lucks: Sequence[float], bottom: float) -> None:
    height, records = bottom - 34, len(lucks) - 1
    width = min(48.0, 0.7 * (axis.right - axis.left) / max(1, records))
    for count, luck in enumerate(lucks):
        x = axis.place(float(count))
        words = _percent(luck)
        drawing.bar(
            x - width / 2,
            bottom - height * luck,
            width,
            height * luck,
            "luck",
            f"{count} of {records}: {words}",
        )
        if luck >= 0.001 and records <= 12:
            drawing.text(x, bottom - height * luck - 5, words, "muted", "middle")
    drawing.line(LEFT, bottom, RIGHT, bottom, "axis")
    for tick in ticks(0.0, float(records), 8):
        if tick == int(tick):
            drawing.text(axis.place(tick), bottom + 16, f"{tick:.0f}", "muted", "middle")


def _count_row(drawing: Drawing, axis: _Axis, y: float, group: Group) -> None:
    name, kind = _look(group)
    drawing.text(LEFT, y + 12, name)
    drawing.line(LEFT, y + 25, RIGHT, y + 25, "grid")
    counts = [sum(f.identified) for f in group.findings]
    for count in sorted(set(counts)):
        seeds = counts.count(count)
        tip = f"{name}: {count} identified with {seeds} seed{'s' * (seeds > 1)}"
        drawing.dot(axis.place(float(count)), y + 25, 5.0, f"dot {kind}", tip)
        if seeds > 1:
            drawing.text(axis.place(float(count)) + 9, y + 22, f"{TIMES}{seeds}", "muted")


def _score_row(drawing: Drawing, axis: _Axis, y: float, group: Group) -> None:
    name, kind = _look(group)
    drawing.text(LEFT, y + 14, name)
    values = group.scores("psnr")
    for value in values:
        tip = f"{name}: {score('psnr', value)}"
        drawing.dot(_score_place(axis, value), y + 28, 4.0, f"dot faint {kind}", tip)
    middle = _score_place(axis, phrasing.middle("psnr", values))
    drawing.line(middle, y + 20, middle, y + 36, f"median {kind}")


def _score_place(axis: _Axis, value: float) -> float:
    return RIGHT - 6 if value == math.inf else axis.place(value)


def _baseline_line(
    drawing: Drawing, axis: _Axis, value: float, words: str, y: float, bottom: float
) -> None:
    x = axis.place(value)
    drawing.line(x, y - 9, x, bottom, "baseline")
    right = x > (LEFT + RIGHT) / 2
    drawing.text(x - 5 if right else x + 5, y, words, "muted", "end" if right else "start")


def _measured_luck(groups: Sequence[Group]) -> str:
    measured = [
        f"{g.attack} identified {share(g.null)} over many draws (95 % interval {interval(g.null)})"
        for g in with_role(groups, Role.BLIND)
        if g.null is not None
    ]
    if not measured:
        return ""
    return f"Measured, not computed: {'; '.join(measured)}. Chance is {groups[0].chance:.1%}."


def _percent(probability: float) -> str:
    if probability >= 0.001:
        return f"{probability:.1%}"
    return "under 0.1%" if probability > 0 else "0%"
