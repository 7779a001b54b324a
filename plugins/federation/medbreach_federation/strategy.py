"""The Flower strategy of the server: it has a rule make the new weights, and isolates clients."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
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
from medbreach_federation.rule import Aggregate, Rule, taking_part
from medbreach_federation.stoppable import POLL
from medbreach_federation.updates import checked_count


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
    them. A client that fails, does not answer in time, or returns other names, shapes or types,
    numbers that are not finite, or no number of records is isolated: the round goes on without it.

    Attributes:
        rule: How new weights are made.
        clients: How many clients there are.
        seed: Chooses the clients of each round.
        fraction: Of the clients that take part in a round.
        done: Rounds that were played before.
        weights: The federation's weights.
        after: Is told of each round.
    """

    rule: Rule
    clients: int
    seed: int
    fraction: float
    done: int
    weights: Weights
    after: Callable[[Played], None]

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
        rng = Seeds(self.seed).stream(f"participants/{number}")
        order = torch.randperm(len(clients), generator=rng).tolist()
        return sorted(clients[k] for k in order[: taking_part(len(clients), self.fraction)])

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord, MetricRecord]:
        """Return the new weights.

        Raises:
            ContractError: Too few clients are left for the rule, or what it makes is not finite.
        """
        number = self.done + server_round
        results, isolated = self._sorted_out(replies)
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
        results, isolated = {}, {}
        for client in sorted(self._sent):
            reply = answered.get(client)
            try:
                results[client] = usable(reply, self._sent[client])
            except ContractError as error:
                isolated[client] = str(error)
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


def usable(reply: Message | None, wanted: Weights) -> Result:
    """Return the result that a client's reply carries.

    Args:
        reply: What came; None for nothing in time.
        wanted: What the client was sent.

    Raises:
        ContractError: It cannot stand beside the others'.
    """
    if reply is None:
        raise ContractError("it did not answer in time")
    if reply.has_error():
        raise ContractError(_fault(reply))
    try:
        weights, measures = weights_in(reply.content), measures_in(reply.content)
    except Exception as error:  # whatever a client may send
        raise ContractError("it returned no weights and measures") from error
    problem = unfit(weights, wanted)
    if problem:
        raise ContractError(problem)
    if RECORDS not in measures:
        raise ContractError(f"it did not say how many {RECORDS} it trained on")
    return Result(weights, checked_count(measures.pop(RECORDS), RECORDS), measures)


def unfit(weights: Weights, wanted: Weights) -> str:
    """Return why weights cannot stand beside those that were sent; empty if they can."""
    if list(weights) != list(wanted):
        return "it returned other tensors than it was sent"
    for name, tensor in weights.items():
        like = wanted[name]
        if tensor.shape != like.shape:
            return (
                f"it returned {name} of shape {tuple(tensor.shape)} instead of {tuple(like.shape)}"
            )
        if tensor.dtype != like.dtype:
            return f"it returned {name} as {tensor.dtype} instead of {like.dtype}"
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
            raise ContractError(f"a client cannot be asked for its number: {_fault(reply)}")
        record = reply.content[CLIENT]
        assert isinstance(record, MetricRecord)
        found[int(record[CLIENT])] = reply.metadata.src_node_id  # type: ignore[arg-type]
    return found


def _fault(reply: Message) -> str:
    """Return a client's error in a line."""
    words = " ".join(str(reply.error.reason).split())
    if reply.error.code == ErrorCode.NODE_UNAVAILABLE:
        return words
    said = words.rpartition("Message: ")[2].removesuffix("'>")
    return f"it failed: {said or 'no reason given'}"[:300]
