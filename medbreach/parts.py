"""One attack on several exchanges in turn: progress and checkpoints of all of them together."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from medbreach.progress import State, Watch
from medbreach.types import Reconstruction


class Part(Watch):
    """Follows an attack on one of several exchanges, for somebody who follows them all.

    Args:
        whole: Who follows them all.
        number: Which exchange this is.
        count: Number of exchanges.
        earlier: Claims from the exchanges before it.
    """

    def __init__(
        self, whole: Watch, number: int, count: int, earlier: Sequence[Reconstruction]
    ) -> None:
        self._whole, self._number, self._count = whole, number, count
        self._earlier = [asdict(claims) for claims in earlier]

    def step(self, done: int, total: int) -> None:
        """Pass the step on; each exchange has the same share of the way."""
        self._whole.step(self._number * total + done, self._count * total)

    def checkpoint(self, state: Callable[[], State]) -> None:
        """Keep the state with the claims from the exchanges before."""

        def all_parts() -> dict[str, Any]:
            return {"part": self._number, "state": dict(state()), "earlier": self._earlier}

        self._whole.checkpoint(all_parts)

    def restore(self) -> State | None:
        """Return what was last kept of the attack on this exchange, or None."""
        kept = self._whole.restore()
        return kept["state"] if kept is not None and kept["part"] == self._number else None


def finished(whole: Watch) -> list[Reconstruction]:
    """Return the claims from exchanges that an attack was done with when it was cut off."""
    kept = whole.restore()
    return [] if kept is None else [Reconstruction(**claims) for claims in kept["earlier"]]
