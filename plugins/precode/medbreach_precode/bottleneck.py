"""A layer that passes on a random sample of what it takes."""

import math
from typing import Final

import torch
from torch import Tensor, nn

LEAST: Final = 1e-12
"""Least standard deviation in the divergence, whose logarithm would be infinite at zero."""


class VariationalBottleneck(nn.Module):
    """Encode vectors as normal distributions, and decode a sample of each.

    Samples come from torch's global generator on the CPU, in training and in evaluation.

    Args:
        features: Entries of a vector.
        size: Entries of its code.

    Attributes:
        sampling: Whether samples are drawn; if not, each code is its mean.
    """

    def __init__(self, features: int, size: int) -> None:
        super().__init__()
        self.sampling = True
        self.encoder = nn.Linear(features, 2 * size)
        self.decoder = nn.Linear(size, features)

    def forward(self, vectors: Tensor) -> Tensor:
        """Return vectors decoded from random codes."""
        mean, std = moments(self.encoder(vectors))
        code = mean
        if self.sampling:
            code = mean + std * torch.randn(std.shape, dtype=std.dtype).to(std)
        decoded: Tensor = self.decoder(code)
        return decoded


class Bottlenecked(nn.Module):
    """A layer with a variational bottleneck before it."""

    def __init__(self, precode: VariationalBottleneck, layer: nn.Module) -> None:
        super().__init__()
        self.precode = precode
        self.layer = layer

    def forward(self, vectors: Tensor) -> Tensor:
        """Return what the layer makes of the bottleneck's sample."""
        outputs: Tensor = self.layer(self.precode(vectors))
        return outputs


def moments(encoded: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and standard deviation that an encoder's output stands for."""
    mean, raw = encoded.chunk(2, dim=1)
    return mean, nn.functional.softplus(raw)


def divergence(encoded: Tensor) -> Tensor:
    """Return the mean divergence of codes from a standard normal distribution, in bits."""
    mean, std = moments(encoded)
    variance = std.square()
    nats = 0.5 * (mean.square() + variance - 1 - variance.clamp_min(LEAST**2).log()).sum(1)
    return nats.mean() / math.log(2)
