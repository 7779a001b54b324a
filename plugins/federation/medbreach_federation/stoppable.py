"""A way to Flower's clients that gives up waiting when the program is stopped."""

import threading
import time
from collections.abc import Iterable
from typing import Final

from flwr.app import Message
from flwr.serverapp import Grid

POLL: Final = 0.05  # seconds between looks for replies


class Stopped(Exception):  # noqa: N818 - an event, no error
    """The program is stopped."""


class StoppableGrid:
    """Flower's grid, as far as strategies use it.

    Flower's server runs in a thread of its own, and waits for clients as long as a round may take:
    a program that is stopped would go on until then.

    Args:
        grid: Flower's.
        stop: Is set when the program is stopped.
    """

    def __init__(self, grid: Grid, stop: threading.Event) -> None:
        self._grid, self._stop = grid, stop

    def get_node_ids(self) -> list[int]:
        """Return who is connected.

        Raises:
            Stopped: The program is.
        """
        if self._stop.is_set():
            raise Stopped
        return list(self._grid.get_node_ids())

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Return the replies that come in time.

        Args:
            messages: What is sent.
            timeout: In seconds; None to wait for all.

        Raises:
            Stopped: The program is.
        """
        waiting = set(self._grid.push_messages(messages))
        end = None if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        while waiting and (end is None or time.monotonic() < end):
            if self._stop.is_set():
                raise Stopped
            came = list(self._grid.pull_messages(waiting))
            replies += came
            waiting -= {reply.metadata.reply_to_message_id for reply in came}
            if waiting:
                time.sleep(POLL)
        return replies
