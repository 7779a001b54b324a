"""What a candidate image would add to a layer's gradient: the server has the network.

The gradient of a batch is ``sum of delta_i z_i'`` over its records, so the ``delta_i`` lie in the
space that its columns span. The ``delta`` of an image that is no record does not: a check without a
look at the truth.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from medbreach.types import Exchange, Round

AT_A_TIME: Final = 64  # images


class Check(NamedTuple):
    """How well images fit in as records, each with the class that fits best.

    Attributes:
        labels: That class.
        residual: Share (in norm) of the image's ``delta`` that the columns do not span: 0 for a
            record, near 1 for any other image if there are many more rows than records.
        deltas: The gradient of the image's loss by the layer's outputs.
    """

    labels: Int[Tensor, " n"]
    residual: Float[Tensor, " n"]
    deltas: Float[Tensor, "n rows"]


def check(
    exchange: Exchange,
    name: str,
    images: Float[Tensor, "n channels *space"],
    columns: Float[Tensor, "rows rank"],
    signs: tuple[Int[Tensor, " n"], Float[Tensor, " n"]] | None = None,
) -> Check:
    """Return how well images fit in as records.

    Args:
        exchange: What the server saw.
        name: Name of the linear layer that takes the image.
        images: The images, in the spec's unit.
        columns: Orthonormal columns that span those of the layer's gradient.
        signs: A row for each image and the sign that its ``delta`` has there; else no class fits.
    """
    here = columns.device
    best = Check(
        torch.zeros(len(images), dtype=torch.long, device=here),
        columns.new_ones(len(images)),
        columns.new_zeros(len(images), len(columns)),
    )
    for label, deltas in _deltas(exchange, name, images):
        outside = deltas - deltas @ columns @ columns.T
        residual = outside.norm(dim=1) / deltas.norm(dim=1).clamp_min(1e-30)
        if signs is not None:
            agrees = deltas.gather(1, signs[0][:, None])[:, 0].sign() == signs[1].sign()
            residual = torch.where(agrees, residual, torch.ones_like(residual))
        better = residual < best.residual
        best.labels[better] = label
        best.residual[better] = residual[better]
        best.deltas[better] = deltas[better]
    return best


def _deltas(
    exchange: Exchange, name: str, images: Float[Tensor, "n channels *space"]
) -> Iterator[tuple[int, Float[Tensor, "n rows"]]]:
    """Yield each class that a record may have and the images' ``delta``, rounds side by side."""
    like = next(exchange.model.parameters())
    parts = torch.split(exchange.spec.normalise(images.to(like)), AT_A_TIME)
    known = exchange.update.labels
    for label in range(exchange.classes) if known is None else sorted(set(known.tolist())):
        rounds = [
            torch.cat([_by_outputs(exchange, played, name, part, label) for part in parts])
            for played in exchange.rounds
        ]
        yield label, torch.cat(rounds, dim=1)


def _by_outputs(exchange: Exchange, played: Round, name: str, inputs: Tensor, label: int) -> Tensor:
    """Return the gradient of each image's own loss by a layer's outputs, in evaluation mode."""
    seen: list[Tensor] = []

    def note(layer: Any, given: Any, outputs: Tensor) -> Tensor:
        del layer, given
        seen.append(outputs.detach().requires_grad_())
        return seen[0]

    hook = played.model.get_submodule(name).register_forward_hook(note)
    try:
        with torch.enable_grad():
            outputs = played.model.eval()(inputs)
            labels = torch.full((len(inputs),), label, device=inputs.device)
            total = exchange.loss(outputs, labels) * len(inputs)
            (gradient,) = torch.autograd.grad(total, seen[0])
    finally:
        played.model.train(played.training)
        hook.remove()
    return gradient.flatten(1)
