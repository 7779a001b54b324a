"""Laplace noise on a client's update."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from medbreach import ClientTask, Defense, Gradient, Guarantee, LocalTraining, Update, Workload
from medbreach_differential_privacy.accounting import check_accounting, laplace_epsilon
from medbreach_differential_privacy.vectors import clipped, laplacian, root_mean_square


@dataclass(frozen=True)
class LaplaceNoise(Defense):
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

    scale: float = 0.0707
    relative_to: Literal["nothing", "update", "clip_norm"] = "nothing"
    clip_norm: float | None = None
    rounds: int = 1

    def __post_init__(self) -> None:
        if self.scale < 0:
            raise ValueError(f"scale must not be negative, got {self.scale}")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(f"clip_norm must be positive, got {self.clip_norm}")
        if self.relative_to == "clip_norm" and self.clip_norm is None:
            raise ValueError("relative_to=clip_norm needs a clip_norm to be relative to")
        check_accounting(0.5, self.rounds)

    def wrap(self, train: LocalTraining) -> LocalTraining:
        """Return local training whose update is clipped and noisy."""

        def trained(task: ClientTask) -> Update:
            update = train(task)
            change = self._clipped(dict(update.change))
            scale = self._unit(root_mean_square(change)) * self.scale
            noisy = {name: g + laplacian(g, scale, task.rng) for name, g in change.items()}
            return replace(update, change=noisy)

        return trained

    def simulate_update(self, change: Gradient, seen: Update) -> Gradient:
        """Return a candidate's change, clipped as the client clips."""
        del seen
        return self._clipped(change)

    def noise(self, seen: Update) -> float:
        """Return the deviation of the noise; with ``update`` as estimated from what was seen."""
        std = self.scale * math.sqrt(2 / seen.clients)
        with_noise = root_mean_square(seen.change)
        return self._unit(with_noise / math.sqrt(1 + std**2)) * std

    def guarantee(self, work: Workload) -> Guarantee | None:
        """Return the client's guarantee; None without clipping, noise, or fixed noise."""
        if self.clip_norm is None or self.relative_to == "update" or self.scale == 0:
            return None
        rounds = self.rounds if work.rounds is None else work.rounds
        scale = self._unit(0.0) * self.scale
        return Guarantee(
            epsilon=laplace_epsilon(2 * self.clip_norm, scale, rounds * work.updates),
            delta=0.0,
            unit="client",
            adjacency="replace one",
            rounds=rounds,
            how=(
                f"Laplace mechanism on each update, summed over rounds: noise of scale {scale:g}, "
                f"L1 sensitivity {2 * self.clip_norm:g} (twice the clipping norm, since all of the "
                "client's records may be others). Labels, counts and buffers that are sent beside "
                "the update are not covered."
            ),
        )

    def _clipped(self, change: Gradient) -> Gradient:
        return change if self.clip_norm is None else clipped(change, self.clip_norm, order=1.0)

    def _unit(self, root_mean_square_of_update: float) -> float:
        if self.relative_to == "clip_norm":
            return self.clip_norm or 1.0
        return root_mean_square_of_update if self.relative_to == "update" else 1.0
