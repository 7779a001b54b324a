"""What the server of a federation does in a round."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from medbreach.errors import ConfigError
from medbreach_federation.learner import Result, Weights


@dataclass(frozen=True)
class Aggregate:
    """What the server makes of a round's results.

    Attributes:
        weights: The federation's new weights.
        measures: Numbers about the round, by name.
        of_clients: Numbers about each client that took part, by name.
    """

    weights: Weights
    measures: Mapping[str, float] = field(default_factory=dict)
    of_clients: Mapping[int, Mapping[str, float]] = field(default_factory=dict)


class Rule(ABC):
    """How the server of a federation makes new weights of what clients send.

    A rule may remember rounds. What it remembers goes through `keep` and `go_on`, so that a
    federation that was cut off goes on as if it had not been.
    """

    @property
    def title(self) -> str:
        """What errors call it."""
        return type(self).__name__

    @property
    def least(self) -> int:
        """How many clients' results a round needs."""
        return 1

    def send(self, client: int, round: int, weights: Weights) -> Weights:
        """Return what one client is sent of the federation's weights."""
        del client, round
        return weights

    @abstractmethod
    def aggregate(
        self,
        round: int,
        before: Weights,
        results: Mapping[int, Result],
    ) -> Aggregate:
        """Return what the server makes of a round.

        Args:
            round: Number of the round, from 1.
            before: The federation's weights before it.
            results: What each client sent, by its number, in order; the memory is left out.
        """

    def keep(self) -> dict[str, Any]:
        """Return what this rule remembers: tensors, numbers, text, and lists and dicts of them."""
        return {}

    def go_on(self, kept: Mapping[str, Any]) -> None:
        """Take up what `keep` returned."""
        del kept

    def check(self, clients: int, fraction: float) -> None:
        """Check that enough clients take part in a round.

        Raises:
            ConfigError: There are fewer than the rule needs.
        """
        number = taking_part(clients, fraction)
        if number < self.least:
            raise ConfigError(
                f"{self.title} needs {self.least} clients a round, and {number} of {clients} "
                "take part: raise the number of clients or the fraction"
            )


def taking_part(clients: int, fraction: float) -> int:
    """Return how many of so many clients take part in a round."""
    return max(1, round(fraction * clients))
