"""The figures of a trade-off, drawn from numbers alone."""

import itertools
from collections.abc import Sequence
from typing import Final

from medbreach.report.drawing import Drawing, ticks
from medbreach.report.figures import Figure
from medbreach.tradeoff.line import Line
from medbreach.tradeoff.points import Point, front, share_of
from medbreach.tradeoff.predictions import Interval

WIDTH: Final = 720.0
HEIGHT: Final = 420.0
LEFT, RIGHT, TOP, BOTTOM = 60.0, 520.0, 20.0, 360.0
LEGEND: Final = 540.0
LINE: Final = 18.0


class Axes:
    """Two axes with ticks, and where values lie on them."""

    def __init__(
        self, drawing: Drawing, across: tuple[float, float], up: tuple[float, float], percent: str
    ) -> None:
        self._across, self._up = across, up
        for value in ticks(*across):
            x = self.x(value)
            drawing.line(x, TOP, x, BOTTOM, "grid")
            words = f"{100 * value:.0f} %" if "x" in percent else f"{value:g}"
            drawing.text(x, BOTTOM + 18, words, "tick", "middle")
        for value in ticks(*up):
            y = self.y(value)
            drawing.line(LEFT, y, RIGHT, y, "grid")
            drawing.text(LEFT - 8, y + 4, f"{100 * value:.0f} %", "tick", "end")

    def x(self, value: float) -> float:
        """Return a value's place from left to right."""
        low, high = self._across
        return LEFT + (value - low) / (high - low) * (RIGHT - LEFT)

    def y(self, value: float) -> float:
        """Return a value's place from top to bottom."""
        low, high = self._up
        return BOTTOM - (value - low) / (high - low) * (BOTTOM - TOP)


def tradeoff_figure(points: Sequence[Point]) -> Figure | None:
    """Return accuracy against the share that the worst attack identified, with intervals."""
    there = [p for p in points if p.worst is not None and p.utility]
    if not there:
        return None
    height = max(HEIGHT, TOP + LINE * (len(there) + 2))
    drawing = Drawing(WIDTH, height, "Accuracy of each stack against identified records")
    axes = Axes(drawing, (0.0, 1.0), _span([p.utility["accuracy"] for p in there]), "x")
    best = front(there)
    places = [(axes.x(_leaked(p)), axes.y(p.utility["accuracy"].value)) for p in best]
    for (x1, y1), (x2, y2) in itertools.pairwise(places):
        drawing.line(x1, y1, x2, y1, "front")
        drawing.line(x2, y1, x2, y2, "front")
    for number, point in enumerate(there, start=1):
        _draw_point(drawing, axes, number, point, on_front=point in best)
        drawing.text(LEGEND, TOP + LINE * number, f"{number}  {point.stack}", "legend")
    drawing.text(
        (LEFT + RIGHT) / 2, BOTTOM + 42, "records identified by the worst attack", "axis", "middle"
    )
    drawing.text(LEFT, TOP - 6, "accuracy on other patients", "axis")
    return Figure(
        "What each defense buys and costs",
        drawing.markup(),
        "Left is safer, up is more accurate. Bars are 95 % intervals: across, Wilson's of the "
        "identified records; upright, a bootstrap over patients. Filled dots lie on the Pareto "
        "front, the stepped line.",
    )


def curves_figure(lines: Sequence[Line]) -> Figure | None:
    """Return the accuracy over rounds, the first seed of each stack."""
    first = {line.stack: line for line in reversed(lines) if line.curve}
    shown = [first[s] for s in dict.fromkeys(line.stack for line in lines) if s in first]
    if not shown:
        return None
    height = max(HEIGHT, TOP + LINE * (len(shown) + 2))
    drawing = Drawing(WIDTH, height, "Accuracy over rounds")
    values = [a for line in shown for _, a in line.curve]
    most = max(r for line in shown for r, _ in line.curve)
    axes = Axes(drawing, (0.0, float(most)), _span([Interval(v, v, v) for v in values]), "")
    for number, line in enumerate(shown, start=1):
        places = [(axes.x(float(r)), axes.y(a)) for r, a in line.curve]
        for (x1, y1), (x2, y2) in itertools.pairwise(places):
            drawing.line(x1, y1, x2, y2, f"curve c{number % 6}")
        x, y = places[-1]
        drawing.text(x + 5, y + 4, str(number), f"mark c{number % 6}")
        drawing.text(LEGEND, TOP + LINE * number, f"{number}  {line.stack}", "legend")
    drawing.text((LEFT + RIGHT) / 2, BOTTOM + 42, "rounds", "axis", "middle")
    return Figure(
        "Accuracy over rounds",
        drawing.markup(),
        "On images of patients who took no part; the first seed of each stack.",
    )


def _draw_point(drawing: Drawing, axes: Axes, number: int, point: Point, *, on_front: bool) -> None:
    assert point.worst is not None
    accuracy, rate = point.utility["accuracy"], point.worst.identified
    x, y = axes.x(_leaked(point)), axes.y(accuracy.value)
    drawing.line(axes.x(rate.low), y, axes.x(rate.high), y, "error")
    drawing.line(x, axes.y(accuracy.low), x, axes.y(accuracy.high), "error")
    tip = f"{point.stack}: accuracy {accuracy.value:.1%}, {rate.count} of {rate.total} identified"
    drawing.dot(x, y, 6.0, "point best" if on_front else "point", tip)
    drawing.text(x + 9, y - 7, str(number), "mark")


def _leaked(point: Point) -> float:
    assert point.worst is not None
    return share_of(point.worst.identified)


def _span(values: Sequence[Interval]) -> tuple[float, float]:
    low, high = min(v.low for v in values), max(v.high for v in values)
    return max(0.0, low - 0.03), min(1.0, high + 0.03) if high < 0.99 else 1.01
