"""How long-running attacks tell where they are, and leave points to go on from.

An attack asks for the `current` watch and need not know who looks at it: without an audit around
it, every call does nothing.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch

from medbreach.storage import packed, speaking_of, write_whole

log = logging.getLogger(__name__)

State = Mapping[str, Any]


class Watch:
    """Somebody who follows an attack. This one takes no interest."""

    def step(self, done: int, total: int) -> None:
        """Hear that ``done`` of ``total`` equal steps are behind."""

    def checkpoint(self, state: Callable[[], State]) -> None:
        """Keep ``state()``, plain values and tensors, if it is time to: this is called often."""

    def restore(self) -> State | None:
        """Return what was last kept of this very attempt, or None."""
        return None


class FileWatch(Watch):
    """Passes steps on and keeps checkpoints in a file.

    Args:
        on_step: Called with ``done`` and ``total``.
        file: Where checkpoints lie.
        seconds: Least time between two of them.
    """

    def __init__(
        self, on_step: Callable[[int, int], None], file: Path, seconds: float = 15.0
    ) -> None:
        self._on_step = on_step
        self._file = file
        self._seconds = seconds
        self._last = time.monotonic()

    def step(self, done: int, total: int) -> None:
        """Pass the step on."""
        self._on_step(done, total)

    def checkpoint(self, state: Callable[[], State]) -> None:
        """Write the state so that a kill at any moment leaves the old or the new one, whole.

        Raises:
            RecordError: It cannot be written; the old one is still there.
        """
        if time.monotonic() - self._last < self._seconds:
            return
        content = packed(state())
        with speaking_of(self._file.parent):
            write_whole(self._file, content)
        self._last = time.monotonic()

    def restore(self) -> State | None:
        """Read the last checkpoint; without a whole one, the attack starts again."""
        if not self._file.is_file():
            return None
        try:
            kept: State = torch.load(self._file, weights_only=True)
        except Exception:  # noqa: BLE001 - whatever a damaged file makes the reader raise
            log.warning("%s is damaged: the attack starts again", self._file)
            return None
        return kept


_NOBODY = Watch()
_current: ContextVar[Watch] = ContextVar("watch", default=_NOBODY)


def current() -> Watch:
    """Return whoever follows the attack that is running."""
    return _current.get()


@contextlib.contextmanager
def watched_by(watch: Watch) -> Iterator[None]:
    """Let ``watch`` follow what runs inside."""
    token = _current.set(watch)
    try:
        yield
    finally:
        _current.reset(token)
