"""What the clients of a federation do in a round, whatever it trains."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Weights = Mapping[str, Tensor]
"""What is sent, by name: trained weights, and buffers where these are shared."""


@dataclass(frozen=True)
class Instruction:
    """What the server asks of one client in one round.

    Attributes:
        client: Number of the client, from 0.
        round: Number of the round, from 1.
        weights: What the server sends.
        memory: What the client kept from its last round; empty before its first. Tensors, numbers,
            text, and lists and dicts of them.
    """

    client: int
    round: int
    weights: Weights
    memory: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What one client makes of it.

    Attributes:
        weights: What it sends, of the same names and shapes as what it received.
        records: How many records it trained on.
        measures: Numbers that it tells the server, by name.
        memory: What it keeps for its next round; it never leaves the client.
    """

    weights: Weights
    records: int
    measures: Mapping[str, float] = field(default_factory=dict)
    memory: Mapping[str, Any] = field(default_factory=dict)


class Learner(ABC):
    """What the clients of one federation train.

    It is built anew in each process, from the folder of the federation. Its methods depend on
    nothing but their arguments and that folder's settings: a client's randomness comes from the
    seed, its number and the round's, so that a federation that was cut off goes on as if it had not
    been.
    """

    @property
    @abstractmethod
    def clients(self) -> int:
        """How many clients there are."""

    @abstractmethod
    def first(self) -> Weights:
        """Return what the server sends in the first round."""

    @abstractmethod
    def train(self, instruction: Instruction) -> Result:
        """Return what a client makes of a round. Nothing of the instruction is changed in place."""

    def evaluate(self, round: int, weights: Weights) -> Mapping[str, float]:
        """Return how good the federation's weights are after a round; 0 is before the first."""
        del round, weights
        return {}
