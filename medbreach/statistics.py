"""Closed forms behind the verdict."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

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


def chance(decoys: int) -> float:
    """Return the probability that a record beats all of its decoys by luck."""
    return 1 / (decoys + 1)


def tail(identified: int, records: int, decoys: int) -> float:
    """Return the probability of at least so many identified records by luck.

    A record is identified if it lies above every decoy in likeness to the claims. If the claims are
    independent of the records, each order of the ``records + decoys`` images is equally likely, and
    at least k records are identified exactly if the k highest images are all records.

    >>> tail(1, 1, 99)
    0.01
    >>> tail(0, 4, 99)
    1.0
    """
    return math.prod(
        ((records - i) / (records + decoys - i) if i < records else 0.0 for i in range(identified)),
        start=1.0,
    )


class Count(NamedTuple):
    """Identified records of one attempt."""

    identified: int
    records: int
    decoys: int


def pooled_tail(counts: Iterable[Count]) -> float:
    """Return the probability of at least so many identified records over independent attempts.

    >>> pooled_tail([Count(1, 4, 99)]) == tail(1, 4, 99)
    True
    """
    total, ahead = 0, [1.0]
    for count in counts:
        total += count.identified
        ahead = _convolve(ahead, _point_masses(count.records, count.decoys))
    return min(1.0, math.fsum(ahead[total:]))


def binomial_tail(count: int, total: int, share: float) -> float:
    """Return the probability of at least ``count`` of ``total`` independent events."""
    if count <= 0:
        return 1.0
    logs = [
        math.lgamma(total + 1)
        - math.lgamma(k + 1)
        - math.lgamma(total - k + 1)
        + k * math.log(share)
        + (total - k) * math.log1p(-share)
        for k in range(count, total + 1)
    ]
    return min(1.0, math.fsum(math.exp(v) for v in logs))


def _point_masses(records: int, decoys: int) -> list[float]:
    tails = [tail(k, records, decoys) for k in range(records + 1)] + [0.0]
    return [above - beyond for above, beyond in itertools.pairwise(tails)]


def _convolve(a: Sequence[float], b: Sequence[float]) -> list[float]:
    out = [0.0] * (len(a) + len(b) - 1)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            out[i + j] += x * y
    return out
