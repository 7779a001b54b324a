"""Images from the features that the last linear layer's gradient gives away."""

import copy
import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from medbreach.attacks.minimise import minimise
from medbreach.components import Attack
from medbreach.errors import NotApplicable
from medbreach.types import Change, Exchange, Reconstruction, Update


class Features(NamedTuple):
    """What the last linear layer took, of one record a class.

    Attributes:
        layer: Its module's name.
        values: Its inputs.
        labels: Their classes.
        purity: How little of other records is in them, from 0 to 1.
    """

    layer: str
    values: Float[Tensor, "n features"]
    labels: Int[Tensor, " n"]
    purity: Float[Tensor, " n"]


@dataclass(frozen=True)
class FeatureRecovery(Attack):
    """Read features off the last linear layer's gradient and look for images that have them.

    A class's row of ``dL/dW`` over its entry of ``dL/db`` is what the layer took of one record. Of
    a batch it is a mixture, the closer to that class's own record the less probable the network
    thinks the class of the others. If labels are withheld, the classes with a negative entry are
    taken to be there. Adam then looks for a smooth image with such features, from the mean public
    image, in 2D and 3D.

    Confidence: how close the features come, times their purity, times features a pixel if those
    are fewer than one.

    Attributes:
        total_variation: Weight of the image's total variation, beside the relative squared error
            of its features.
        steps: Number of steps.
        step_size: Step size, in normalised intensity.
    """

    name: ClassVar[str] = "feature_recovery"
    source: ClassVar[str] = (
        "Phong et al. 2017, doi:10.1007/978-981-10-5421-1_9, for the features; Mahendran and "
        "Vedaldi 2015, arXiv:1412.0035, for the image"
    )
    differs: ClassVar[str] = "Adam from the mean public image, where the latter uses momentum."

    total_variation: float = 0.1
    steps: int = 1000
    step_size: float = 0.2

    def __post_init__(self) -> None:
        if self.steps < 1 or self.step_size <= 0 or self.total_variation < 0:
            raise ValueError("steps and step_size must be positive, total_variation not negative")

    def run(self, exchange: Exchange, rng: torch.Generator) -> Reconstruction:
        """Return one image for each class that is there.

        Raises:
            NotApplicable: The network does not end in a linear layer with a bias that clients
                train.
        """
        del rng
        wanted = find_features(exchange)
        if not len(wanted.labels):
            return Reconstruction(torch.zeros(0, *exchange.spec.shape))
        encode = Encoder(exchange, wanted.layer)
        sizes = wanted.values.square().sum(1).clamp_min(1e-30)

        def errors(images: Tensor) -> Tensor:
            return (encode(images) - wanted.values).square().sum(1) / sizes

        def objective(images: Tensor) -> Tensor:
            return (errors(images) + self.total_variation * roughness(images)).sum()

        spec = exchange.spec
        start = _start(exchange, len(wanted.labels))
        ends = torch.tensor(spec.bounds).reshape(2, *[1] * len(spec.shape))
        low, high = torch.split(spec.normalise(ends).to(start), 1)
        images = minimise(start, objective, self.steps, self.step_size, (low, high))
        with torch.no_grad():
            close = (1 - errors(images).sqrt()).clamp_min(0)
        known = min(1.0, wanted.values.shape[1] / math.prod(spec.shape))
        return Reconstruction(
            spec.denormalise(images), wanted.labels, close * wanted.purity * known
        )


class Encoder:
    """A network up to what one of its layers takes.

    It runs as at the clients, but without dropout.

    Args:
        exchange: What the server saw.
        layer: The layer's name.
    """

    def __init__(self, exchange: Exchange, layer: str) -> None:
        self._network = copy.deepcopy(exchange.model).requires_grad_(requires_grad=False)
        for module in self._network.modules():
            statistics = isinstance(module, nn.modules.batchnorm._BatchNorm)
            module.training = statistics and exchange.rounds[0].training
        self._seen: list[Tensor] = []
        self._network.get_submodule(layer).register_forward_pre_hook(self._note)

    def __call__(self, images: Tensor) -> Float[Tensor, "n features"]:
        """Return the features of normalised images."""
        self._seen.clear()
        self._network(images)
        return self._seen[-1]

    def _note(self, layer: nn.Module, inputs: Any) -> None:
        del layer
        self._seen.append(inputs[0])


def find_features(exchange: Exchange) -> Features:
    """Return the features that the last linear layer's gradient gives away.

    Raises:
        NotApplicable: There is no such layer with a bias that clients train.
    """
    from medbreach.breaching_bridge.heads import find_head

    head = find_head(exchange)
    if head is None or not head.is_linear or head.weight is None or head.bias is None:
        raise NotApplicable(
            "feature_recovery needs a last linear layer with one output a class and a bias, which "
            "clients train"
        )
    update = exchange.update
    changes = list(update.change.values())
    sign = -1 if update.kind is Change.DIFFERENCE else 1
    weight, bias = sign * changes[head.weight], sign * changes[head.bias]
    labels = _present(bias, update)
    if update.count == 1 and len(labels) == 1:  # every row says the same
        values = (bias @ weight / bias.square().sum())[None]
        return Features(head.name, values, labels, torch.ones_like(bias[labels]))
    values = weight[labels] / bias[labels, None]
    known = update.count is not None and update.kind is Change.GRADIENT
    alone = bias[labels].abs() * (update.count or 1)  # 1 for a record that no other disturbs
    purity = alone.clamp_max(1) if known else torch.full_like(alone, 0.5)
    return Features(head.name, values, labels, purity)


def _present(bias: Float[Tensor, " classes"], update: Update) -> Int[Tensor, " n"]:
    """Return the classes that records have: as they say, else those with a negative gradient.

    There are at most as many as records; if noise leaves none, the least gradient is taken.
    """
    there = bias != 0
    if update.labels is not None:
        known = torch.tensor(sorted(set(update.labels.tolist())), device=bias.device)
        return known[there[known]]
    least = bias.argsort()[: max(1, int((bias < 0).sum()))]
    return least[there[least]][: update.count].sort().values


def _start(exchange: Exchange, count: int) -> Tensor:
    """Return the mean public image, or else zeros, normalised."""
    spec, like = exchange.spec, next(exchange.model.parameters())
    start = torch.zeros(1, *spec.shape).to(like)
    if len(exchange.public):
        start = spec.normalise(exchange.public.mean(0, keepdim=True).to(like))
    return start.repeat(count, *[1] * len(spec.shape))


def roughness(images: Float[Tensor, "n channels *space"]) -> Float[Tensor, " n"]:
    """Return the mean total variation of each image: over its pixels, summed over axes."""
    axes = range(2, images.ndim)
    return sum((images.diff(dim=a).abs().flatten(1).mean(1) for a in axes), images.new_zeros(()))
