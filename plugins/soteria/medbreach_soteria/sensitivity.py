"""How much each feature of a layer's input depends on the image."""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

AT_A_TIME: Final = 8
"""Features that are differentiated together: five times as fast as one in a small network."""


def inputs_of(
    model: nn.Module, layer: str, images: Tensor, weights: Mapping[str, Tensor]
) -> list[Tensor]:
    """Return what a layer took at each of its calls while the network computed with weights.

    Args:
        model: The network, which stays as it is.
        layer: Name of the layer.
        images: What the network takes.
        weights: Parameters and buffers by name; buffers may change.
    """
    taken: list[Tensor] = []

    def keep(_module: nn.Module, arguments: tuple[Any, ...]) -> None:
        taken.append(arguments[0])

    handle = model.get_submodule(layer).register_forward_pre_hook(keep)
    try:
        torch.func.functional_call(model, dict(weights), (images,))
    finally:
        handle.remove()
    return taken


def copied_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of a network's parameters and buffers, which ask for no gradient."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach().clone() for name, tensor in named}


def gradient_norms(features: Tensor, images: Tensor) -> Tensor:
    """Return for each record and feature the norm of the feature's gradient by the images.

    Args:
        features: A row of features for each record.
        images: The images that they were computed from.
    """
    norms = []
    for start in range(0, features.shape[1], AT_A_TIME):
        chosen = torch.arange(start, min(start + AT_A_TIME, features.shape[1]))
        picks = features.new_zeros(len(chosen), *features.shape)
        picks[torch.arange(len(chosen)), :, chosen] = 1
        (slopes,) = torch.autograd.grad(
            features, images, picks, retain_graph=True, is_grads_batched=True
        )
        norms.append(slopes.flatten(2).norm(dim=2))
    return torch.cat(norms).T


def kept(features: Tensor, norms: Tensor, pruning_rate: float) -> Tensor:
    """Return which features are kept: those of the highest scores.

    A feature's score is the size of the sum over records of ``norm / (feature + 0.1)``.

    Args:
        features: A row of features for each record.
        norms: The norms of their gradients by the images.
        pruning_rate: Percentile of the scores below which a feature is pruned.
    """
    scores = (norms.double() / (features.detach().double() + 0.1)).sum(0).abs()
    scores = scores.nan_to_num(nan=0.0, posinf=torch.finfo(torch.double).max)
    return scores >= torch.quantile(scores, pruning_rate / 100)
