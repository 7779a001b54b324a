"""Gradient inversion of images and labels together."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from medbreach.attacks.gradient_matching import GradientMatching
from medbreach.errors import NotApplicable
from medbreach.types import Exchange, Reconstruction


@dataclass(frozen=True)
class JointOptimization(GradientMatching):
    """Descend on images and soft labels at once, as in Deep Leakage from Gradients.

    It does not adapt to defenses: what they do depends on the labels.
    """

    name: ClassVar[str] = "joint-optimization"
    source: ClassVar[str] = "Zhu et al. 2019, arXiv:1906.08935"
    differs: ClassVar[str] = (
        f"{GradientMatching.differs} Labels that the client gives away are not used; the labels "
        "returned are the optimised ones, where breaching returns their starting values."
    )

    adaptive: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.adaptive:
            raise ValueError("adaptive must be false: joint-optimization cannot adapt to defenses")

    def run(self, exchange: Exchange, rng: torch.Generator) -> Reconstruction:
        """Return as many images as there are records.

        Raises:
            NotApplicable: The update is of several steps, whose labels would have to be known.
        """
        if exchange.update.recipe is not None:
            raise NotApplicable("joint-optimization matches gradients, not several local steps")
        return super().run(_without_labels(exchange), rng)


def _without_labels(exchange: Exchange) -> Exchange:
    rounds = tuple(
        replace(played, update=replace(played.update, labels=None)) for played in exchange.rounds
    )
    return replace(exchange, rounds=rounds)
