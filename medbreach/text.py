"""Words of strangers (files, plugins, exceptions) made fit to be shown and to name files."""

import contextlib
import logging
import re
from collections.abc import Iterator
from typing import Final

from medbreach.errors import MedbreachError

log = logging.getLogger(__name__)

_ILLEGIBLE: Final = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def legible(text: str) -> str:
    r"""Return text without what no page, XML or terminal should be fed.

    Names and notes come from files and plugins. Control characters (terminal commands among them),
    marks that turn the writing direction, and halves of characters become U+FFFD.

    >>> legible("scan\x1b[2J") == "scan\ufffd[2J"
    True
    """
    return _ILLEGIBLE.sub("\ufffd", text)


def in_a_line(error: BaseException) -> str:
    r"""Return what an exception says, short and in one line; its type if it is somebody else's.

    >>> in_a_line(ValueError("two\nlines"))
    'ValueError: two lines'
    """
    words = " ".join(str(error).split())[:300]
    return words if isinstance(error, MedbreachError) else f"{type(error).__name__}: {words}"


@contextlib.contextmanager
def blaming(kind: type[MedbreachError], what: str) -> Iterator[None]:
    """Turn what somebody else's code raises into an error that says what failed; ours pass.

    Args:
        kind: The error to raise.
        what: What failed, the beginning of the sentence.

    Raises:
        MedbreachError: Something was raised.
    """
    try:
        yield
    except MedbreachError:
        raise
    except Exception as error:
        log.debug("%s", what, exc_info=True)
        raise kind(f"{what}: {in_a_line(error)}") from error


def file_name(words: str) -> str:
    """Return words with everything replaced that does not belong into a file's name.

    >>> file_name("a b/../c")
    'a_b_.._c'
    """
    return re.sub(r"[^\w.+-]", "_", words)
