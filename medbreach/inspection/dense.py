"""Signs in layers that see the whole image: what their rows measure, and when they let it through.

Each threshold lies between what honest layers of that kind show, fresh or trained, and what planted
ones show; `benchmarks/model_inspection.py` measures both.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from medbreach.inspection.rows import RowTable, cosines, groups, levels, likeness
from medbreach.inspection.signs import Sign
from medbreach.inspection.view import View

STEPS: Final = 6
"""Fewest rows of a ladder: with a normalisation, training leaves up to 5 that are nearly parallel
and open at different values."""
SPREAD: Final = 0.8
"""Least range of a ladder's levels, in deviations of what it measures: honest rows that training
made parallel stay below 0.2, quantiles of any population span more than 3."""
EQUAL: Final = 2e-6
"""Greatest difference of the cosine from 1 of rows that are the same: half precision makes 1e-6."""
APART: Final = 1e-5
"""Least range of the levels of rows that are the same, relative to the levels and to a deviation:
ten times the rounding errors."""
UNLIKE: Final = 0.12
"""Greatest median cosine of rows that have nothing in common: 0.04 at random in 256 numbers, 0.2
and more where training closed most gates."""
BALANCE: Final = 0.25
"""Greatest deviation of rows' sums over their norms if they were balanced: 1 at random."""
RARE: Final = 0.25
"""Greatest share of random images that a rare gate lets through; an honest one lets half."""
RARE_PUBLIC: Final = 0.125
"""The same of public images, of which a trained honest one may let a fifth through."""
ENOUGH: Final = 8  # rows, for what is said of many


def before_convolutions(view: View) -> Iterator[Sign]:
    """Find dense layers on the raw image whose output goes on to layers that take images."""
    for gate in view.gates:
        later = any(call.takes_images for call in view.calls[gate.number :])
        if later and gate.rows.total > 1 and _holds_images(view, gate.weights):
            yield Sign(
                "dense layer before convolutions",
                gate.weights,
                "high",
                f"a dense layer of {gate.rows.total} rows sees the whole raw image before layers "
                "that take images do, which no classifier needs and every imprint has",
            )


def _holds_images(view: View, weights: Sequence[str]) -> bool:
    """Return whether one of some weights has about a number a pixel, unlike one over patches."""
    sizes = (max(view.model.get_parameter(name).shape) for name in weights)
    return 2 * max(sizes) >= torch.Size(view.spec.shape).numel()


def ladders(view: View) -> Iterator[Sign]:
    """Find rows that measure the same and differ in where they begin to let images through."""
    for gate in view.gates:
        cosine = cosines(gate.rows.sample)
        steps = [
            group
            for group in groups(cosine)
            if len(group) >= min(STEPS, gate.rows.total)
            and any(_is_ladder(seen, cosine, group) for seen in gate.seen if len(seen))
        ]
        rows = sum(len(group) for group in steps)
        if rows:
            yield Sign(
                "ladder",
                gate.weights,
                "high",
                f"{rows} of {_of(gate.rows)} repeat {_count(len(steps), 'measurement')} of the "
                "image and differ in their thresholds, so that the difference of two neighbours "
                "holds single records",
            )


def _is_ladder(seen: Float[Tensor, "images rows"], cosine: Tensor, group: Tensor) -> bool:
    """Return whether parallel rows open at different values, be it slightly if they are equal."""
    steps = levels(seen, cosine, group)
    equal = bool((cosine[group[0], group[1:]].abs() > 1 - EQUAL).all())
    least = APART * (1 + float(steps.abs().max())) if equal else SPREAD
    return len(group) > 2 and float(steps[-1] - steps[0]) >= least


def few_parallel_rows(view: View) -> Iterator[Sign]:
    """Find a gate of so few rows that parallel ones serve to cut one slice out of the records."""
    for gate in view.gates:
        cosine = cosines(gate.rows.sample)
        if 1 < gate.rows.total <= 4 and len(groups(cosine)):
            yield Sign(
                "few parallel rows",
                gate.weights,
                "medium",
                f"{_of(gate.rows)} measure the same of the whole image, as if to cut out the "
                "records between two thresholds",
            )


def balanced_rows(view: View) -> Iterator[Sign]:
    """Find rows whose positive and negative numbers weigh the same, as those of trap weights."""
    for gate in view.gates:
        table = gate.rows
        if len(table.norm) < ENOUGH or _mostly_parallel(table):
            continue
        deviation = float(table.balance.std())
        if deviation <= BALANCE:
            yield Sign(
                "trap weights",
                gate.weights,
                "high",
                f"the sums of its {_of(table)} differ {1 / max(deviation, 1e-3):.0f} times less "
                "than sums of independent numbers do: positive weights make up for negative ones, "
                "which lets few records through each row",
            )


def _mostly_parallel(table: RowTable) -> bool:
    return 2 * sum(map(len, groups(cosines(table.sample)))) > len(table.norm)


def halved_rows(view: View) -> Iterator[Sign]:
    """Find rows that leave out a good part of the image, each another part."""
    for gate in view.gates:
        share = float(gate.rows.small.median())
        if len(gate.rows.norm) >= ENOUGH and share >= 0.25 and not _mostly_parallel(gate.rows):
            yield Sign(
                "halved rows",
                gate.weights,
                "medium",
                f"each row pays next to no attention to {share:.0%} of the image, as trap weights "
                "with a small scale do",
            )


def rare_gates(view: View) -> Iterator[Sign]:
    """Find gates that let through few of the images, by rows that have nothing in common.

    Where training closes most gates, their rows are alike.
    """
    for gate in view.gates:
        if len(gate.rows.norm) < ENOUGH or likeness(gate.rows.sample) > UNLIKE:
            continue
        for seen, limit in zip(gate.seen, (RARE, RARE_PUBLIC), strict=False):
            if not len(seen):
                continue
            share = (seen > 0).float().mean(0)
            rare, alive = (share <= limit).float().mean(), (share > 0).float().mean()
            if share.median() <= limit and rare >= 0.75 and alive >= 0.25:
                yield Sign(
                    "rare gates",
                    gate.weights,
                    "high" if limit == RARE else "medium",
                    f"half of {_of(gate.rows)} let at most {float(share.median()):.0%} of the "
                    "images through, so that a row's gradient often holds a single record",
                )
                break


DENSE_TESTS: Final = (ladders, few_parallel_rows, balanced_rows, halved_rows, rare_gates)
"""Those that look at the gates alone."""


def _of(table: RowTable) -> str:
    looked = len(table.norm)
    return f"{table.total} rows" if looked == table.total else f"{looked} rows looked at"


def _count(number: int, thing: str) -> str:
    return f"one {thing}" if number == 1 else f"{number} {thing}s"
