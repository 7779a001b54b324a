"""One linear layer."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from medbreach import ImageSpec, Model


@dataclass(frozen=True)
class LinearLayer(Model):
    """One linear layer on the flattened image, in 2D and 3D."""

    name: ClassVar[str] = "example_linear"
    source: ClassVar[str] = "medbreach-example"

    def build(self, spec: ImageSpec, classes: int) -> nn.Module:
        """Return the network."""
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(spec.shape), classes))
