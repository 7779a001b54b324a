"""A trade-off as text, CSV, JSON and a page."""

import dataclasses
import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Final

from medbreach.encoding import encode
from medbreach.plan import ADAPTIVE
from medbreach.report import phrasing
from medbreach.report.templates import style_sheet, templates
from medbreach.tradeoff.figure import curves_figure, tradeoff_figure
from medbreach.tradeoff.line import Line
from medbreach.tradeoff.points import Leak, Point, front, share_of
from medbreach.tradeoff.predictions import Interval

WIDTH: Final = 110
NOTHING: Final = "-"

COLUMNS: Final = (
    "defense", "seeds", "accuracy", "AUC", "F1", "cost", "worst attack", "identified", "PSNR",
    "adaptive", "s/round", "times", "epsilon",
)  # fmt: skip

ATTACK_COLUMNS: Final = (
    "defense", "attack", "attacker", "identified", "95 % interval", "PSNR", "verdict",
)  # fmt: skip

MEANINGS: Final = {
    "accuracy, AUC, F1": "of the trained network on images of patients who took no part in the "
    "training, mean over seeds, with a 95 % interval over patients (bootstrap)",
    "cost": "accuracy less that of the training without defense, in points, on the same patients",
    "identified": "records of a round whose claim resembles them more than any claim resembles any "
    "decoy, by the attack that identified most; all attacks are below",
    "PSNR": "median over that attack's matched claims, in dB; it describes and decides nothing",
    "s/round": "time of a round, all clients one after the other, and how many times that is of a "
    "round without defense in this run",
    "adaptive": "whether an attacker who knows the defense has tried; without one, no defense "
    "should be called effective",
}


def cells(point: Point) -> list[str]:
    """Return one stack's row."""
    worst = point.worst
    return [
        point.stack,
        str(point.seeds),
        *(interval(point.utility.get(name)) for name in ("accuracy", "auc", "f1")),
        interval(point.cost.get("accuracy"), signed=True),
        worst.attack if worst else NOTHING,
        _identified(worst) if worst else NOTHING,
        _decibel(worst),
        "yes" if point.judged_by_adaptive else "no" if point.leaks else NOTHING,
        NOTHING if point.seconds is None else f"{point.seconds:.2f}",
        NOTHING if point.times is None else f"{point.times:.1f}",
        "; ".join(f"{g.epsilon:.3g}" for g in point.guarantees) or "none",
    ]


def interval(value: Interval | None, *, signed: bool = False) -> str:
    """Return a share in percent with its interval."""
    if value is None:
        return NOTHING
    sign = "+" if signed else ""
    middle, low, high = (f"{100 * share:{sign}.1f}" for share in value)
    return f"{middle} ({low} to {high})"


def attack_rows(points: Sequence[Point]) -> list[list[str]]:
    """Return what each attack read behind each stack."""
    return [
        [
            point.stack,
            leak.attack.removesuffix(ADAPTIVE),
            "adaptive" if leak.attack.endswith(ADAPTIVE) else "plain",
            _identified(leak),
            phrasing.interval(leak.identified),
            _decibel(leak),
            str(leak.verdict),
        ]
        for point in points
        for leak in point.leaks
    ]


def remarks(points: Sequence[Point]) -> list[str]:
    """Return what a reader has to know besides, a sentence each."""
    best = front(points)
    found = []
    if best:
        named = ", ".join(p.stack for p in best)
        found.append(
            f"Pareto front (no other stack is at least as accurate and leaks no more): {named}."
        )
    for point in points:
        found += [f"{point.stack}: {problem}" for problem in point.problems]
        found += [
            f"{point.stack}: epsilon {g.epsilon:.3g} at delta {g.delta:g} per {g.unit} "
            f"({g.adjacency}) over {g.rounds} rounds. {g.how}"
            for g in point.guarantees
        ]
        if point.leaks and point.stack != "none" and not point.judged_by_adaptive:
            found.append(
                f"{point.stack}: no attack here adapts to it, so its row says nothing of an "
                "attacker who does."
            )
    return found


def as_text(title: str, about: Sequence[str], points: Sequence[Point]) -> str:
    """Return everything as text."""
    paragraphs = [
        title,
        *(textwrap.fill(words, WIDTH) for words in about),
        phrasing.in_columns([COLUMNS, *map(cells, points)]),
        phrasing.in_columns([ATTACK_COLUMNS, *attack_rows(points)]),
        "\n".join(
            textwrap.fill(f"{word}: {meaning}", WIDTH, subsequent_indent="  ")
            for word, meaning in MEANINGS.items()
        ),
        *(textwrap.fill(words, WIDTH, subsequent_indent="  ") for words in remarks(points)),
    ]
    return "\n\n".join(paragraphs) + "\n"


def as_csv(points: Sequence[Point]) -> str:
    """Return the table of stacks as CSV."""
    rows = [[*cells(point), "; ".join(point.problems)] for point in points]
    return phrasing.csv_of([[*COLUMNS, "problems"], *rows])


def as_json(points: Sequence[Point], lines: Sequence[Line], setting: Mapping[str, Any]) -> str:
    """Return everything as JSON."""
    content = {
        "setting": setting,
        "points": [_plain(point) for point in points],
        "trainings": [dataclasses.asdict(line) for line in lines],
    }
    return json.dumps(encode(content), indent=1)


def as_html(
    title: str, about: Sequence[str], points: Sequence[Point], lines: Sequence[Line]
) -> str:
    """Return everything as a page that needs nothing from the network."""
    return (
        templates("tradeoff")
        .get_template("tradeoff.html.j2")
        .render(
            title=title,
            about=about,
            style=style_sheet(),
            figures=[f for f in (tradeoff_figure(points), curves_figure(lines)) if f is not None],
            columns=COLUMNS,
            rows=[cells(point) for point in points],
            attack_columns=ATTACK_COLUMNS,
            attack_rows=attack_rows(points),
            meanings=MEANINGS,
            remarks=remarks(points),
        )
    )


def _identified(leak: Leak) -> str:
    rate = leak.identified
    if not rate.total:
        return str(leak.verdict)
    return f"{rate.count} of {rate.total} ({100 * share_of(rate):.0f} %)"


def _decibel(leak: Leak | None) -> str:
    if leak is None or leak.psnr is None:
        return NOTHING
    return "exact" if leak.psnr == float("inf") else f"{leak.psnr:.1f}"


def _plain(point: Point) -> dict[str, Any]:
    return {
        "stack": point.stack,
        "seeds": point.seeds,
        "utility": {name: value._asdict() for name, value in point.utility.items()},
        "cost": {name: value._asdict() for name, value in point.cost.items()},
        "seconds_per_round": point.seconds,
        "times": point.times,
        "leaks": [
            {**leak._asdict(), "identified": dataclasses.asdict(leak.identified)}
            for leak in point.leaks
        ],
        "guarantees": [dataclasses.asdict(g) for g in point.guarantees],
        "problems": list(point.problems),
    }
