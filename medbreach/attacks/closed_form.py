"""What the attacks share that solve equations instead of descending."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from medbreach.attacks.gradient_matching import LabelStrategy, Precision
from medbreach.components import Attack
from medbreach.settings import plain
from medbreach.types import Exchange, Reconstruction, Reveals


@dataclass(frozen=True)
class ClosedForm(Attack):
    """An attack of breaching's that solves equations.

    Attributes:
        label_strategy: How labels are inferred where they are withheld; null if not needed.
        normalize_gradients: Scale the update to unit norm first.
        impl: How breaching computes.
    """

    needs: ClassVar[frozenset[Reveals]] = frozenset({Reveals.COUNT})

    label_strategy: LabelStrategy | None = None
    normalize_gradients: bool = False
    impl: Precision = field(default_factory=Precision)

    def run(self, exchange: Exchange, rng: torch.Generator) -> Reconstruction:
        """Return what the equations give.

        Raises:
            NotApplicable: The network is not one that the equations hold for.
        """
        from medbreach.breaching_bridge.run import reconstruct

        words = {"type": self.name, "attack_type": self.name, **plain(self)}
        return reconstruct(self.name, words, exchange, rng, self.secrets(exchange))  # type: ignore[arg-type]

    def secrets(self, exchange: Exchange) -> dict[str, Any]:
        """Return what the server remembers, in breaching's words.

        Raises:
            NotApplicable: The attack needs a secret that this server does not have.
        """
        del exchange
        return {}
