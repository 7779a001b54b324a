"""Images of other people, claimed to be the records."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from medbreach.components import Attack
from medbreach.errors import NotApplicable
from medbreach.types import Exchange, Reconstruction


@dataclass(frozen=True)
class RandomPublicImage(Attack):
    """Claim random public images: the negative control that looks real."""

    name: ClassVar[str] = "random_public_image"
    source: ClassVar[str] = "medbreach"
    blind: ClassVar[bool] = True

    def run(self, exchange: Exchange, rng: torch.Generator) -> Reconstruction:
        """Return one public image a record if their number is known, else one.

        Raises:
            NotApplicable: The attacker holds no public images.
        """
        public = exchange.public
        if not len(public):
            raise NotApplicable(
                "random_public_image needs public images: case.server.has_external_data"
            )
        order = torch.randperm(len(public), generator=rng)[: exchange.update.count or 1]
        return Reconstruction(public[order])
