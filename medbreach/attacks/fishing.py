"""Reconstructing the records that a fishing last layer caught."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from medbreach.attacks.catches import Catch, land
from medbreach.attacks.gradient_matching import GradientMatching
from medbreach.attacks.optimization import Optimization
from medbreach.parts import Part, finished
from medbreach.progress import current, watched_by
from medbreach.servers.fishing import FishingServer
from medbreach.types import Exchange, ImageSpec, Reconstruction, Reveals, Round, Update

if TYPE_CHECKING:
    from medbreach.case import Case


@dataclass(frozen=True)
class Fishing(GradientMatching):
    """Match the gradients of the few records that rounds with a fishing last layer give away.

    A round, or the difference of two, is the gradient of the fished feature of a few records. The
    gradient of the target's bias tells of how many, that of its weights over it is what the last
    layer got for them, which must lie between the cuts; the rest is matched like any gradient, with
    as many images as there are records. Labels play no part, so ``label_strategy`` has no effect.

    Attributes:
        max_records: Greatest number of records that are matched together; what holds more is left.
    """

    name: ClassVar[str] = "fishing"
    source: ClassVar[str] = "Wen et al. 2022, arXiv:2202.00580"
    needs: ClassVar[frozenset[Reveals]] = frozenset()
    differs: ClassVar[str] = (
        "What is matched is the gradient of the fished feature itself, so neither the cut nor the "
        "other classes' rows count and records of every class are found; the steepness of the cut "
        "is set back so that the gradients of the last layer and of the layers before it weigh the "
        "same, where breaching sets it to 1."
    )

    unheeded: ClassVar[frozenset[str]] = frozenset({"label_strategy"})

    max_records: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_records < 1:
            raise ValueError(f"max_records must be at least 1, got {self.max_records}")

    def run(self, exchange: Exchange, rng: torch.Generator) -> Reconstruction:
        """Return an image for each record that was caught.

        Raises:
            NotApplicable: The server planted no such layer, the updates are no gradients, or a
                setting works on 2D RGB images only.
        """
        self.check_images(exchange)
        caught = land(exchange, self.max_records)
        seeds = torch.randint(2**62, (len(caught),), generator=rng).tolist()
        watch = current()
        parts = finished(watch)
        for k, catch in list(enumerate(caught))[len(parts) :]:
            with watched_by(Part(watch, k, len(caught), parts)):
                parts.append(self._claims(exchange, catch, torch.Generator().manual_seed(seeds[k])))
        return _together(parts, exchange.spec)

    def control(self, case: "Case") -> "Case":
        """Return one record, and a server of this kind that catches it wherever its feature lies.

        Target classes and cuts differ from round to round, so that some round shows the record.
        """
        own = case.server if isinstance(case.server, FishingServer) else FishingServer()
        server = replace(own, target_cls_idx=None, feature=None, expected_records=2, num_queries=24)
        return replace(case.solvable(), server=server)

    def _claims(self, exchange: Exchange, catch: Catch, rng: torch.Generator) -> Reconstruction:
        """Return as many images as a catch has records, in the spec's unit, on the CPU."""
        count = max(1, round(catch.records))
        matched = _as_exchange(exchange, catch, count, 1 if self.objective.type == "l1" else 2)
        shared = {field.name: getattr(self, field.name) for field in fields(GradientMatching)}
        images = Optimization(**shared).run(matched, rng).images
        certainty = (1.0 if catch.sure else 0.5) / max(1.0, catch.records)
        confidence = certainty * max(0.0, _agreement(matched, images))
        return Reconstruction(
            images.cpu(),
            None if catch.label is None else torch.full((count,), catch.label),
            torch.full((count,), confidence),
        )


def _together(parts: Sequence[Reconstruction], spec: ImageSpec) -> Reconstruction:
    labels = [part.labels for part in parts if part.labels is not None]
    confidence = [part.confidence for part in parts if part.confidence is not None]
    return Reconstruction(
        torch.cat([torch.zeros(0, *spec.shape), *(part.images for part in parts)]),
        torch.cat(labels) if labels and len(labels) == len(parts) else None,
        torch.cat([torch.zeros(0), *confidence]),
    )


def _as_exchange(exchange: Exchange, catch: Catch, count: int, order: int) -> Exchange:
    """Return a catch as the gradient of a network whose only output is the fished feature.

    The gradients of the last layer and of the layers before it are scaled to norm 1/2 each, by the
    steepness of the feature and a factor of the loss.

    Args:
        exchange: What the server saw.
        catch: The gradient to match.
        count: Number of records in it.
        order: Order of the norm.
    """
    played, secret = catch.above.played, catch.above.secret
    weight, bias = f"{secret.layer}.weight", f"{secret.layer}.bias"
    before = {n: catch.mean_gradient(n) for n in played.update.change if n not in (weight, bias)}
    last = torch.cat([catch.features, catch.features.new_ones(1)])
    factor = 0.5 / _norm([last], order)
    length = _norm(before.values(), order)
    steepness = 0.5 / (factor * length) if length > 0 else 1.0
    change = {name: factor * steepness * gradient for name, gradient in before.items()}
    change |= {weight: factor * last[None, :-1], bias: factor * last[-1:]}
    update = Update(
        {name: change[name] for name in played.update.change},
        labels=torch.zeros(count, dtype=torch.long),
        count=count,
    )

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        del labels  # there is one output, and one class
        return factor * outputs.mean()

    network = _fished_feature(played.model, secret.layer, steepness * secret.direction)
    return replace(exchange, classes=1, loss=loss, rounds=(Round(network, update),))


def _norm(tensors: Iterable[Tensor], order: int) -> float:
    """Return the norm of tensors taken together."""
    return float(sum(float(t.abs().pow(order).sum()) for t in tensors) ** (1 / order))


def _fished_feature(model: nn.Module, layer: str, direction: Tensor) -> nn.Module:
    network = copy.deepcopy(model).eval()
    last = network.get_submodule(layer)
    assert isinstance(last, nn.Linear)
    last.weight = nn.Parameter(direction.to(last.weight)[None])
    last.bias = nn.Parameter(torch.zeros_like(last.bias[:1]))
    last.out_features = 1
    return network


def _agreement(matched: Exchange, images: Tensor) -> float:
    """Return the cosine between the gradient of images and the one that they were to match."""
    network, wanted = matched.model, matched.update.change
    inputs = matched.spec.normalise(images.to(next(network.parameters())))
    weights = {name: p for name, p in network.named_parameters() if name in wanted}
    found = torch.autograd.grad(
        matched.loss(network(inputs), inputs), list(weights.values()), materialize_grads=True
    )
    one = torch.cat([gradient.flatten() for gradient in found])
    other = torch.cat([wanted[name].flatten() for name in weights])
    return float(nn.functional.cosine_similarity(one, other, dim=0))
