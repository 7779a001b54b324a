"""A small convolutional network, for controls and quick audits."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from medbreach.components import Model
from medbreach.errors import ModelError
from medbreach.types import ImageSpec

CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}


@dataclass(frozen=True)
class SmallCNN(Model):
    """Three convolutions with ReLU, then one linear layer. No normalisation, no pooling.

    Attributes:
        width: Channels of each convolution.
    """

    name: ClassVar[str] = "small_cnn"
    source: ClassVar[str] = "medbreach"

    width: int = 32

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}")

    def build(self, spec: ImageSpec, classes: int) -> nn.Module:
        """Return the network; the second and third convolution halve each axis.

        Raises:
            ModelError: An axis has fewer than 4 pixels.
        """
        if min(spec.space) < 4:
            raise ModelError(f"small_cnn needs at least 4 pixels along each axis, not {spec.space}")
        conv = CONVOLUTIONS[len(spec.space)]
        left = math.prod(-(-side // 4) for side in spec.space)
        return nn.Sequential(
            conv(spec.channels, self.width, 3, padding=1),
            nn.ReLU(),
            conv(self.width, self.width, 3, stride=2, padding=1),
            nn.ReLU(),
            conv(self.width, self.width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(self.width * left, classes),
        )
