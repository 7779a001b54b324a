"""What one stack of defenses buys and costs, in numbers."""

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from medbreach.conclusion import Cell, Conclusion
from medbreach.plan import ADAPTIVE
from medbreach.tradeoff.line import Line
from medbreach.tradeoff.predictions import Interval, Predictions, cost, utility
from medbreach.types import Guarantee, Rate, Verdict


class Leak(NamedTuple):
    """What one attack read behind a stack.

    Attributes:
        attack: Its name; ``(adaptive)`` at its end if it knew the defenses.
        identified: Identified records over all.
        psnr: Median PSNR of matched claims in dB; None if there is none.
        verdict: What all seeds say together.
    """

    attack: str
    identified: Rate
    psnr: float | None
    verdict: Verdict


class Point(NamedTuple):
    """What one stack of defenses buys and costs.

    Attributes:
        stack: Its name.
        utility: Accuracy, AUC and F1 on test images; empty if no training ended.
        cost: What the stack changes of them against no defense; empty without that training.
        seconds: Of a round, all clients together; None if no training ended.
        times: The same over that without defense; None without it.
        leaks: What each attack read.
        guarantees: What differential privacy the training has, with the seed where it is least.
        problems: Why a training or an attack came to nothing.
        seeds: Trainings that ended.
    """

    stack: str
    utility: Mapping[str, Interval]
    cost: Mapping[str, Interval]
    seconds: float | None
    times: float | None
    leaks: tuple[Leak, ...]
    guarantees: tuple[Guarantee, ...]
    problems: tuple[str, ...]
    seeds: int

    @property
    def worst(self) -> Leak | None:
        """The attack that identified the greatest share, adaptive ones included."""
        tried = [leak for leak in self.leaks if leak.identified.total]
        return max(
            tried, key=lambda leak: (share_of(leak.identified), leak.psnr or 0), default=None
        )

    @property
    def judged_by_adaptive(self) -> bool:
        """Whether an attacker who knows the defenses was among those who tried."""
        return any(leak.attack.endswith(ADAPTIVE) for leak in self.leaks)


def share_of(rate: Rate) -> float:
    """Return a rate's share."""
    return rate.count / max(1, rate.total)


def points(
    lines: Sequence[Line],
    predictions: Mapping[tuple[str, int], Predictions],
    conclusion: Conclusion,
    undefended: str,
) -> list[Point]:
    """Return a point for each stack.

    Args:
        lines: What each training came to.
        predictions: What the trained networks say of test images, by stack and seed.
        conclusion: What the audit showed.
        undefended: Name of the empty stack.
    """
    stacks = list(dict.fromkeys(line.stack for line in lines))
    seconds = {stack: _seconds(lines, stack) for stack in stacks}
    found = []
    for stack in stacks:
        own = [line for line in lines if line.stack == stack]
        seeds = [line.seed for line in own if (stack, line.seed) in predictions]
        paired = [seed for seed in seeds if (undefended, seed) in predictions]
        mine, base = seconds[stack], seconds.get(undefended)
        cells = [c for c in conclusion.cells if ("+".join(c.defenses) or undefended) == stack]
        found.append(
            Point(
                stack=stack,
                utility=utility([predictions[stack, s] for s in seeds]) if seeds else {},
                cost=cost(
                    [predictions[stack, s] for s in paired],
                    [predictions[undefended, s] for s in paired],
                )
                if paired
                else {},
                seconds=mine,
                times=mine / base if mine and base else None,
                leaks=tuple(map(_leak, cells)),
                guarantees=_weakest(own),
                problems=tuple(
                    dict.fromkeys(filter(None, [*(x.problem for x in own), *_notes(cells)]))
                ),
                seeds=len(seeds),
            )
        )
    return found


def front(found: Sequence[Point], measure: str = "accuracy") -> list[Point]:
    """Return the points that no other beats in utility and leakage alike (the Pareto front)."""
    there = [p for p in found if p.worst is not None and p.utility]

    def place(point: Point) -> tuple[float, float]:
        assert point.worst is not None
        return share_of(point.worst.identified), -point.utility[measure].value

    def beaten(point: Point) -> bool:
        mine = place(point)
        return any(
            place(o) != mine and all(a <= b for a, b in zip(place(o), mine, strict=True))
            for o in there
        )

    return sorted((p for p in there if not beaten(p)), key=place)


def _weakest(lines: Sequence[Line]) -> tuple[Guarantee, ...]:
    """Return the guarantees of the seed that has the greatest epsilon; clients differ in size."""
    given = [line.guarantees for line in lines]
    return max(given, key=lambda own: max((one.epsilon for one in own), default=0.0))


def _leak(cell: Cell) -> Leak:
    scores = [s for f in cell.findings for s in f.scores.get("psnr", ()) if s is not None]
    middle = statistics.median_high(scores) if scores else None
    return Leak(cell.attack, cell.identified, middle, cell.verdict)


def _notes(cells: Sequence[Cell]) -> list[str]:
    open_ends = (Verdict.FAILED, Verdict.NOT_APPLICABLE, Verdict.REFUSED)
    return [
        f"{cell.attack}: {f.note}"
        for cell in cells
        for f in cell.findings
        if f.verdict in open_ends and f.note
    ]


def _seconds(lines: Sequence[Line], stack: str) -> float | None:
    own = [line.seconds / line.rounds for line in lines if line.stack == stack and line.rounds]
    return statistics.median(own) if own else None
