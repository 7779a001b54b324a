"""Ctrl-C that does not get lost.

Python raises `KeyboardInterrupt` wherever the program happens to be, also in code that catches
everything, or in a destructor, where it is printed and forgotten. An attack that was cut off so
would count as one that ended.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def remembered() -> Iterator[Callable[[], None]]:
    """Yield a function that raises `KeyboardInterrupt` if there has been a Ctrl-C since.

    Where another thread or somebody else's handler takes the signal, it does nothing.
    """
    pressed = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        signal.default_int_handler(number, frame)

    def check() -> None:
        if pressed:
            raise KeyboardInterrupt

    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield check
        return
    signal.signal(signal.SIGINT, remember)
    try:
        yield check
    finally:
        still_ours = threading.current_thread() is threading.main_thread()
        if still_ours and signal.getsignal(signal.SIGINT) is remember:
            signal.signal(signal.SIGINT, signal.default_int_handler)
