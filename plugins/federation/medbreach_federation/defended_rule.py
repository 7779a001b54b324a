"""Defenses that aggregate, around a rule."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from medbreach import ConfigError, Defense, NotApplicable, Refused, Update
from medbreach.errors import ContractError
from medbreach.round import aggregated
from medbreach_federation.learner import Result, Weights
from medbreach_federation.rule import Aggregate, Rule, taking_part
from medbreach_federation.updates import applied, tied_in, trained_in, update_of


@dataclass
class DefendedRule(Rule):
    """Has defenses see clients' changes first, as `Defense.aggregate` does in an audit.

    Attributes:
        rule: Makes new weights of what they leave.
        defenses: The stack, innermost first.
        network: The network, for the names of its parameters.
    """

    rule: Rule
    defenses: Sequence[Defense]
    network: nn.Module

    @property
    def title(self) -> str:
        """The rule's name."""
        return self.rule.title

    @property
    def least(self) -> int:
        """How many clients the rule needs."""
        return self.rule.least

    def check(self, clients: int, fraction: float) -> None:
        """Check that enough clients take part, and that the defenses leave the rule enough updates.

        They are tried on made-up changes of a small network; where they cannot take those, a round
        will tell.

        Raises:
            ConfigError: There are fewer than the rule or the defenses need.
        """
        super().check(clients, fraction)
        number = taking_part(clients, fraction)
        network = nn.Linear(2, 1, bias=False)
        rng = torch.Generator().manual_seed(0)
        before = {"weight": torch.zeros(1, 2)}
        updates = [
            update_of(before, {"weight": 1e-3 * torch.randn(1, 2, generator=rng)}, ["weight"], 1)
            for _ in range(number)
        ]
        try:
            left = len(self._left(updates, network))
        except (NotApplicable, Refused) as error:
            cause, _, remedy = str(error).partition(": ")
            if "case.user." in remedy:  # an audit's remedy
                remedy = "raise the number of clients or the fraction"
            raise ConfigError(f"{cause}: {remedy}") from error
        except (ContractError, LookupError, ValueError, RuntimeError):
            return
        if left < self.least:
            raise ConfigError(self._too_few(left, number))

    def send(self, client: int, round: int, weights: Weights) -> Weights:
        """Return what the rule sends."""
        return self.rule.send(client, round, weights)

    def aggregate(self, round: int, before: Weights, results: Mapping[int, Result]) -> Aggregate:
        """Return what the rule makes of what defenses leave.

        Where a defense makes one update of all, as a secure aggregation does, the rule sees one.

        Raises:
            ContractError: They leave fewer updates than the rule needs.
        """
        trained, tied = trained_in(self.network), tied_in(self.network)
        updates = self._left(
            [update_of(before, r.weights, trained, r.records) for r in results.values()],
            self.network,
        )
        if len(updates) < self.least:
            raise ContractError(self._too_few(len(updates), len(results)))
        numbers = results if len(updates) == len(results) else range(len(updates))
        left = {
            client: Result(applied(update, before, tied), update.count or 1)
            for client, update in zip(numbers, updates, strict=True)
        }
        return self.rule.aggregate(round, before, left)

    def _left(self, updates: Sequence[Update], network: nn.Module) -> Sequence[Update]:
        """Return what the defenses leave of updates of a network."""
        for defense in self.defenses:
            updates = aggregated(defense, updates, network)
        return updates

    def _too_few(self, left: int, clients: int) -> str:
        names = "+".join(
            d.name for d in self.defenses if type(d).aggregate is not Defense.aggregate
        )
        return (
            f"{names} makes {left} of {clients} clients' updates, and {self.title} compares "
            f"{self.least} at least: take a mean (fedavg, fedprox, fedadam, fedyogi or "
            "fedadagrad), or leave the defense out"
        )

    def keep(self) -> dict[str, Any]:
        """Return what the rule remembers."""
        return self.rule.keep()

    def go_on(self, kept: Mapping[str, Any]) -> None:
        """Have the rule take up what it remembered."""
        self.rule.go_on(kept)
