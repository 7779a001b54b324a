"""Defenses that aggregate, around a rule."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from medbreach import Change, Defense, Update
from medbreach.round import aggregated
from medbreach_federation.learner import Result, Weights
from medbreach_federation.rule import Aggregate, Rule


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

    def send(self, client: int, round: int, weights: Weights) -> Weights:
        """Return what the rule sends."""
        return self.rule.send(client, round, weights)

    def aggregate(self, round: int, before: Weights, results: Mapping[int, Result]) -> Aggregate:
        """Return what the rule makes of what defenses leave.

        Where a defense makes one update of all, as a secure aggregation does, the rule sees one.
        """
        trained = [name for name, p in self.network.named_parameters() if p.requires_grad]
        updates: Sequence[Update] = [
            Update(
                {name: r.weights[name] - before[name] for name in trained},
                Change.DIFFERENCE,
                buffers={name: t for name, t in r.weights.items() if name not in set(trained)},
                count=r.records,
            )
            for r in results.values()
        ]
        for defense in self.defenses:
            updates = aggregated(defense, updates, self.network)
        same = len(updates) == len(results)
        numbers = results if same else range(len(updates))
        left = {
            client: Result(_weights(update, before), update.count or 1)
            for client, update in zip(numbers, updates, strict=True)
        }
        return self.rule.aggregate(round, before, left)

    def keep(self) -> dict[str, Any]:
        """Return what the rule remembers."""
        return self.rule.keep()

    def go_on(self, kept: Mapping[str, Any]) -> None:
        """Have the rule take up what it remembered."""
        self.rule.go_on(kept)


def _weights(update: Update, before: Weights) -> Weights:
    others = update.buffers or {}
    return {
        name: like + update.change[name].to(like)
        if name in update.change
        else others.get(name, like).to(like)
        for name, like in before.items()
    }
