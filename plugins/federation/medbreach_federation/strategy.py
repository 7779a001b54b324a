"""The Flower strategy of the server: it has a rule make the new weights, and isolates clients."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from medbreach.components import is_finite
from medbreach.errors import ContractError
from medbreach.randomness import Seeds
from medbreach_federation.client import (
    ARRAYS,
    CLIENT,
    CONFIG,
    RECORDS,
    ROUND,
    measures_in,
    record_of,
    weights_in,
)
from medbreach_federation.learner import Result, Weights
from medbreach_federation.rule import Aggregate, Rule
from medbreach_federation.stoppable import POLL

DEATH = ("ActorDied", "ActorUnavailable", "RayActorError", "WorkerCrashed")  # Ray's words for it


class WorkerDied(Exception):  # noqa: N818 - an event that the federation survives
    """A process that plays clients died; the clients are those that it may have played."""

    def __init__(self, clients: Iterable[int]) -> None:
        self.clients = tuple(clients)
        super().__init__(f"a process died that played clients {self.clients}")


@dataclass(frozen=True)
class Played:
    """A round that was played.

    Attributes:
        round: Its number, from 1.
        sent: What each client was sent.
        results: What each client returned, but for those that are isolated.
        isolated: Why a client's result does not count, by its number.
        aggregate: What the rule made of them.
    """

    round: int
    sent: Mapping[int, Weights]
    results: Mapping[int, Result]
    isolated: Mapping[int, str]
    aggregate: Aggregate


@dataclass
class Rounds(Strategy):
    """Plays rounds: chooses clients by the seed, checks what they return, has the rule aggregate.

    What does not depend on the run: which clients take part, and the order in which the rule sees
    them. A client that fails, does not answer in time, or returns other names or shapes or numbers
    that are not finite is isolated: the round goes on without it.

    Attributes:
        rule: How new weights are made.
        clients: How many clients there are.
        seed: Chooses the clients of each round.
        fraction: Of the clients that take part in a round.
        done: Rounds that were played before.
        weights: The federation's weights.
        after: Is told of each round.
        barred: Clients that kill their process, by round.
    """

    rule: Rule
    clients: int
    seed: int
    fraction: float
    done: int
    weights: Weights
    after: Callable[[Played], None]
    barred: Mapping[int, frozenset[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._nodes: dict[int, int] = {}  # Flower's node of each client
        self._sent: dict[int, Weights] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Return what each client of the round is sent."""
        del arrays, config
        number = self.done + server_round
        if not self._nodes:
            self._nodes = _clients(grid, self.clients)
        shared, shared_record = self.weights, record_of(self.weights)
        messages = []
        self._sent = {}
        for client in self._drawn(number):
            weights = self.rule.send(client, number, self.weights)
            self._sent[client] = weights
            record = shared_record if weights is shared else record_of(weights)
            content = RecordDict({ARRAYS: record, CONFIG: ConfigRecord({ROUND: number})})
            messages.append(Message(content, self._nodes[client], MessageType.TRAIN))
        return messages

    def _drawn(self, number: int) -> list[int]:
        clients = sorted(self._nodes)
        count = min(len(clients), max(self.rule.least, round(self.fraction * len(clients))))
        rng = Seeds(self.seed).stream(f"participants/{number}")
        order = torch.randperm(len(clients), generator=rng)[:count].tolist()
        return sorted({clients[k] for k in order} - self.barred.get(number, frozenset()))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord, MetricRecord]:
        """Return the new weights.

        Raises:
            ContractError: Too few clients are left for the rule, or what it makes is not finite.
            WorkerDied: A process died under a client.
        """
        number = self.done + server_round
        results, isolated = self._sorted_out(replies)
        isolated.update(dict.fromkeys(self.barred.get(number, ()), "its process died, twice"))
        if len(results) < self.rule.least:
            why = "; ".join(f"client {k}: {reason}" for k, reason in sorted(isolated.items()))
            raise ContractError(
                f"round {number} has {len(results)} usable results, and {self.rule.title} "
                f"needs {self.rule.least} ({why})"
            )
        made = self.rule.aggregate(number, self.weights, results)
        if not all(map(is_finite, made.weights.values())):
            raise ContractError(
                f"the weights after round {number} are not finite: lower the learning rate"
            )
        played = Played(number, self._sent, results, isolated, made)
        self.weights = made.weights
        self.after(played)
        return record_of(self.weights), MetricRecord({ROUND: number})

    def _sorted_out(self, replies: Iterable[Message]) -> tuple[dict[int, Result], dict[int, str]]:
        """Return the results that count, and why others do not, by client in order."""
        of_node = {node: client for client, node in self._nodes.items()}
        answered = {of_node[reply.metadata.src_node_id]: reply for reply in replies}
        died = [k for k, r in answered.items() if r.has_error() and _killed(r)]
        if died:
            raise WorkerDied(sorted(died))
        results, isolated = {}, {}
        for client in sorted(self._sent):
            reply = answered.get(client)
            problem = "it did not answer in time" if reply is None else _fault(reply)
            if reply is not None and not problem:
                result = _result(reply)
                problem = unfit(result.weights, self._sent[client])
                results[client] = result
            if problem:
                results.pop(client, None)
                isolated[client] = problem
        return results, isolated

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Return nothing: what is evaluated is evaluated where the settings are."""
        del server_round, arrays, config, grid
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> None:
        """Return nothing."""
        del server_round, replies

    def summary(self) -> None:
        """Say nothing: progress is told elsewhere."""


def unfit(weights: Weights, wanted: Weights) -> str:
    """Return why weights cannot stand beside those that were sent; empty if they can."""
    if list(weights) != list(wanted):
        return "it returned other tensors than it was sent"
    for name, tensor in weights.items():
        if tensor.shape != wanted[name].shape:
            shapes = f"{tuple(tensor.shape)} instead of {tuple(wanted[name].shape)}"
            return f"it returned {name} of shape {shapes}"
        if not is_finite(tensor):
            return f"it returned {name} with values that are not finite"
    return ""


def _clients(grid: Grid, expected: int) -> dict[int, int]:
    """Wait until all clients are connected; return the node of each, in whatever order they came.

    Raises:
        ContractError: One cannot be asked for its number.
    """
    while len(nodes := sorted(grid.get_node_ids())) < expected:
        time.sleep(POLL)
    asked = [Message(RecordDict({}), node, MessageType.QUERY) for node in nodes]
    found = {}
    for reply in grid.send_and_receive(asked):
        if reply.has_error():
            why = "its process died" if _killed(reply) else _fault(reply)
            raise ContractError(f"a client cannot be asked for its number: {why}")
        record = reply.content[CLIENT]
        assert isinstance(record, MetricRecord)
        found[int(record[CLIENT])] = reply.metadata.src_node_id  # type: ignore[arg-type]
    return found


def _result(reply: Message) -> Result:
    measures = measures_in(reply.content)
    return Result(weights_in(reply.content), int(measures.pop(RECORDS)), measures)


def _killed(reply: Message) -> bool:
    return any(word in str(reply.error.reason) for word in DEATH)


def _fault(reply: Message) -> str:
    """Return a client's error in a line; empty if it has none."""
    if not reply.has_error():
        return ""
    words = " ".join(str(reply.error.reason).split())
    said = words.rpartition("Message: ")[2].removesuffix("'>")
    return f"it failed: {said or 'no reason given'}"[:300]
