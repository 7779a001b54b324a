"""Gaussian noise on a client's update."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from medbreach import ClientTask, Defense, Gradient, Guarantee, LocalTraining, Update, Workload
from medbreach_differential_privacy.accounting import check_accounting, gaussian_epsilon
from medbreach_differential_privacy.vectors import clipped, gaussian, root_mean_square


@dataclass(frozen=True)
class GaussianNoise(Defense):
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

    std: float = 0.1
    relative_to: Literal["nothing", "update", "clip_norm"] = "nothing"
    clip_norm: float | None = None
    delta: float = 1e-5
    rounds: int = 1

    def __post_init__(self) -> None:
        if self.std < 0:
            raise ValueError(f"std must not be negative, got {self.std}")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(f"clip_norm must be positive, got {self.clip_norm}")
        if self.relative_to == "clip_norm" and self.clip_norm is None:
            raise ValueError("relative_to=clip_norm needs a clip_norm to be relative to")
        check_accounting(self.delta, self.rounds)

    def wrap(self, train: LocalTraining) -> LocalTraining:
        """Return local training whose update is clipped and noisy."""

        def trained(task: ClientTask) -> Update:
            update = train(task)
            change = self._clipped(dict(update.change))
            std = self._unit(root_mean_square(change)) * self.std
            noisy = {name: g + gaussian(g, std, task.rng) for name, g in change.items()}
            return replace(update, change=noisy)

        return trained

    def simulate_update(self, change: Gradient, seen: Update) -> Gradient:
        """Return a candidate's change, clipped as the client clips."""
        del seen
        return self._clipped(change)

    def noise(self, seen: Update) -> float:
        """Return the deviation of the noise; with ``update`` as estimated from what was seen."""
        std = self.std / math.sqrt(seen.clients)
        with_noise = root_mean_square(seen.change)
        return self._unit(with_noise / math.sqrt(1 + std**2)) * std

    def guarantee(self, work: Workload) -> Guarantee | None:
        """Return the client's guarantee; None without clipping, noise, or fixed noise."""
        if self.clip_norm is None or self.relative_to == "update" or self.std == 0:
            return None
        rounds = self.rounds if work.rounds is None else work.rounds
        std = self._unit(0.0) * self.std
        return Guarantee(
            epsilon=gaussian_epsilon(
                2 * self.clip_norm * math.sqrt(rounds * work.updates) / std, self.delta
            ),
            delta=self.delta,
            unit="client",
            adjacency="replace one",
            rounds=rounds,
            how=(
                f"Analytic Gaussian mechanism on each update: noise of deviation {std:g}, L2 "
                f"sensitivity {2 * self.clip_norm:g} (twice the clipping norm, since all of the "
                "client's records may be others). Labels, counts and buffers that are sent beside "
                "the update are not covered."
            ),
        )

    def _clipped(self, change: Gradient) -> Gradient:
        return change if self.clip_norm is None else clipped(change, self.clip_norm)

    def _unit(self, root_mean_square_of_update: float) -> float:
        if self.relative_to == "clip_norm":
            return self.clip_norm or 1.0
        return root_mean_square_of_update if self.relative_to == "update" else 1.0
