"""Outpost: pruning and noise where a gradient is most at risk, less and less often."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from medbreach import (
    Batch,
    ClientTask,
    Defense,
    Gradient,
    LocalTraining,
    StepGradient,
    Update,
    trainable,
)
from medbreach_outpost.perturbation import noisy_positions, percentile, pruned, risk

NOISE = "outpost.noise/"
"""Hints, by tensor: the root mean square of its noise, which follows from the weights sent."""


@dataclass(frozen=True)
class Outpost(Defense):
    """Prune a gradient's small entries and add noise where it tells most, less and less often.

    In the t-th step of a round, with the probability ``1 / (1 + beta t)``, small entries of each
    tensor are set to zero, and Gaussian noise is added at the positions of the highest Fisher
    information. Its deviation is ``noise_base`` times the variance of that tensor's weights (at
    most 1), so it is small where weights are narrow, as in common initialisations.

    A step is left as it is with the other probability: with ``beta`` 0.125, one gradient in nine
    is sent undefended. An attacker who knows the defense matches the entries that the client kept,
    which are the largest, and asks of the others only that they are smaller (`simulate_update`).
    The size of the noise follows from the weights that the server sent (`noise`).

    Attributes:
        beta: How fast the probability of a perturbation falls with the steps of a round.
        phi: Percentage of the gradient's positions that get noise.
        prune_base: Percentage of each tensor's entries that are set to zero.
        noise_base: Standard deviation of the noise, in the gradient's unit, where the weights of a
            tensor have variance 1.
    """

    name: ClassVar[str] = "outpost"
    source: ClassVar[str] = (
        "Wang et al., More than Enough is Too Much, INFOCOM 2023; code of its authors (in Plato)"
    )
    differs: ClassVar[str] = (
        "t counts the steps of a round, where the code multiplies the epoch and the number of the "
        "batch. Noise is drawn anew each time; the code seeds its generator with one number before "
        "each perturbation. Since September 2024 the code returns the gradient as it was; this "
        "sends the perturbed one, as the code did before. A tensor of a single weight, which has "
        "no variance, gets no noise."
    )

    beta: float = 0.125
    phi: float = 40.0
    prune_base: float = 80.0
    noise_base: float = 0.8

    def __post_init__(self) -> None:
        if self.beta < 0 or self.noise_base < 0:
            raise ValueError(
                f"beta and noise_base must not be negative, got {self.beta} and {self.noise_base}"
            )
        for name in ("phi", "prune_base"):
            if not 0 <= getattr(self, name) <= 100:
                raise ValueError(f"{name} must lie from 0 to 100, got {getattr(self, name)}")

    def step(self, gradient: StepGradient) -> StepGradient:
        """Return how a round's gradients are computed, some of them perturbed."""
        numbers = itertools.count(1)

        def stepped(task: ClientTask, batch: Batch) -> Gradient:
            found = gradient(task, batch)
            chance = 1 / (1 + self.beta * next(numbers))
            if float(torch.rand((), generator=task.rng)) >= chance:
                return found
            return self._perturbed(found, trainable(task.model), task.rng)

        return stepped

    def wrap(self, train: LocalTraining) -> LocalTraining:
        """Return local training that adds what the server can compute of the noise's size."""

        def trained(task: ClientTask) -> Update:
            recipe = task.recipe
            scale = 1.0 if recipe is None else recipe.lr * recipe.steps**0.5
            hints = {
                NOISE + name: torch.tensor(scale * math.sqrt(self.phi / 100) * self._std(weights))
                for name, weights in trainable(task.model).items()
            }
            update = train(task)
            return replace(update, hints={**update.hints, **hints})

        return trained

    def simulate_update(self, change: Gradient, seen: Update) -> Gradient:
        """Return what of a change the client would have sent, as far as what was seen tells.

        The largest entries of each tensor that was seen were kept. Where it is zero, a candidate's
        entry counts by as much as it is larger than the least of those. The others are pruned
        entries under noise, or of a step that was left as it is: they are as seen.
        """
        return {name: self._sent(g, seen.change[name].to(g)) for name, g in change.items()}

    def noise(self, seen: Update) -> Mapping[str, float]:
        """Return the root mean square of each tensor's noise, its noisy positions spread evenly."""
        return {
            name: float(seen.hints[NOISE + name]) / seen.clients**0.5
            for name in seen.change
            if NOISE + name in seen.hints
        }

    def _sent(self, candidate: Tensor, sent: Tensor) -> Tensor:
        sizes = sent.abs()
        kept = (sizes >= percentile(sizes, self.prune_base)) & (sent != 0)
        least = float(sizes[kept].min()) if kept.any() else 0.0
        excess = nn.functional.softshrink(candidate, least)
        return torch.where(kept, candidate, torch.where(sent == 0, excess, sent))

    def _perturbed(
        self, gradients: Gradient, weights: Mapping[str, Tensor], rng: torch.Generator
    ) -> Gradient:
        noisy = noisy_positions(gradients, self.phi) if self.phi > 0 else {}
        sent = {}
        for name, gradient in gradients.items():
            sent[name] = pruned(gradient, self.prune_base)
            if name in noisy:
                drawn = torch.randn(gradient.shape, generator=rng).to(gradient)
                sent[name] = sent[name] + self._std(weights[name]) * drawn * noisy[name]
        return sent

    def _std(self, weights: Tensor) -> float:
        return risk(weights) * self.noise_base
