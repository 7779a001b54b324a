"""Gaussian noise on a latent, and what it is like where it is learned."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Noise(NamedTuple):
    """Normal noise, its mean and deviation given for each element of a latent or for all.

    Attributes:
        mean: Mean, of the latent's shape, or a scalar.
        std: Standard deviation, likewise.
    """

    mean: Tensor
    std: Tensor

    def on(self, latents: Tensor, rng: torch.Generator) -> Tensor:
        """Return latents with fresh noise, differentiable by its mean and deviation."""
        drawn = torch.randn(latents.shape, generator=rng).to(latents)
        return latents + self.mean.to(latents) + self.std.to(latents) * drawn


class LearnedNoise(nn.Module):
    """Noise whose mean and deviation are trained, one of each for every element of a latent.

    The deviation is the softplus of a parameter, so it stays positive (ours).
    """

    def __init__(self, shape: tuple[int, ...], mean: float, std: float) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.full(shape, mean))
        self.raw_std = nn.Parameter(torch.full(shape, math.log(math.expm1(std))))

    def now(self) -> Noise:
        """Return the noise as it is, still attached to the parameters."""
        return Noise(self.mean, nn.functional.softplus(self.raw_std))

    def frozen(self) -> Noise:
        """Return the noise as it is, for good."""
        mean, std = self.now()
        return Noise(mean.detach().clone(), std.detach().clone())
