"""A small convolutional network, for controls and quick audits."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from medbreach.components import Model
from medbreach.errors import ModelError
from medbreach.types import ImageSpec

CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}
POOLINGS = {2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}


@dataclass(frozen=True)
class SmallCNN(Model):
    """Three convolutions with ReLU, then one linear layer. No normalisation.

    Attributes:
        width: Channels of each convolution.
        pool: Cells along each axis that features are averaged to before the linear layer, so that
            images of other sizes fit too; null: no pooling, for images of one size.
    """

    name: ClassVar[str] = "small_cnn"
    source: ClassVar[str] = "medbreach"

    width: int = 32
    pool: int | None = None

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}")
        if self.pool is not None and self.pool < 1:
            raise ValueError(f"pool must be at least 1, got {self.pool}")

    def build(self, spec: ImageSpec, classes: int) -> nn.Module:
        """Return the network; the second and third convolution halve each axis.

        Raises:
            ModelError: An axis has fewer than 4 pixels.
        """
        if min(spec.space) < 4:
            raise ModelError(f"small_cnn needs at least 4 pixels along each axis, not {spec.space}")
        conv = CONVOLUTIONS[len(spec.space)]
        left = math.prod(self.pool or -(-side // 4) for side in spec.space)
        pooling = [] if self.pool is None else [POOLINGS[len(spec.space)](self.pool)]
        return nn.Sequential(
            conv(spec.channels, self.width, 3, padding=1),
            nn.ReLU(),
            conv(self.width, self.width, 3, stride=2, padding=1),
            nn.ReLU(),
            conv(self.width, self.width, 3, stride=2, padding=1),
            nn.ReLU(),
            *pooling,
            nn.Flatten(),
            nn.Linear(self.width * left, classes),
        )
