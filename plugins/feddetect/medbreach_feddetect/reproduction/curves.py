"""Curves over rounds, as points of an SVG."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from medbreach_federation import RoundLine

WIDTH: Final = 420
HEIGHT: Final = 150


class Curves(NamedTuple):
    """A number of each client over rounds.

    Attributes:
        points: Of each client's line, as SVG has them.
        low: Value at the lower edge.
        high: Value at the upper edge.
    """

    points: list[str]
    low: float
    high: float


def curves(
    lines: Sequence[RoundLine], name: str, bounds: tuple[float, float] | None = None
) -> Curves:
    """Return the curves of a number.

    Args:
        lines: Rounds.
        name: Of the number.
        bounds: Values at the lower and the upper edge; None: the least and the greatest.
    """
    played = [line for line in lines if line.clients]
    clients = sorted(played[0].clients)
    values = [[line.clients[k][name] for line in played] for k in clients]
    every = [value for own in values for value in own]
    low, high = bounds or (min(every), max(every))
    span = (high - low) or 1.0
    step = WIDTH / max(1, len(played) - 1)
    points = [
        " ".join(
            f"{k * step:.1f},{HEIGHT * (1 - (value - low) / span):.1f}"
            for k, value in enumerate(own)
        )
        for own in values
    ]
    return Curves(points, low, high)


def verdicts(lines: Sequence[RoundLine]) -> list[tuple[int, list[int]]]:
    """Return the rounds in which each client was flagged."""
    played = [line for line in lines if line.clients]
    clients = sorted(played[0].clients)
    return [(k, [line.round for line in played if line.clients[k]["flagged"]]) for k in clients]
