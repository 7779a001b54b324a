"""What an inspection says: signs that a model was made to single records out."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Sureness = Literal["high", "medium"]
"""How sure a sign is: ``high`` where training cannot make it, ``medium`` where it hardly would."""


@dataclass(frozen=True)
class Sign:
    """Something in a model that an attack needs and training does not make.

    Attributes:
        kind: Name of the test that found it.
        where: Names of the parameters that show it.
        sure: How sure it is.
        words: What was found and what it is good for, in a sentence without its end.
    """

    kind: str
    where: tuple[str, ...]
    sure: Sureness
    words: str


@dataclass(frozen=True)
class Inspection:
    """What was found in a model.

    Attributes:
        signs: What an attack would need, the surest first.
        notes: What the reader should know besides; nothing here is a reason to refuse.
    """

    signs: tuple[Sign, ...]
    notes: tuple[str, ...] = ()


def ordered(signs: Iterable[Sign]) -> tuple[Sign, ...]:
    """Return signs with the surest first, each kind and place once."""
    once: dict[tuple[str, tuple[str, ...]], Sign] = {}
    for sign in signs:
        once.setdefault((sign.kind, sign.where), sign)
    return tuple(sorted(once.values(), key=lambda sign: sign.sure))
