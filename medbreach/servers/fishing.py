"""The server that turns the last layer into a net for few records."""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medbreach.components import Planted, Server
from medbreach.errors import NotApplicable
from medbreach.servers.quantiles import check_images
from medbreach.types import ImageSpec

MOST_PUBLIC = 256
"""Public images that the cut is taken from: the network runs on them in every round."""

AT_ONCE = 32
NEVER = 1000.0
"""Logits between the classes where the target must never win, as in breaching."""


class FishingSecret(NamedTuple):
    """What the server remembers of a fishing last layer.

    Its gradient, but for the rows of other classes, is the sum over the records below the cut less
    the sum over the records of the target class, divided by the number of records.

    Attributes:
        layer: Name of the layer's module.
        target: The class whose logit is left; all others' are constant.
        direction: Weight of each of the layer's inputs in the fished feature.
        cut: Where the fished feature is cut; minus infinity in class fishing.
        multiplier: Factor of the fished feature in the target's logit, whose sign is negative.
    """

    layer: str
    target: int
    direction: Float[Tensor, " features"]
    cut: float
    multiplier: float


@dataclass(frozen=True)
class FishingServer(Server):
    """Change the last layer so that few records have a gradient; the architecture stays.

    All classes' logits are made constant but the target's, which falls with a feature of the last
    layer's input and is cut steeply. A record of the target class has a gradient if its feature
    lies beyond the cut, a record of another class if it does not, and then all weigh the same. So
    the difference of two rounds is the gradient of the records between their cuts, of whatever
    class; a single round shows the records beyond its cut where all are of the target class, and
    the others' where none is.

    Cuts are drawn at quantiles of public images, which carry no labels: the feature's distribution
    over all of them stands for that over any class.

    Attributes:
        target_cls_idx: The target class; null: one is drawn in each round.
        feat_multiplier: Steepness of the cut, per standard deviation of the feature over public
            images.
        opt_on_avg_grad: Must be false: breaching's code for it stops with a NameError.
        expected_records: Number of records that the server reckons with (ours). Each round's cut
            leaves 0 to 2 of so many beyond it; with more than two rounds, up to as many as there
            are rounds. 1: class fishing, without a cut and without public images.
        feature: Index of the feature that is cut; null: the target class's own logit in the
            honest network, which depends on all features (ours).
    """

    name: ClassVar[str] = "class_malicious_parameters"
    source: ClassVar[str] = "Wen et al. 2022, arXiv:2202.00580"
    differs: ClassVar[str] = (
        "Cuts are drawn at quantiles of public images, where breaching's binary search waits for "
        "each answer before it chooses the next cut. By default the target class's own logit is "
        "fished by instead of a single feature, which in a network without global pooling depends "
        "on a small part of the image."
    )
    malicious: ClassVar[bool] = True

    target_cls_idx: int | None = 0
    feat_multiplier: float = 300.0
    opt_on_avg_grad: bool = False
    expected_records: int = 16
    feature: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.opt_on_avg_grad:
            raise ValueError("opt_on_avg_grad=true is not supported")
        if self.feat_multiplier <= 0:
            raise ValueError(f"feat_multiplier must be positive, got {self.feat_multiplier}")
        if self.expected_records < 1:
            raise ValueError(f"expected_records must be at least 1, got {self.expected_records}")
        for name in ("target_cls_idx", "feature"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

    def plant(
        self,
        model: nn.Module,
        spec: ImageSpec,
        public: Float[Tensor, "public channels *space"],
        rng: torch.Generator,
    ) -> Planted:
        """Return the network with other values in its last layer, and which.

        Raises:
            NotApplicable: The network does not end in a linear layer with a bias, has no such class
                or feature, or there are too few public images for a cut, or they do not fit.
        """
        check_images(spec, public)
        place = last_layer(model, spec)
        layer = model.get_submodule(place)
        assert isinstance(layer, nn.Linear)
        target = self._target(layer.out_features, rng)
        direction = self._direction(layer, target)
        cut, multiplier = -math.inf, 1.0
        if self.expected_records > 1:
            measured = self._inputs(model, layer, spec, public) @ direction
            deviation = measured.std()
            if not deviation > 1e-6 * measured.abs().max():
                raise NotApplicable(
                    "the fished feature is the same for all public images: set another "
                    "case.server.feature"
                )
            direction, measured = direction / deviation, measured / deviation
            cut = float(torch.quantile(measured, self._share_below(rng)))
            multiplier = self.feat_multiplier
        secret = FishingSecret(place, target, direction, cut, multiplier)
        spread_net(layer, secret)
        return Planted(model, secret)

    def _target(self, classes: int, rng: torch.Generator) -> int:
        drawn = int(torch.randint(classes, (), generator=rng))
        target = drawn if self.target_cls_idx is None else self.target_cls_idx
        if classes < 2 or target >= classes:
            raise NotApplicable(
                f"case.server.target_cls_idx is {target}, but the network's last layer has "
                f"{classes} outputs: fishing needs two or more, counted from 0"
            )
        return target

    def _direction(self, layer: nn.Linear, target: int) -> Float[Tensor, " features"]:
        """Return the weights of the fished feature, the same in every round."""
        if self.feature is None:
            own = layer.weight[target].detach().clone()
            if own.any():
                return own
            return torch.randn(own.shape, generator=torch.Generator().manual_seed(0)).to(own)
        if self.feature >= layer.in_features:
            raise NotApplicable(
                f"case.server.feature is {self.feature}, but the network's last layer has "
                f"{layer.in_features} inputs, counted from 0"
            )
        direction = torch.zeros_like(layer.weight[0])
        direction[self.feature] = 1
        return direction.detach()

    def _inputs(
        self, model: nn.Module, layer: nn.Linear, spec: ImageSpec, public: Tensor
    ) -> Float[Tensor, "public features"]:
        """Return what the last layer gets for public images."""
        if len(public) < 2:
            raise NotApplicable(
                "the cut is taken from public images: set case.server.has_external_data=true, or "
                "case.server.expected_records=1 for class fishing"
            )
        found: list[Tensor] = []
        handle = layer.register_forward_hook(lambda _, inputs, __: found.append(inputs[0]))
        with torch.no_grad():
            images = spec.normalise(public[:MOST_PUBLIC]).to(layer.weight)
            for start in range(0, len(images), AT_ONCE):
                model.eval()(images[start : start + AT_ONCE])
        handle.remove()
        return torch.cat(found)

    def _share_below(self, rng: torch.Generator) -> float:
        """Return which quantile of the public images a round's cut is at."""
        window = min(1.0, max(2, self.num_queries) / self.expected_records)
        return 1 - window * float(torch.rand((), generator=rng))


def last_layer(model: nn.Module, spec: ImageSpec) -> str:
    """Return the name of the linear layer whose output is the network's.

    Raises:
        NotApplicable: There is none, or it has no bias or takes more than one vector an image.
    """
    ran: list[tuple[nn.Module, Tensor, Tensor]] = []
    layers: dict[nn.Module, str] = {
        m: name for name, m in model.named_modules() if isinstance(m, nn.Linear)
    }
    handles = [
        layer.register_forward_hook(lambda m, inputs, output: ran.append((m, inputs[0], output)))
        for layer in layers
    ]
    like = next(model.parameters())
    with torch.no_grad():
        outputs = model.eval()(torch.zeros(2, *spec.shape, dtype=like.dtype, device=like.device))
    for handle in handles:
        handle.remove()
    for layer, given, made in ran:
        own = {name for name, _ in layer.named_parameters(recurse=False)}
        if made is outputs and given.ndim == 2 and own == {"weight", "bias"}:
            return layers[layer]
    raise NotApplicable(
        "fishing changes a linear layer with a bias whose output is the network's: this network "
        "does not end in one"
    )


@torch.no_grad()
def spread_net(layer: nn.Linear, secret: FishingSecret) -> None:
    """Put the values into the last layer: each class's logit is 0 but the target's."""
    layer.weight.zero_()
    layer.bias.zero_()
    layer.weight[secret.target] = -secret.multiplier * secret.direction
    if math.isinf(secret.cut):
        layer.bias[secret.target] = -NEVER
    else:  # at the cut the target is as likely as all others together
        even = math.log(layer.out_features - 1)
        layer.bias[secret.target] = secret.multiplier * secret.cut + even
