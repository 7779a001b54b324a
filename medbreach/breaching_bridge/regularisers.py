"""breaching's image regularisers for any number of axes and channels."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class TotalVariation(nn.Module):
    """Total variation along every spatial axis, as breaching has it in 2D.

    Forward differences with a border of zeros, ``mean((sum |difference|^inner)^outer)``. Double
    opponents (differences of colour channels) are added for three channels only.
    """

    def __init__(self, of: Any) -> None:
        """Take the settings of a regulariser of breaching's."""
        super().__init__()
        self.scale, self.eps = of.scale, of.eps
        self.inner_exp, self.outer_exp = of.inner_exp, of.outer_exp
        self.double_opponents = of.double_opponents

    def initialize(self, models: object, *args: object) -> None:
        """Nothing to prepare."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the scaled total variation of a batch."""
        if self.double_opponents and images.shape[1] == 3:
            red, green, blue = images.split(1, dim=1)
            images = torch.cat([images, red - green, red - blue, green - blue], dim=1)
        total = sum(
            (_difference(images, axis).abs() + self.eps).pow(self.inner_exp)
            for axis in range(2, images.ndim)
        )
        assert isinstance(total, Tensor)
        return total.pow(self.outer_exp).mean() * self.scale


class BatchNormMatching(nn.Module):
    """Distance of the batch statistics to the running ones in every BatchNorm of any dimension.

    Source: Yin et al. 2020, arXiv:1912.08795, equation 4; the first layer counts more, as in
    breaching.
    """

    def __init__(self, of: Any) -> None:
        """Take the settings of a regulariser of breaching's."""
        super().__init__()
        self.scale, self.first = of.scale, of.first_bn_multiplier
        self._distances: list[Tensor] = []

    def initialize(self, models: Iterable[nn.Module], *args: object) -> None:
        """Follow every BatchNorm of the networks."""
        for model in models:
            layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
            for index, layer in enumerate(layers):
                layer.register_forward_hook(self._follow(self.first if index == 0 else 1.0))

    def forward(self, images: Tensor) -> Tensor:
        """Return the scaled distance over the last forward pass."""
        total = sum(self._distances, start=images.new_zeros(()))
        self._distances = []
        return total * self.scale

    def _follow(self, weight: float) -> Any:
        def hook(layer: Any, inputs: tuple[Tensor], output: Tensor) -> None:
            del output
            axes = [0, *range(2, inputs[0].ndim)]
            variance, mean = torch.var_mean(inputs[0], axes, correction=0)
            distance = (layer.running_mean - mean).norm() + (layer.running_var - variance).norm()
            self._distances.append(weight * distance)

        return hook


def _difference(images: Tensor, axis: int) -> Tensor:
    ahead = torch.cat(
        [
            images.narrow(axis, 1, images.shape[axis] - 1),
            torch.zeros_like(images.narrow(axis, 0, 1)),
        ],
        dim=axis,
    )
    return ahead - images
