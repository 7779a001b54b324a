"""Laplace noise on a client's update."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from medbreach import Guarantee, Workload
from medbreach_differential_privacy.accounting import check_accounting, laplace_epsilon
from medbreach_differential_privacy.update_noise import UpdateNoise
from medbreach_differential_privacy.vectors import laplacian


@dataclass(frozen=True)
class LaplaceNoise(UpdateNoise):
    """Add independent Laplace noise of one scale to every entry of the update.

    The source finds that Laplace noise stops its attack at the variances that Gaussian noise does.

    With clipping in the L1 norm, and noise that does not depend on the update, there is a guarantee
    for the client as a whole, without a delta: twice the norm over the scale for each round (Dwork
    et al. 2006). L1 norms of networks are large, so it costs far more noise than the Gaussian
    mechanism. Without clipping, or with noise in units of the update, there is none.

    An attacker who knows of it clips what candidates give, and knows how far a perfect candidate's
    update is from the one that it saw.

    Attributes:
        scale: Scale (diversity) of the noise, in the unit that ``relative_to`` says; its standard
            deviation is 1.41 times that, so that the default has the variance 0.01, which the
            source needs to stop its attack.
        relative_to: ``nothing``: ``scale`` is in the update's unit, as in the source; ``update``:
            in root mean squares of the update's entries, after clipping; ``clip_norm``: in units of
            ``clip_norm``.
        clip_norm: Greatest L1 norm of the whole update before the noise, in the update's unit; null
            for no clipping.
        rounds: Rounds that a client takes part in, for epsilon; the default is ours.
    """

    name: ClassVar[str] = "laplace_noise"
    source: ClassVar[str] = "Zhu et al. 2019, arXiv:1906.08935, section 5.1"
    differs: ClassVar[str] = (
        "The source gives variances, and has no clipping, no relative scale and no guarantee; "
        "after local training the noise goes on the change of weights. Attackers clip the mean of "
        "an aggregate of clients, who each clipped their own."
    )

    order: ClassVar[float] = 1.0

    scale: float = 0.0707
    relative_to: Literal["nothing", "update", "clip_norm"] = "nothing"
    clip_norm: float | None = None
    rounds: int = 1

    def __post_init__(self) -> None:
        self.check("scale")
        check_accounting(0.5, self.rounds)

    @property
    def amount(self) -> float:
        """The scale."""
        return self.scale

    @property
    def deviation(self) -> float:
        """The standard deviation: 1.41 times the scale."""
        return math.sqrt(2) * self.scale

    def draw(self, like: Tensor, amount: float, rng: torch.Generator) -> Tensor:
        """Return Laplace noise."""
        return laplacian(like, amount, rng)

    def guarantee(self, work: Workload) -> Guarantee | None:
        """Return the client's guarantee; None without clipping, noise, or fixed noise."""
        if self.bounded is None:
            return None
        sensitivity, scale = self.bounded
        rounds = self.rounds if work.rounds is None else work.rounds
        return Guarantee(
            epsilon=laplace_epsilon(sensitivity, scale, rounds * work.updates),
            delta=0.0,
            unit="client",
            adjacency="replace one",
            rounds=rounds,
            how=(
                f"Laplace mechanism on each update, summed over rounds: noise of scale {scale:g}, "
                f"L1 sensitivity {sensitivity:g} (twice the clipping norm, since all of the "
                "client's records may be others). Labels, counts and buffers that are sent beside "
                "the update are not covered."
            ),
        )
