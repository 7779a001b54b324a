"""Playing a whole federation on Flower's simulation engine, going on where it was."""

import contextlib
import io
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from medbreach.encoding import encode
from medbreach.errors import RecordError
from medbreach.storage import append_line, drop_partial_line, locked, speaking_of, write_whole
from medbreach_federation.client import Build, client_app, record_of
from medbreach_federation.cluster import Cluster, speaking_of_engine
from medbreach_federation.learner import Learner
from medbreach_federation.memory import Memories
from medbreach_federation.rule import Rule
from medbreach_federation.stoppable import StoppableGrid
from medbreach_federation.strategy import Played, Rounds, WorkerDied

STATE: Final = "federation.pt"
LINES: Final = "rounds.jsonl"
PATIENCE: Final = 10.0  # seconds
TIMEOUT: Final = 3600.0  # seconds that a round waits for its clients


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


Tell = Callable[[RoundLine], None]
Keep = Callable[[Played], None]


def run_federation(
    folder: Path,
    build: Build,
    rule: Rule,
    rounds: int,
    *,
    fraction: float = 1.0,
    seed: int = 0,
    tell: Tell | None = None,
    keep: Keep | None = None,
    timeout: float = TIMEOUT,
    cluster: Cluster | None = None,
) -> list[RoundLine]:
    """Play a federation on Flower; return a line for each round, those from before included.

    What was cut off goes on after the last round that came to an end, with the same numbers as if
    it had not been. Processes that die are started again.

    Args:
        folder: Where everything is kept, with the settings that ``build`` reads.
        build: Returns the learner in each process; a function of a module.
        rule: What the server does.
        rounds: How many rounds there are in all.
        fraction: Of the clients that take part in a round.
        seed: Chooses them.
        tell: Is told of each round.
        keep: Is given all that was sent in a round, before it counts as played: to capture it.
        timeout: Seconds that a round waits for its clients.
        cluster: Where clients are played; None for this machine.

    Raises:
        ConfigError: There are fewer clients than the rule needs, or the cluster does not answer.
        ContractError: A round has too few usable results, the weights diverge, or Ray does not run.
        RecordError: The folder is damaged or cannot be written.
    """
    where = cluster or Cluster()
    where.check()
    learner = build(folder)
    rule.check(learner.clients, fraction)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        federation = _Federation(folder, build, learner, rule, tell, keep)
        federation.open()
        federation.play(rounds, fraction, seed, timeout, where)
        return federation.lines


class _Federation:
    """The server's side of one federation, and its folder."""

    def __init__(
        self,
        folder: Path,
        build: Build,
        learner: Learner,
        rule: Rule,
        tell: Tell | None,
        keep: Keep | None,
    ) -> None:
        self._folder, self._build, self._learner, self._rule = folder, build, learner, rule
        self._tell, self._keep = tell, keep
        self._began = time.perf_counter()
        self.lines: list[RoundLine] = []
        self._weights = learner.first()
        self._done = 0

    def open(self) -> None:
        """Take up what the folder holds, or begin."""
        state = self._state()
        if state is not None:
            self._weights, self._done = state["weights"], int(state["round"])
            self._rule.go_on(state["rule"])
        Memories(self._folder).forget_after(self._done)
        self.lines = self._read()
        if not self.lines:
            self._write(RoundLine(0, self._learner.evaluate(0, self._weights)))

    def _state(self) -> dict[str, Any] | None:
        file = self._folder / STATE
        if not file.is_file():
            return None
        try:
            kept = torch.load(file, map_location="cpu", weights_only=True)
            if {"weights", "round", "rule"} <= set(kept):
                return dict(kept)
        except Exception as error:
            raise RecordError(f"{file} is damaged: choose another --out") from error
        raise RecordError(f"{file} is damaged: choose another --out")

    def _read(self) -> list[RoundLine]:
        """Return the lines of rounds that came to an end; others are dropped."""
        file = self._folder / LINES
        if not file.is_file():
            return []
        drop_partial_line(file)
        try:
            lines = [RoundLine.of(json.loads(text)) for text in file.read_text().splitlines()]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RecordError(f"{file} is damaged: choose another --out") from error
        kept = [line for line in lines if line.round <= self._done]
        if len(kept) < len(lines):
            text = "".join(json.dumps(encode(line.__dict__)) + "\n" for line in kept)
            with speaking_of(self._folder):
                write_whole(file, text.encode())
        return kept

    def play(
        self, rounds: int, fraction: float, seed: int, timeout: float, cluster: Cluster
    ) -> None:
        """Play every round that is left, whatever processes die."""
        deaths: dict[int, list[int]] = {}
        while self._done < rounds:
            barred = {
                number: frozenset(k for k in clients if clients.count(k) > 1)
                for number, clients in deaths.items()
            }
            strategy = Rounds(
                self._rule, self._learner.clients, seed, fraction, self._done, self._weights,
                self._after, barred,
            )  # fmt: skip
            before = self._done
            try:
                self._simulate(strategy, rounds - before, timeout, cluster)
            except WorkerDied as died:
                told = deaths.setdefault(self._done + 1, [])
                told.extend(died.clients)
                Memories(self._folder).forget_after(self._done)

    def _simulate(self, strategy: Rounds, rounds: int, timeout: float, cluster: Cluster) -> None:
        server, stop = ServerApp(), threading.Event()
        threads: list[threading.Thread] = []

        @server.main()
        def main(grid: Grid, context: Context) -> None:
            del context
            threads.append(threading.current_thread())
            there: Any = StoppableGrid(grid, stop)
            strategy.start(there, record_of(strategy.weights), num_rounds=rounds, timeout=timeout)

        app = client_app(self._build, self._folder.absolute())
        with _quiet():
            from flwr.simulation import run_simulation

            try:
                with speaking_of_engine():
                    run_simulation(
                        server, app, self._learner.clients, backend_config=cluster.backend
                    )
            finally:
                stop.set()
                for thread in threads:
                    thread.join(PATIENCE)

    def _after(self, played: Played) -> None:
        """Keep a round that was played: only then does it count."""
        if self._keep is not None:
            self._keep(played)
        of_clients = {
            client: {**result.measures, **played.aggregate.of_clients.get(client, {})}
            for client, result in played.results.items()
        }
        self._weights, self._done = played.aggregate.weights, played.round
        self._write(
            RoundLine(
                played.round,
                self._learner.evaluate(played.round, self._weights),
                played.aggregate.measures,
                of_clients,
                played.isolated,
                time.perf_counter() - self._began,
            )
        )
        stream = io.BytesIO()
        kept = {
            "weights": dict(self._weights), "round": played.round, "rule": self._rule.keep()
        }  # fmt: skip
        torch.save(kept, stream)
        with speaking_of(self._folder):
            write_whole(self._folder / STATE, stream.getvalue())

    def _write(self, line: RoundLine) -> None:
        with speaking_of(self._folder):
            append_line(self._folder / LINES, json.dumps(encode(line.__dict__)))
        self.lines.append(line)
        self._began = time.perf_counter()
        if self._tell is not None:
            self._tell(line)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to a folder.

    A process that Ray forked for the last federation may hold the lock a moment longer than that.

    Raises:
        RecordError: Another process is writing to it.
    """
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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Flower and Ray from writing to the console and from sending usage numbers."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what later versions do
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
