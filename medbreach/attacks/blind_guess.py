"""What an attacker can claim who saw nothing but other people's images."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from medbreach.components import Attack
from medbreach.types import Exchange, Reconstruction


@dataclass(frozen=True)
class BlindGuess(Attack):
    """Claim the mean public image for every record: the negative control of every audit.

    An attacker without public images claims the mean intensity, which the normalisation tells.
    """

    name: ClassVar[str] = "blind_guess"
    source: ClassVar[str] = "medbreach"
    blind: ClassVar[bool] = True

    def run(self, exchange: Exchange, rng: torch.Generator) -> Reconstruction:
        """Return the mean public image, once a record if their number is known, else once."""
        del rng
        mean = exchange.spec.denormalise(torch.zeros(1, *exchange.spec.shape))
        if len(exchange.public):
            mean = exchange.public.mean(0, keepdim=True)
        return Reconstruction(mean.expand(exchange.update.count or 1, *exchange.spec.shape))
