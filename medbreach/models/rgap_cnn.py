"""The network that R-GAP was published with."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from medbreach.components import Model
from medbreach.errors import ModelError
from medbreach.types import ImageSpec

LAYERS = ((12, 4, 2, 2), (36, 3, 2, 1), (36, 3, 1, 1), (36, 3, 1, 1), (64, 3, 2, 1), (128, 3, 1, 1))
"""Channels, kernel, stride and padding of each convolution."""


@dataclass(frozen=True)
class RGAPNetwork(Model):
    """Six convolutions without bias and leaky ReLUs in turn, then a linear layer. 2D only.

    Attributes:
        depth: Number of convolutions, the first of the six.
    """

    name: ClassVar[str] = "rgap_cnn"
    source: ClassVar[str] = "Zhu and Blaschko 2021, arXiv:2010.07733, network CNN6"
    differs: ClassVar[str] = "Takes images of any size; for 32 x 32 RGB it is breaching's cnn6."

    depth: int = 6

    def __post_init__(self) -> None:
        if not 1 <= self.depth <= len(LAYERS):
            raise ValueError(f"depth must lie between 1 and {len(LAYERS)}, got {self.depth}")

    def build(self, spec: ImageSpec, classes: int) -> nn.Module:
        """Return the network.

        Raises:
            ModelError: The images are volumes.
        """
        if len(spec.space) != 2:
            raise ModelError("rgap_cnn takes 2D images only")
        body: list[nn.Module] = []
        channels = spec.channels
        for out, kernel, stride, padding in LAYERS[: self.depth]:
            body.append(nn.Conv2d(channels, out, kernel, stride, padding, bias=False))
            body.append(nn.LeakyReLU(negative_slope=0.2))
            channels = out
        body.insert(-1, nn.Flatten())
        with torch.no_grad():
            width = math.prod(nn.Sequential(*body)(torch.zeros(1, *spec.shape)).shape)
        return nn.Sequential(*body, nn.Linear(width, classes))
