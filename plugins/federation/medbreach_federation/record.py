"""What a federation's folder holds: its state after the last round, its weights, and its lines."""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from medbreach.encoding import encode
from medbreach.errors import RecordError
from medbreach.storage import (
    append_line,
    drop_partial_line,
    locked,
    packed,
    speaking_of,
    write_whole,
)
from medbreach_federation.learner import Weights

STATE: Final = "federation.pt"
WEIGHTS: Final = "weights.pt"
LINES: Final = "rounds.jsonl"
PATIENCE: Final = 10.0  # seconds


@dataclass(frozen=True)
class RoundLine:
    """What is kept of a round, a line of `rounds.jsonl`.

    Attributes:
        round: Its number, from 1; 0 is before the first.
        evaluation: How good the federation's weights are, by the learner's measures.
        measures: Numbers about the round.
        clients: Of each client that took part: its own measures, and what the rule says of it.
        isolated: Why a client's result did not count.
        seconds: Time from the last round's end to this one's.
    """

    round: int
    evaluation: Mapping[str, float] = field(default_factory=dict)
    measures: Mapping[str, float] = field(default_factory=dict)
    clients: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    isolated: Mapping[int, str] = field(default_factory=dict)
    seconds: float = 0.0

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> "RoundLine":
        """Return the round that a line of the file tells of."""
        values = dict(line)
        for key in ("clients", "isolated"):
            values[key] = {int(k): v for k, v in values[key].items()}
        return cls(**values)


class State(NamedTuple):
    """A federation after a round.

    Attributes:
        weights: What it has learned.
        round: The round's number, from 1.
        rule: What its rule remembers.
    """

    weights: Weights
    round: int
    rule: Mapping[str, Any]


def read_state(folder: Path) -> State | None:
    """Return how far a federation is; None if no round came to an end.

    Raises:
        RecordError: The file is damaged.
    """
    file = folder / STATE
    if not file.is_file():
        return None
    try:
        return State(**torch.load(file, map_location="cpu", weights_only=True))
    except Exception as error:  # what torch raises has no common base
        raise _damaged(file) from error


def write_state(folder: Path, state: State) -> None:
    """Write how far a federation is, and its weights as a file of their own.

    Raises:
        RecordError: They cannot be written.
    """
    with speaking_of(folder):
        write_whole(folder / STATE, packed({**state._asdict(), "weights": dict(state.weights)}))
    write_weights(folder, state.weights)


def write_weights(folder: Path, weights: Weights) -> None:
    """Write weights where ``case.weights=`` can take them.

    Raises:
        RecordError: They cannot be written.
    """
    with speaking_of(folder):
        write_whole(folder / WEIGHTS, packed(weights))


def check_rounds(folder: Path, played: int, wanted: int) -> None:
    """Check that a folder has not played more rounds than are asked for.

    Raises:
        RecordError: It has.
    """
    if wanted < played:
        raise RecordError(
            f"{folder} has played {played} rounds, more than the {wanted} that are asked for: ask "
            f"for {played} or more (federation.rounds), or choose another --out"
        )


def read_lines(folder: Path, done: int) -> list[RoundLine]:
    """Return the lines of rounds that came to an end; the one of a round that did not is dropped.

    Args:
        folder: The federation's.
        done: How many rounds came to an end.

    Raises:
        RecordError: The file lacks rounds, or is damaged, or the state is missing.
    """
    file = folder / LINES
    drop_partial_line(file)
    try:
        text = file.read_text() if file.is_file() else ""
        lines = [RoundLine.of(json.loads(line)) for line in text.splitlines()]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _damaged(file) from error
    if not lines and not done:
        return []
    numbers = [line.round for line in lines]
    if numbers not in (list(range(done + 1)), list(range(done + 2))):  # a kill leaves one too many
        raise RecordError(
            f"{file} is damaged: it should have rounds 0 to {done}, of which {folder / STATE} "
            "tells; choose another --out"
        )
    if len(lines) > done + 1:
        kept = "".join(json.dumps(encode(line.__dict__)) + "\n" for line in lines[: done + 1])
        with speaking_of(folder):
            write_whole(file, kept.encode())
    return lines[: done + 1]


def add_line(folder: Path, line: RoundLine) -> None:
    """Add a round's line.

    Raises:
        RecordError: It cannot be written.
    """
    with speaking_of(folder):
        append_line(folder / LINES, json.dumps(encode(line.__dict__)))


@contextlib.contextmanager
def taken(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to a folder, which is made.

    A process that Ray forked for the last federation may hold the lock a moment longer than that.

    Raises:
        RecordError: Another process is writing to it, or it cannot be written.
    """
    with speaking_of(folder):
        folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + PATIENCE
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(locked(folder))
                break
            except RecordError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)
        yield


def _damaged(file: Path) -> RecordError:
    return RecordError(f"{file} is damaged: choose another --out")
