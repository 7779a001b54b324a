"""breaching's image regularisers for any number of axes and channels, and for local training."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medbreach.breaching_bridge import library
from medbreach.breaching_bridge.heads import find_head
from medbreach.errors import NotApplicable
from medbreach.types import Exchange


def fitted(regulariser: Any, exchange: Exchange, *, labelled: bool) -> Any:
    """Return a regulariser of breaching's, or ours with its settings where breaching's falls short.

    Args:
        regulariser: breaching's.
        exchange: What the server saw.
        labelled: Whether the attack knows the labels before it starts.

    Raises:
        NotApplicable: The network, or the attack, has not what it needs.
    """
    rgb = len(exchange.spec.space) == 2 and exchange.spec.channels == 3
    if isinstance(regulariser, library.regularizers.TotalVariation) and not rgb:
        return TotalVariation(
            float(regulariser.scale),
            float(regulariser.inner_exp),
            float(regulariser.outer_exp),
            regulariser.double_opponents,
            float(regulariser.eps),
        )
    if isinstance(regulariser, library.regularizers.DeepInversion):
        return BatchNormMatching(float(regulariser.scale), float(regulariser.first_bn_multiplier))
    if isinstance(regulariser, library.regularizers.FeatureRegularization):
        if not labelled:
            raise NotApplicable("regularization.features needs labels before the descent starts")
        return FeatureMatching(float(regulariser.scale), exchange)
    if isinstance(regulariser, library.regularizers.OrthogonalityRegularization):
        return Orthogonality(float(regulariser.scale))
    return regulariser


class Orthogonality(nn.Module):
    """Sum over pairs of a batch's records of their mean squared product, scaled.

    Source: Qian et al., "Minimal conditions analysis of gradient-based reconstruction in federated
    learning", as in breaching, which ignores the scale.
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def initialize(self, *_: object) -> None:
        """Nothing to prepare."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the scaled sum of a batch."""
        squares = images.flatten(1).square()
        products = squares @ squares.T / squares.shape[1]
        return self.scale * (products.sum() - products.trace())


class TotalVariation(nn.Module):
    """Total variation along every spatial axis, as breaching has it in 2D.

    Forward differences with a border of zeros, ``mean((sum |difference|^inner)^outer)``. Double
    opponents (differences of colour channels) are added for three channels only.
    """

    def __init__(
        self,
        scale: float = 1.0,
        inner_exp: float = 1,
        outer_exp: float = 1,
        double_opponents: bool = False,
        eps: float = 1e-8,
    ) -> None:
        super().__init__()
        self.scale, self.eps = scale, eps
        self.inner_exp, self.outer_exp = inner_exp, outer_exp
        self.double_opponents = double_opponents

    def initialize(self, *_: object) -> None:
        """Nothing to prepare."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the scaled total variation of a batch."""
        if self.double_opponents and images.shape[1] == 3:
            red, green, blue = images.unbind(1)
            opponents = torch.stack([red - green, red - blue, green - blue], dim=1)
            images = torch.cat([images, opponents], dim=1)
        total = images.new_zeros(())
        for axis in range(2, images.ndim):
            total = total + (_difference(images, axis).abs() + self.eps).pow(self.inner_exp)
        return total.pow(self.outer_exp).mean().mul(self.scale)


class BatchNormMatching(nn.Module):
    """Distance of the batch statistics to the running ones in every BatchNorm of any dimension.

    Layers that keep no running statistics are left out.

    Source: Yin et al. 2020, arXiv:1912.08795, equation 4; the first layer counts more, as in
    breaching.
    """

    def __init__(self, scale: float, first: float) -> None:
        super().__init__()
        self.scale, self.first = scale, first
        self._hooks: list[Any] = []
        self._distances: dict[tuple[int, int], Tensor] = {}

    def initialize(self, models: Iterable[nn.Module], *_: object) -> None:
        """Follow every BatchNorm of the networks."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._distances = [], {}
        for number, model in enumerate(models):
            layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
            kept = [m for m in layers if m.running_mean is not None]
            self._hooks += [
                layer.register_forward_hook(self._follow((number, index)))
                for index, layer in enumerate(kept)
            ]

    def forward(self, images: Tensor) -> Tensor:
        """Return the scaled distance over each network's last forward pass."""
        total = images.new_zeros(())
        for (_, index), distance in self._distances.items():
            total = total + (self.first if index == 0 else 1.0) * distance
        self._distances = {}
        return total * self.scale

    def _follow(self, place: tuple[int, int]) -> Any:
        def hook(layer: Any, inputs: tuple[Tensor], output: Tensor) -> None:
            del output
            axes = [0, *range(2, inputs[0].ndim)]
            variance, mean = torch.var_mean(inputs[0], axes, correction=0)
            distance = (layer.running_mean - mean).norm() + (layer.running_var - variance).norm()
            self._distances[place] = distance

        return hook


class FeatureMatching(nn.Module):
    """Distance of the last linear layer's inputs to those that its gradient gives away.

    A class's row of the weight gradient over its bias gradient is the input, if one record has that
    class, or a mean. The inputs are those of the network as sent, all records at once: breaching
    loses sight of them where clients train for several steps.
    """

    def __init__(self, scale: float, exchange: Exchange) -> None:
        super().__init__()
        self.scale = scale
        head = find_head(exchange)
        if head is None or not head.is_linear or head.weight is None or head.bias is None:
            raise NotApplicable(
                "regularization.features needs a last linear layer with a bias, which clients "
                "train, and this network has none: set attack.regularization.features.scale=0"
            )
        self._layer, self._weight, self._bias = head.name, head.weight, head.bias
        self._several_steps = exchange.update.recipe is not None
        self._hooks: list[Any] = []
        self._seen: dict[int, Tensor] = {}
        self._measured: list[Tensor] = []
        self._models: tuple[nn.Module, ...] = ()

    def initialize(
        self, models: Iterable[nn.Module], shared_data: Sequence[Any], labels: Tensor
    ) -> None:
        """Read the features out of the gradients and follow the layer's inputs."""
        for hook in self._hooks:
            hook.remove()
        self._models = tuple(models)
        self._measured = [self._features(shared["gradients"], labels) for shared in shared_data]
        self._hooks = [
            model.get_submodule(f"model.{self._layer}").register_forward_hook(self._follow(number))
            for number, model in enumerate(self._models)
        ]

    def forward(self, images: Tensor) -> Tensor:
        """Return the scaled squared distance of the candidate's features."""
        if self._several_steps:
            for model in self._models:
                model(images)
        total = images.new_zeros(())
        for number, measured in enumerate(self._measured):
            total = total + (self._seen[number] - measured).pow(2).mean()
        return total * self.scale

    def _features(self, gradients: Sequence[Tensor], labels: Tensor) -> Tensor:
        bias = gradients[self._bias][labels]
        rows = gradients[self._weight][labels] / bias[:, None]
        return torch.where(bias[:, None] == 0, torch.zeros_like(rows), rows)

    def _follow(self, number: int) -> Any:
        def hook(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            del layer, output
            self._seen[number] = inputs[0]

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
