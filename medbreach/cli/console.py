"""Where the program prints to."""

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.console import Console

WIDE: Final = 200  # columns of a file or pipe, where nothing says how wide it is


def console(*, stderr: bool = False) -> "Console":
    """Return standard output or error; lines for a program to read are not broken."""
    from rich.console import Console

    made = Console(stderr=stderr)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = WIDE
    return made


@contextlib.contextmanager
def waiting(words: str, *, quiet: bool) -> Iterator[None]:
    """Say in a terminal what there is to wait for."""
    errors = console(stderr=True)
    if quiet or not errors.is_terminal:
        yield
    else:
        with errors.status(words):
            yield
