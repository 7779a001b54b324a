"""Playing a whole federation on Flower's simulation engine, going on where it was."""

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from medbreach_federation.client import Build, client_app, record_of
from medbreach_federation.cluster import Cluster
from medbreach_federation.engine import quiet, simulate
from medbreach_federation.learner import Learner
from medbreach_federation.memory import Memories
from medbreach_federation.record import (
    RoundLine,
    State,
    add_line,
    check_rounds,
    read_lines,
    read_state,
    taken,
    write_state,
    write_weights,
)
from medbreach_federation.rule import Rule
from medbreach_federation.stoppable import StoppableGrid
from medbreach_federation.strategy import Played, Rounds

PATIENCE: Final = 10.0  # seconds
TIMEOUT: Final = 3600.0  # seconds that a client may take in a round

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
    learner: Learner | None = None,
    claim: Callable[[], None] | None = None,
) -> list[RoundLine]:
    """Play a federation on Flower; return a line for each round, those from before included.

    What was cut off goes on after the last round that came to an end, with the same numbers as if
    it had not been. A client whose process dies is played once more, in a fresh one.

    Args:
        folder: Where everything is kept, with the settings that ``build`` reads.
        build: Returns the learner in each process; a function of a module.
        rule: What the server does.
        rounds: How many rounds there are in all.
        fraction: Of the clients that take part in a round.
        seed: Chooses them.
        tell: Is told of each round.
        keep: Is given all that was sent in a round, before it counts as played: to capture it.
        timeout: Seconds that a client may take in a round, the start of its process included.
        cluster: Where clients are played; None for this machine.
        learner: What ``build`` would return, for the server; None to call it.
        claim: Is called first, when no other process can write to the folder: to put the settings
            there that ``build`` reads.

    Raises:
        ConfigError: There are fewer clients than the rule needs, or the cluster does not answer.
        ContractError: A round has too few usable results, the weights diverge, or Ray does not run.
        RecordError: The folder is damaged, cannot be written, or has played more rounds.
    """
    where = cluster or Cluster()
    where.check()
    server = build(folder) if learner is None else learner
    rule.check(server.clients, fraction)
    with taken(folder):
        if claim is not None:
            claim()
        federation = _Federation(folder, server, rule, tell, keep)
        federation.open(rounds)
        if federation.done < rounds:
            strategy = Rounds(
                rule, server.clients, seed, fraction, federation.done, federation.weights,
                federation.after,
            )  # fmt: skip
            app = client_app(build, folder.absolute())
            _play(strategy, app, rounds - federation.done, where, timeout)
        return federation.lines


def _play(strategy: Rounds, app: Any, rounds: int, cluster: Cluster, timeout: float) -> None:
    """Play so many rounds, and leave no thread behind."""
    server, stop = ServerApp(), threading.Event()
    threads: list[threading.Thread] = []

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        del context
        threads.append(threading.current_thread())
        there: Any = StoppableGrid(grid, stop)
        first, no_end = record_of(strategy.weights), math.inf  # the engine sees to each client's
        strategy.start(there, first, num_rounds=rounds, timeout=no_end)

    with quiet():
        try:
            simulate(server, app, strategy.clients, cluster, timeout)
        finally:
            stop.set()
            for thread in threads:
                thread.join(PATIENCE)


class _Federation:
    """The server's side of one federation, and its folder."""

    def __init__(
        self, folder: Path, learner: Learner, rule: Rule, tell: Tell | None, keep: Keep | None
    ) -> None:
        self._folder, self._learner, self._rule = folder, learner, rule
        self._tell, self._keep = tell, keep
        self._began = time.perf_counter()
        self.lines: list[RoundLine] = []
        self.weights = learner.first()
        self.done = 0

    def open(self, rounds: int) -> None:
        """Take up what the folder holds, or begin."""
        state = read_state(self._folder)
        if state is not None:
            self.weights, self.done = state.weights, state.round
        check_rounds(self._folder, self.done, rounds)
        self.lines = read_lines(self._folder, self.done)
        Memories(self._folder).forget_after(self.done)
        if state is not None:
            self._rule.go_on(state.rule)
            write_weights(self._folder, self.weights)  # a kill may have left the round before's
        if not self.lines:
            line = RoundLine(0, self._learner.evaluate(0, self.weights))
            add_line(self._folder, line)
            self._count(line)

    def after(self, played: Played) -> None:
        """Keep a round that was played: only then does it count."""
        if self._keep is not None:
            self._keep(played)
        of_clients = {
            client: {**result.measures, **played.aggregate.of_clients.get(client, {})}
            for client, result in played.results.items()
        }
        self.weights, self.done = played.aggregate.weights, played.round
        line = RoundLine(
            played.round,
            self._learner.evaluate(played.round, self.weights),
            played.aggregate.measures,
            of_clients,
            played.isolated,
            time.perf_counter() - self._began,
        )
        add_line(self._folder, line)
        write_state(self._folder, State(self.weights, played.round, self._rule.keep()))
        self._count(line)

    def _count(self, line: RoundLine) -> None:
        self.lines.append(line)
        self._began = time.perf_counter()
        if self._tell is not None:
            self._tell(line)
