"""What the program's exit codes mean."""

from enum import IntEnum


class Exit(IntEnum):
    """How a command ended."""

    NO_LEAK = 0
    NOTHING_FOUND = 0
    LEAK = 1
    FOUND = 1
    WRONG_INPUT = 2
    INCONCLUSIVE = 3
    CRASHED = 70  # as in BSD's sysexits
    STOPPED = 130
    PIPE_CLOSED = 141
