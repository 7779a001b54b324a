"""Networks that are a plain chain of layers, which the closed-form attacks go back along."""

import copy
import math
from collections.abc import Sequence

import torch
from torch import nn

from medbreach.breaching_bridge.heads import blank
from medbreach.errors import NotApplicable
from medbreach.types import Exchange

RGAP_UNKNOWNS = 14_000
"""Padded pixels in front of a layer whose equations, solved densely, take about 4 GB."""


def chain_for_rgap(exchange: Exchange) -> nn.Sequential:
    """Return a network as the chain that R-GAP goes back along, on the CPU.

    Raises:
        NotApplicable: It is no such chain, or its equations do not fit into memory.
    """
    found = [m for m in _layers(exchange.model) if not isinstance(m, (nn.Flatten, nn.Identity))]
    *body, last = found or [nn.Identity()]
    layers, activations = body[::2], body[1::2]
    alternates = len(layers) == len(activations) and all(
        isinstance(m, nn.LeakyReLU) and m.negative_slope > 0 for m in activations
    )
    if not isinstance(last, nn.Linear) or not alternates or not all(map(_invertible, layers)):
        raise NotApplicable(
            "rgap needs plain convolutions without bias and leaky ReLUs in turn, then one linear "
            "layer, such as case.model=rgap_cnn"
        )
    names = [name for name, _ in last.named_parameters()]
    if "bias" not in names or len(exchange.update.change) != len(layers) + 2:
        raise NotApplicable("rgap needs a last layer with a bias, and clients that train it all")
    first = next(k for k, m in enumerate(found) if isinstance(m, nn.Linear))
    chain = [*found[:first], nn.Flatten(), *found[first:]]
    if not _is_chain(exchange, chain):
        raise NotApplicable("rgap needs a network whose layers run one after the other")
    _check_size(exchange, chain)
    return nn.Sequential(*copy.deepcopy(chain)).cpu()


def _layers(model: nn.Module) -> list[nn.Module]:
    """Return a network's layers, in order, without their containers."""
    return [m for m in model.modules() if not list(m.children())]


def _invertible(layer: nn.Module) -> bool:
    """Return whether R-GAP, as breaching has it, knows such a layer."""
    if isinstance(layer, nn.Linear):
        return layer.bias is None
    return (
        isinstance(layer, nn.Conv2d)
        and layer.bias is None
        and layer.groups == 1
        and layer.dilation == (1, 1)
        and layer.padding_mode == "zeros"
        and layer.stride[0] == layer.stride[1]
        and not isinstance(layer.padding, str)
        and layer.padding[0] == layer.padding[1]
    )


def _is_chain(exchange: Exchange, layers: Sequence[nn.Module]) -> bool:
    """Return whether a network does what its layers do one after the other."""
    like = blank(exchange)
    pixels = torch.linspace(-1, 1, like.numel(), dtype=like.dtype, device=like.device)
    image = pixels.reshape(like.shape)
    whole, parts = copy.deepcopy((exchange.model, nn.Sequential(*layers)))
    try:
        with torch.no_grad():
            return torch.allclose(whole.eval()(image), parts.eval()(image))
    except RuntimeError:
        return False


def _check_size(exchange: Exchange, chain: Sequence[nn.Module]) -> None:
    """Check that R-GAP's equations fit into memory.

    Raises:
        NotApplicable: They do not.
    """
    image = blank(exchange)
    for layer in copy.deepcopy(chain):
        if isinstance(layer, nn.Conv2d):
            border = 2 * int(layer.padding[0])
            channels, *space = image.shape[1:]
            unknowns = channels * math.prod(side + border for side in space)
            if unknowns > RGAP_UNKNOWNS:
                raise NotApplicable(
                    f"rgap solves for the {unknowns:,} pixels in front of a convolution at once, "
                    f"which takes too much memory above {RGAP_UNKNOWNS:,}: use smaller images"
                )
        with torch.no_grad():
            image = layer(image)
