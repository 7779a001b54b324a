"""What one training came to."""

from dataclasses import dataclass
from typing import Any

from medbreach.types import Guarantee


@dataclass(frozen=True)
class Line:
    """One training: a stack of defenses and a seed.

    Attributes:
        stack: Name of the stack.
        seed: The seed.
        rounds: Rounds that were played; 0 if it came to nothing.
        seconds: Time that clients and server took in them.
        problem: Why it came to nothing, or ``""``.
        curve: Rounds and the accuracy on test images after them.
        guarantees: What differential privacy the training has.
    """

    stack: str
    seed: int
    rounds: int = 0
    seconds: float = 0.0
    problem: str = ""
    curve: tuple[tuple[int, float], ...] = ()
    guarantees: tuple[Guarantee, ...] = ()

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Line":
        """Return a line that was kept as plain values.

        Raises:
            TypeError, ValueError: It is none.
        """
        values = dict(values)
        given = values.pop("guarantees", ())
        curve = tuple((int(r), float(a)) for r, a in values.pop("curve", ()))
        epsilons = [float(one["epsilon"]) for one in given]
        guarantees = tuple(
            Guarantee(**{**one, "epsilon": e}) for one, e in zip(given, epsilons, strict=True)
        )
        return cls(**values, curve=curve, guarantees=guarantees)
