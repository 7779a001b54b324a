"""Local differential privacy as Flower ships it."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from medbreach import ClientTask, Defense, Gradient, Guarantee, LocalTraining, Update, Workload
from medbreach_differential_privacy.accounting import check_accounting, gaussian_epsilon
from medbreach_differential_privacy.vectors import clipped, gaussian


@dataclass(frozen=True)
class FlowerLocalDP(Defense):
    """Clip the update and add noise as Flower's ``LocalDpMod`` does, with its four settings.

    The noise has the deviation ``sensitivity * sqrt(2 ln(1.25 / delta)) / epsilon``. Flower takes
    ``sensitivity`` as it is told, although the update's is known: it is what the update is clipped
    to. Where the two are not the same, ``epsilon`` is a number without meaning. (The formula is
    besides proven for epsilons below 1 only.) The guarantee here is the effective one, from the
    norm and the noise.

    An attacker who knows of it clips what candidates give, and knows how far a perfect candidate's
    update is from the one that it saw.

    Attributes:
        clipping_norm: Greatest L2 norm of the whole update, in the update's unit.
        sensitivity: What Flower calls the sensitivity of the model, in the update's unit.
        epsilon: Nominal epsilon of one round.
        delta: Probability with which the privacy loss may exceed epsilon.
        rounds: Rounds that a client takes part in, for the effective epsilon.
    """

    name: ClassVar[str] = "flower_local_dp"
    source: ClassVar[str] = "Flower 1.42.0, flwr.clientapp.mod.LocalDpMod"
    differs: ClassVar[str] = (
        "Only weights that are trained are clipped and noisy; Flower does so with all arrays, "
        "BatchNorm's statistics among them. A gradient is treated as an update. Flower has no "
        "defaults (these are ours), no rounds, and breaks on an update of zeros or on epsilon 0."
    )

    clipping_norm: float = 1.0
    sensitivity: float = 1.0
    epsilon: float = 10.0
    delta: float = 1e-5
    rounds: int = 1

    def __post_init__(self) -> None:
        if self.clipping_norm <= 0:
            raise ValueError(f"clipping_norm must be positive, got {self.clipping_norm}")
        if self.sensitivity < 0:
            raise ValueError(f"sensitivity must not be negative, got {self.sensitivity}")
        if self.epsilon <= 0:
            raise ValueError(f"epsilon must be positive, got {self.epsilon}")
        check_accounting(self.delta, self.rounds)

    @property
    def std(self) -> float:
        """Standard deviation of the noise on each entry."""
        return self.sensitivity * math.sqrt(2 * math.log(1.25 / self.delta)) / self.epsilon

    def wrap(self, train: LocalTraining) -> LocalTraining:
        """Return local training whose update is clipped and noisy."""

        def trained(task: ClientTask) -> Update:
            update = train(task)
            change = clipped(update.change, self.clipping_norm)
            noisy = {name: g + gaussian(g, self.std, task.rng) for name, g in change.items()}
            return replace(update, change=noisy)

        return trained

    def simulate_update(self, change: Gradient, seen: Update) -> Gradient:
        """Return a candidate's change, clipped as the client clips."""
        del seen
        return clipped(change, self.clipping_norm)

    def noise(self, seen: Update) -> float:
        """Return the deviation of the noise."""
        return self.std / math.sqrt(seen.clients)

    def guarantee(self, work: Workload) -> Guarantee:
        """Return the effective guarantee; epsilon is infinite without noise."""
        rounds = self.rounds if work.rounds is None else work.rounds
        once = self._effective(1, self.clipping_norm)
        whole = self._effective(rounds * work.updates, self.clipping_norm)
        other = self._effective(rounds * work.updates, 2 * self.clipping_norm)
        return Guarantee(
            epsilon=whole,
            delta=self.delta,
            unit="client",
            adjacency="add or remove one",
            rounds=rounds,
            how=(
                f"Flower's nominal epsilon is {self.epsilon:g} a round, for a sensitivity of "
                f"{self.sensitivity:g}. The update's real one is the clipping norm "
                f"{self.clipping_norm:g}: noise of deviation {self.std:.4g} gives an effective "
                f"epsilon of {once:.4g} an update by the analytic Gaussian mechanism, and "
                f"{whole:.4g} for all rounds ({other:.4g} if the client's data may be replaced by "
                "any other, which doubles the sensitivity)."
            ),
        )

    def _effective(self, rounds: int, sensitivity: float) -> float:
        if self.std == 0:
            return math.inf
        return gaussian_epsilon(math.sqrt(rounds) * sensitivity / self.std, self.delta)
