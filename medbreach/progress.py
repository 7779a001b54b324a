"""How long-running attacks tell where they are, and leave points to go on from.

An attack asks for the `current` watch and need not know who looks at it: without an audit around
it, every call does nothing.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch

State = Mapping[str, Any]


class Watch:
    """Somebody who follows an attack. This one takes no interest."""

    def step(self, done: int, total: int) -> None:
        """Hear that ``done`` of ``total`` equal steps are behind."""

    def checkpoint(self, state: Callable[[], State]) -> None:
        """Keep ``state()``, plain values and tensors, if it is time to: it can be asked for often."""

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
        """Write the state so that a kill at any moment leaves the old or the new one, whole."""
        if time.monotonic() - self._last < self._seconds:
            return
        partial = self._file.with_suffix(".partial")
        torch.save(dict(state()), partial)
        partial.replace(self._file)
        self._last = time.monotonic()

    def restore(self) -> State | None:
        """Read the last checkpoint, if there is one."""
        if not self._file.is_file():
            return None
        kept: State = torch.load(self._file, weights_only=True)
        return kept

    def clear(self) -> None:
        """Forget the checkpoint: the attack is over."""
        self._file.unlink(missing_ok=True)
        self._file.with_suffix(".partial").unlink(missing_ok=True)


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
