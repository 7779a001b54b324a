"""What a check says, and the words that checks share."""

import math
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """Something about a configuration.

    Attributes:
        id: The check's name, for machines.
        severity: ``error``: the stated privacy does not hold; ``warning``: it may not, or nobody
            can tell; ``note``: worth knowing.
        wrong: What is wrong, one sentence.
        right: What would be right, one sentence.
    """

    id: str
    severity: Severity
    wrong: str
    right: str


def words(number: float) -> str:
    """Return a number for a sentence.

    >>> [words(n) for n in (0.25, 4.23456, 70333.0, 2.1309e8, math.inf)]
    ['0.25', '4.235', '70,333', '2.131e+08', 'infinite']
    """
    if math.isinf(number):
        return "infinite"
    if 1000 <= number < 1e6:
        return f"{number:,.0f}"
    return f"{number:.4g}"


def some(names: tuple[str, ...]) -> str:
    """Return a few names for a sentence."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
