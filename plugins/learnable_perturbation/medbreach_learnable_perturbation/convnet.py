"""The network of the source's Table I."""

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from torch import nn

from medbreach import ImageSpec, Model, ModelError

CONVOLUTIONS: Final = {2: nn.Conv2d, 3: nn.Conv3d}
POOLINGS: Final = {2: nn.MaxPool2d, 3: nn.MaxPool3d}

BEFORE_THE_POOLING: Final = (1, 2, 2, 4, 4, 4)
"""Output channels of the first convolutions, in widths; those after the pooling have 4 too."""


@dataclass(frozen=True)
class PerturbationConvNet(Model):
    """Geiping's ConvNet without normalisation, cut into ``encoder`` and ``predictor``.

    The encoder has convolutions of width, 2, 2, 4, 4 and 4 widths, a max pooling of 3, and two or
    three convolutions of 4 widths; each is 3 x 3 with a ReLU. The predictor has a max pooling of 3
    and one linear layer. Images of 32 x 32 have a latent of 256 x 10 x 10, those of 28 x 28 one of
    256 x 9 x 9, and the linear layer takes 2304 features from both, as in the source. Other sizes
    from 9 pixels an axis, and volumes, are taken in the same way (ours): the linear layer fits
    what the poolings leave.

    Attributes:
        width: Channels of the first convolution.
        convolutions: 9, as Table I prints; 8, as the code runs that the table follows, in which one
            convolution replaces another of the same name.
    """

    name: ClassVar[str] = "perturbation_convnet"
    source: ClassVar[str] = (
        "Jiang, Firouzi and Chakrabarty 2025, arXiv:2503.16542, Table I, after Geiping et al. 2020"
    )
    differs: ClassVar[str] = (
        "The padding of 1 is implied by the table's 2304 features. Volumes and sizes other than "
        "32 x 32 and 28 x 28 are ours."
    )

    width: int = 64
    convolutions: Literal[8, 9] = 9

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}")

    def build(self, spec: ImageSpec, classes: int) -> nn.Module:
        """Return the network, with the submodules ``encoder`` and ``predictor``.

        Raises:
            ModelError: An axis has fewer than 9 pixels, of which two poolings leave nothing.
        """
        if min(spec.space) < 9:
            raise ModelError(
                f"perturbation_convnet needs at least 9 pixels along each axis, not {spec.space}"
            )
        pooling = POOLINGS[len(spec.space)]
        features = 4 * self.width * math.prod(side // 3 // 3 for side in spec.space)
        predictor = OrderedDict(
            pool=pooling(3), flatten=nn.Flatten(), linear=nn.Linear(features, classes)
        )
        return nn.Sequential(
            OrderedDict(encoder=self._encoder(spec), predictor=nn.Sequential(predictor))
        )

    def _encoder(self, spec: ImageSpec) -> nn.Sequential:
        axes = len(spec.space)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        before, last = spec.channels, len(BEFORE_THE_POOLING)
        for k in range(self.convolutions):
            if k == last:
                layers["pool"] = POOLINGS[axes](3)
            after = self.width * (BEFORE_THE_POOLING[k] if k < last else 4)
            layers[f"conv{k}"] = CONVOLUTIONS[axes](before, after, 3, padding=1)
            layers[f"relu{k}"] = nn.ReLU()
            before = after
        return nn.Sequential(layers)
