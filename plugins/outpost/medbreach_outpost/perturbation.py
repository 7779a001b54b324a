"""Pruning and noise where a gradient is most at risk."""

from collections.abc import Mapping

import torch
from torch import Tensor


def percentile(values: Tensor, percent: float) -> Tensor:
    """Return a percentile of any number of values, linear between neighbours.

    `torch.quantile` takes 16 million values at most.
    """
    ordered = values.flatten().sort().values
    place = percent / 100 * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return torch.lerp(ordered[below], ordered[above], place - below)


def risk(weights: Tensor) -> float:
    """Return the variance of a tensor's weights, at most 1; 0 for a single weight."""
    if weights.numel() < 2:
        return 0.0
    return min(float(weights.detach().var()), 1.0)


def pruned(gradient: Tensor, percent: float) -> Tensor:
    """Return a gradient whose entries below a percentile of their sizes are zero."""
    sizes = gradient.abs()
    return gradient.where(sizes >= percentile(sizes, percent), 0.0)


def noisy_positions(gradients: Mapping[str, Tensor], percent: float) -> dict[str, Tensor]:
    """Return where noise goes: positions of the highest Fisher information of the whole gradient.

    A position's information is the mean square of its entries along the first axis; a bias has one
    position. The masks have the gradients' shapes without the first axis.

    Args:
        gradients: Gradients by name.
        percent: Percentage of the positions that get noise.
    """
    information = {name: g.square().mean(0) for name, g in gradients.items()}
    every = torch.cat([squares.flatten() for squares in information.values()])
    threshold = percentile(every, 100 - percent)
    return {name: squares >= threshold for name, squares in information.items()}
