"""Ladders in layers that do not see the raw image, such as one planted behind a first block."""

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

from medbreach.inspection.rows import cosines, groups
from medbreach.inspection.signs import Sign
from medbreach.inspection.trace import every_input
from medbreach.inspection.view import View

MOST_ROWS: Final = 1024
IMAGES: Final = 16
STEPS: Final = 8
"""Fewest different sets of images that a ladder's rows let through: rows that training made
parallel let the same ones through, or all, or none."""


def deep_ladders(view: View) -> Iterator[Sign]:
    """Find linear layers with rows that measure the same at many thresholds."""
    named = dict(view.model.named_parameters())
    first = {name for gate in view.gates for name in gate.weights}
    head = view.head()
    layers = {
        k: call.weight
        for k, call in enumerate(view.calls)
        if call.name == "linear"
        and call.weight
        and call.weight not in first
        and (head is None or call.weight != head.name)
    }
    for k, given in every_input(view.model, view.images[:IMAGES], frozenset(layers)):
        weight = named[layers[k]].detach()
        bias = named.get(layers[k].removesuffix("weight") + "bias")
        if bias is None or len(weight) < STEPS:
            continue
        rows = torch.randperm(len(weight), generator=view.rng())[:MOST_ROWS]
        seen = given.flatten(0, -2)[:4096] @ weight[rows].T + bias.detach()[rows]
        count = _steps(weight[rows], seen)
        if count >= STEPS:
            yield Sign(
                "ladder",
                (layers[k],),
                "high",
                f"{count} rows repeat one measurement and differ in their thresholds, so that the "
                "difference of two neighbours holds what single records make of the layer's input",
            )


def _steps(weight: Tensor, seen: Tensor) -> int:
    """Return the most different thresholds of parallel rows that split what they are given."""
    cosine = cosines(weight)
    most = 0
    for group in groups(cosine):
        signs = cosine[group[0], group].sign()
        signs[0] = 1
        share = (seen[:, group] * signs > 0).float().mean(0)
        splitting = share[(share > 0.02) & (share < 0.98)]
        most = max(most, len(torch.unique((splitting * 50).round())))
    return most
