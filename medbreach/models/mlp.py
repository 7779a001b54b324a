"""Networks of linear layers."""

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from medbreach.components import Model
from medbreach.types import ImageSpec


@dataclass(frozen=True)
class Linear(Model):
    """One linear layer on the flattened image."""

    name: ClassVar[str] = "linear"
    source: ClassVar[str] = "breaching, model linear"

    def build(self, spec: ImageSpec, classes: int) -> nn.Module:
        """Return the network."""
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(spec.shape), classes))


@dataclass(frozen=True)
class MLP(Model):
    """Hidden linear layers with ReLU on the flattened image, then a linear layer.

    Attributes:
        width: Units of each hidden layer.
        hidden: Number of hidden layers.
    """

    name: ClassVar[str] = "mlp"
    source: ClassVar[str] = "breaching, model MLP"
    differs: ClassVar[str] = "Takes images of any shape, where breaching's takes 3,072 pixels."

    width: int = 1024
    hidden: int = 3

    def __post_init__(self) -> None:
        if self.width < 1 or self.hidden < 1:
            raise ValueError("width and hidden must be at least 1")

    def build(self, spec: ImageSpec, classes: int) -> nn.Module:
        """Return the network."""
        widths = [math.prod(spec.shape), *[self.width] * self.hidden]
        body = [
            layer
            for before, after in itertools.pairwise(widths)
            for layer in (nn.Linear(before, after), nn.ReLU())
        ]
        return nn.Sequential(nn.Flatten(), *body, nn.Linear(self.width, classes))
