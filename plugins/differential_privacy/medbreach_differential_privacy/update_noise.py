"""What Gaussian and Laplace noise on a client's update share."""

import math
from abc import abstractmethod
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from medbreach import ClientTask, Defense, Gradient, LocalTraining, Update
from medbreach_differential_privacy.vectors import clipped, root_mean_square


class UpdateNoise(Defense):
    """Clip the whole update if asked to, and add independent noise to each of its entries.

    Subclasses are dataclasses with the three settings below and one for how much noise there is.
    """

    order: ClassVar[float]  # of the norm that is clipped
    relative_to: Literal["nothing", "update", "clip_norm"]
    clip_norm: float | None
    rounds: int

    @property
    @abstractmethod
    def amount(self) -> float:
        """The setting that says how much noise there is."""

    @property
    @abstractmethod
    def deviation(self) -> float:
        """Standard deviation of the noise, in the unit of ``relative_to``."""

    @abstractmethod
    def draw(self, like: Tensor, amount: float, rng: torch.Generator) -> Tensor:
        """Return noise in a tensor's shape."""

    def check(self, name: str) -> None:
        """Check the settings; the name is that of the amount.

        Raises:
            ValueError: One is out of range.
        """
        if self.amount < 0:
            raise ValueError(f"{name} must not be negative, got {self.amount}")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(f"clip_norm must be positive, got {self.clip_norm}")
        if self.relative_to == "clip_norm" and self.clip_norm is None:
            raise ValueError("relative_to=clip_norm needs a clip_norm to be relative to")

    def wrap(self, train: LocalTraining) -> LocalTraining:
        """Return local training whose update is clipped and noisy."""

        def trained(task: ClientTask) -> Update:
            update = train(task)
            change = self._clipped(dict(update.change))
            amount = self._unit(root_mean_square(change)) * self.amount
            noisy = {name: g + self.draw(g, amount, task.rng) for name, g in change.items()}
            return replace(update, change=noisy)

        return trained

    def simulate_update(self, change: Gradient, seen: Update) -> Gradient:
        """Return a candidate's change, clipped as the client clips."""
        del seen
        return self._clipped(change)

    def noise(self, seen: Update) -> float:
        """Return the deviation of the noise; with ``update`` as estimated from what was seen."""
        std = self.deviation / math.sqrt(seen.clients)
        with_noise = root_mean_square(seen.change)
        return self._unit(with_noise / math.sqrt(1 + std**2)) * std

    @property
    def bounded(self) -> tuple[float, float] | None:
        """What an update can differ by in the norm, and the noise on it; None without a bound.

        That is twice the clipping norm, since all of the client's records may be others.
        """
        if self.clip_norm is None or self.relative_to == "update" or self.amount == 0:
            return None
        return 2 * self.clip_norm, self._unit(0.0) * self.amount

    def _clipped(self, change: Gradient) -> Gradient:
        return change if self.clip_norm is None else clipped(change, self.clip_norm, self.order)

    def _unit(self, root_mean_square_of_update: float) -> float:
        if self.relative_to == "clip_norm":
            return self.clip_norm or 1.0
        return root_mean_square_of_update if self.relative_to == "update" else 1.0
