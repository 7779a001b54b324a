"""Gaussian noise on a client's update."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from medbreach import Guarantee, Workload
from medbreach_differential_privacy.accounting import check_accounting, gaussian_epsilon
from medbreach_differential_privacy.update_noise import UpdateNoise
from medbreach_differential_privacy.vectors import gaussian


@dataclass(frozen=True)
class GaussianNoise(UpdateNoise):
    """Add independent Gaussian noise of one deviation to every entry of the update.

    The source says that deviations of 0.1 and more stop its attack on gradients, and that they cost
    accuracy. How large that is depends on the network, so the deviation can also be given in units
    of the update's own root mean square, or of the norm that it is clipped to.

    With clipping, and noise that does not depend on the update, there is a guarantee for the client
    as a whole: whatever its records are, its messages differ by at most twice the norm. Then
    epsilon follows from the analytic Gaussian mechanism (Balle & Wang 2018, arXiv:1805.06530).
    Without clipping, or with noise in units of the update, there is none.

    An attacker who knows of it clips what candidates give, and knows how far a perfect candidate's
    update is from the one that it saw.

    Attributes:
        std: Standard deviation of the noise, in the unit that ``relative_to`` says.
        relative_to: ``nothing``: ``std`` is in the update's unit, as in the source; ``update``:
            ``std`` is in root mean squares of the update's entries, after clipping, so that at 1
            the noise is as large as the update; ``clip_norm``: ``std`` is the noise multiplier, in
            units of ``clip_norm``.
        clip_norm: Greatest L2 norm of the whole update before the noise, in the update's unit; null
            for no clipping.
        delta: Probability with which the privacy loss may exceed epsilon; the default is ours.
        rounds: Rounds that a client takes part in, for epsilon; the default is ours.
    """

    name: ClassVar[str] = "gaussian_noise"
    source: ClassVar[str] = "Zhu et al. 2019, arXiv:1906.08935, section 5.1"
    differs: ClassVar[str] = (
        "The source has no clipping, no relative deviation and no guarantee; after local training "
        "the noise goes on the change of weights. Attackers clip the mean of an aggregate of "
        "clients, who each clipped their own."
    )

    order: ClassVar[float] = 2.0

    std: float = 0.1
    relative_to: Literal["nothing", "update", "clip_norm"] = "nothing"
    clip_norm: float | None = None
    delta: float = 1e-5
    rounds: int = 1

    def __post_init__(self) -> None:
        self.check("std")
        check_accounting(self.delta, self.rounds)

    @property
    def amount(self) -> float:
        """The standard deviation."""
        return self.std

    @property
    def deviation(self) -> float:
        """The standard deviation."""
        return self.std

    def draw(self, like: Tensor, amount: float, rng: torch.Generator) -> Tensor:
        """Return Gaussian noise."""
        return gaussian(like, amount, rng)

    def guarantee(self, work: Workload) -> Guarantee | None:
        """Return the client's guarantee; None without clipping, noise, or fixed noise."""
        if self.bounded is None:
            return None
        sensitivity, std = self.bounded
        rounds = self.rounds if work.rounds is None else work.rounds
        return Guarantee(
            epsilon=gaussian_epsilon(
                sensitivity * math.sqrt(rounds * work.updates) / std, self.delta
            ),
            delta=self.delta,
            unit="client",
            adjacency="replace one",
            rounds=rounds,
            how=(
                f"Analytic Gaussian mechanism on each update: noise of deviation {std:g}, L2 "
                f"sensitivity {sensitivity:g} (twice the clipping norm, since all of the "
                "client's records may be others). Labels, counts and buffers that are sent beside "
                "the update are not covered."
            ),
        )
