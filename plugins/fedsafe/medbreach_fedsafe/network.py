"""The network that was released with the source's experiments."""

import math
from dataclasses import dataclass
from typing import ClassVar, Final

from torch import nn

from medbreach import ImageSpec, Model, ModelError

CONVOLUTIONS: Final = {2: nn.Conv2d, 3: nn.Conv3d}
POOLINGS: Final = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
BLOCKS: Final = (100, 150), (200, 200), (250, 250)
HEAD: Final = (64, 32, 16, 8)
PIXELS: Final = 8  # three poolings halve each axis


@dataclass(frozen=True)
class FedSafeCNN(Model):
    """Six 3 x 3 convolutions in three blocks, each ended by a maximum, then five linear layers.

    Attributes:
        width: Factor of the published channels 100, 150, 200, 200, 250, 250.
        dropout: Share of the last hidden layer's outputs that are dropped in training.
    """

    name: ClassVar[str] = "fedsafe_cnn"
    source: ClassVar[str] = "code attributed to Darzi, Sijtsema and van Ooijen 2023"
    differs: ClassVar[str] = "its width is a setting, and it takes 3D images too"

    width: float = 1.0
    dropout: float = 0.25

    def __post_init__(self) -> None:
        if self.width <= 0:
            raise ValueError(f"width must be positive, got {self.width}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie from 0 to below 1, got {self.dropout}")

    def build(self, spec: ImageSpec, classes: int) -> nn.Module:
        """Return the network.

        Raises:
            ModelError: An axis has fewer than 8 pixels.
        """
        if min(spec.space) < PIXELS:
            raise ModelError(
                f"fedsafe_cnn needs at least {PIXELS} pixels along each axis, not {spec.space}"
            )
        conv, pool = CONVOLUTIONS[len(spec.space)], POOLINGS[len(spec.space)]
        layers: list[nn.Module] = []
        channels = spec.channels
        for block in BLOCKS:
            for published in block:
                wide = max(1, round(self.width * published))
                layers += [conv(channels, wide, 3, padding=1), nn.ReLU()]
                channels = wide
            layers.append(pool(2))
        features = channels * math.prod(side // PIXELS for side in spec.space)
        layers.append(nn.Flatten())
        for hidden in HEAD:
            layers += [nn.Linear(features, hidden), nn.ReLU()]
            features = hidden
        return nn.Sequential(*layers, nn.Dropout(self.dropout), nn.Linear(features, classes))
