"""The layer that says which class an image belongs to, and what its gradient says about labels.

breaching takes the last two tensors of an update for the weight and bias of that layer. Here it is
looked for in the network.
"""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from medbreach.errors import NotApplicable
from medbreach.types import Exchange

FROM_BIAS = ("analytic", "bias-corrected", "mean-softmax")
ONE_NEGATIVE_A_CLASS = ("analytic", "bias-corrected", "wainakh-simple")


class Head(NamedTuple):
    """Where a network's classification layer is.

    Attributes:
        name: Its module's name.
        weight: Place of its weight's gradient in the update; None if clients do not train it.
        bias: Place of its bias's gradient; None if it has none or clients do not train it.
        is_linear: Whether it is a linear layer that takes one vector an image.
    """

    name: str
    weight: int | None
    bias: int | None
    is_linear: bool


def find_head(exchange: Exchange) -> Head | None:
    """Return the last layer that runs and has one output a class; None if there is none."""
    model = copy.deepcopy(exchange.model).eval()
    ran: list[tuple[str, bool]] = []

    def note(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        del output
        name = next(name for name, module in model.named_modules() if module is layer)
        ran.append((name, isinstance(layer, nn.Linear) and inputs[0].ndim == 2))

    for module in model.modules():
        weight = getattr(module, "weight", None)
        layer = isinstance(module, (nn.Linear, nn.modules.conv._ConvNd))
        if layer and weight is not None and len(weight) == exchange.classes:
            module.register_forward_hook(note)
    with torch.no_grad():
        model(blank(exchange))
    if not ran:
        return None
    name, is_linear = ran[-1]
    places = {parameter: k for k, parameter in enumerate(exchange.update.change)}
    return Head(name, places.get(f"{name}.weight"), places.get(f"{name}.bias"), is_linear)


def blank(exchange: Exchange) -> Tensor:
    """Return one normalised image of zeros, as the network takes it."""
    like = next(exchange.model.parameters())
    return torch.zeros(1, *exchange.spec.shape, dtype=like.dtype, device=like.device)


def head_gradients(
    exchange: Exchange, shared_data: Sequence[dict[str, Any]], strategy: str
) -> list[dict[str, Any]]:
    """Return what clients shared as breaching's label inference takes it.

    The gradients are those of the head alone, weight and bias. Where noise makes more classes look
    present than there are records, which breaching does not expect, only the likeliest are left.

    Args:
        exchange: What the server saw.
        shared_data: The same in breaching's words.
        strategy: How labels are inferred.

    Raises:
        NotApplicable: The network has no such layer, so labels cannot be inferred.
    """
    head = find_head(exchange)
    if head is None or head.weight is None or (strategy in FROM_BIAS and head.bias is None):
        raise NotApplicable(
            f"labels are withheld, and label_strategy {strategy} infers them from a last layer "
            "that has one output a class and a bias, which clients train: this network has none"
        )
    pairs = [_pair(shared["gradients"], head) for shared in shared_data]
    if strategy in ONE_NEGATIVE_A_CLASS:
        pairs = _with_at_most(exchange.update.count or 1, pairs, strategy)
    return [
        {**shared, "gradients": list(pair)} for shared, pair in zip(shared_data, pairs, strict=True)
    ]


def _pair(gradients: Sequence[Tensor], head: Head) -> tuple[Tensor, Tensor]:
    assert head.weight is not None
    weight = gradients[head.weight].flatten(1)
    return weight, weight.new_zeros(len(weight)) if head.bias is None else gradients[head.bias]


def _with_at_most(
    count: int, pairs: list[tuple[Tensor, Tensor]], strategy: str
) -> list[tuple[Tensor, Tensor]]:
    evidence = torch.stack([b if strategy in FROM_BIAS else w.sum(1) for w, b in pairs]).mean(0)
    if int((evidence < 0).sum()) <= count:
        return pairs
    likely = torch.zeros_like(evidence)
    likely[evidence.argsort()[:count]] = 1
    return [(w * likely[:, None], b * likely) for w, b in pairs]
