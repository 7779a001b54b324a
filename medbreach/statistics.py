"""Closed forms behind the verdict."""

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from medbreach.types import Rate

_Z95 = 1.959963984540054


def wilson(count: int, total: int) -> Rate:
    """Return a share with its 95 % Wilson score interval.

    Source: Wilson 1927, doi:10.1080/01621459.1927.10502953.

    >>> rate = wilson(2, 4)
    >>> round(rate.low, 3), round(rate.high, 3)
    (0.15, 0.85)
    """
    if total == 0:
        return Rate(0, 0, 0.0, 1.0)
    share, z2 = count / total, _Z95**2
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z95 / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    low = 0.0 if count == 0 else max(0.0, centre - half)
    high = 1.0 if count == total else min(1.0, centre + half)
    return Rate(count, total, low, high)


def middle(values: Iterable[float], better: str) -> float:
    """Return the median; of the two in the middle, the one that is less close.

    Their mean would be the score of no image: of two exact claims and two bad ones, PSNR would look
    like a triumph and squared error like a failure.

    Args:
        values: Scores; at least one.
        better: ``lower`` if lower ones mean a closer likeness.

    >>> middle([20.0, math.inf], "higher"), middle([0.0, 0.5], "lower")
    (20.0, 0.5)
    """
    return (statistics.median_high if better == "lower" else statistics.median_low)(values)


def chance(decoys: int) -> float:
    """Return the probability at most that a record beats all of its decoys by luck."""
    return 1 / (decoys + 1)


class Pool(NamedTuple):
    """Records of one class, and their decoys."""

    records: int
    decoys: int


def tail(identified: int, pools: Iterable[tuple[int, int]]) -> float:
    """Return the probability at most of so many identified records, or more, by luck.

    A record is identified only if it lies above every decoy of its class in likeness to the claims.
    If the claims are independent of the records, each order of the images of a class is equally
    likely, and at least k records of a class lie above its decoys exactly if its k highest images
    are all records. Classes, rounds and seeds are independent.

    Args:
        identified: Records identified in all pools together.
        pools: Records and decoys of each class of each round.

    >>> tail(1, [Pool(1, 99)])
    0.01
    >>> tail(0, [Pool(4, 99)])
    1.0
    """
    return 1.0 if identified <= 0 else min(1.0, math.fsum(masses(pools)[identified:]))


def masses(pools: Iterable[tuple[int, int]]) -> list[float]:
    """Return the probability of 0, 1, ... records above all decoys of their class by luck.

    >>> masses([Pool(1, 3)])
    [0.75, 0.25]
    """
    total = [1.0]
    for records, decoys in pools:
        total = _convolve(total, _point_masses(records, decoys))
    return total


def tail_of_draws(identified: int, pools: Iterable[tuple[int, int]], draws: int) -> float:
    """Return the probability at most of so many identified records, or more, in many draws.

    Args:
        identified: Records identified in all draws together.
        pools: Records and decoys of each class, whose parts each draw deals anew.
        draws: Number of draws.

    >>> round(tail_of_draws(1, [Pool(1, 9)], 2), 6)
    0.19
    """
    one = np.array(masses(pools))
    size = (len(one) - 1) * draws + 1
    mass = np.fft.irfft(np.fft.rfft(one, size) ** draws, size)
    return 1.0 if identified <= 0 else float(np.clip(mass[identified:].sum(), 0.0, 1.0))


def _top(count: int, records: int, decoys: int) -> float:
    """Return the probability that the highest ``count`` images are all records."""
    return math.prod(
        ((records - i) / (records + decoys - i) if i < records else 0.0 for i in range(count)),
        start=1.0,
    )


def _point_masses(records: int, decoys: int) -> list[float]:
    tails = [_top(k, records, decoys) for k in range(records + 1)] + [0.0]
    return [above - beyond for above, beyond in itertools.pairwise(tails)]


def _convolve(a: Sequence[float], b: Sequence[float]) -> list[float]:
    out = [0.0] * (len(a) + len(b) - 1)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            out[i + j] += x * y
    return out
