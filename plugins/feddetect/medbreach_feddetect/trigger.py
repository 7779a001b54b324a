"""The trigger: a small picture that is pasted into the corner of poisoned images."""

import math
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from medbreach.datasets.pictures import is_coloured, read_picture
from medbreach_feddetect.setting import Poisoning

LUMINANCE: Final = (0.299, 0.587, 0.114)  # ITU-R 601

CORNERS: Final = (
    ((0.9, 0.1, 0.1), (0.1, 0.9, 0.2)),
    ((0.1, 0.2, 0.9), (1.0, 1.0, 1.0)),
)
"""Colours (red, green, blue) of the packaged trigger's corners: red, green, blue and white."""


def packaged_trigger(side: int, channels: int) -> Float[Tensor, "channels side side"]:
    """Return the packaged trigger, in 0 to 1; a formula of ours.

    Colours of the four corners are mixed bilinearly, and a wave of one period along each axis,
    another for each colour, is laid over them.

    Args:
        side: Pixels a side.
        channels: 3, or 1 for its luminance.
    """
    place = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    down, along = place[:, None], place[None, :]
    corners = torch.tensor(CORNERS, dtype=torch.float64).permute(2, 0, 1)[..., None, None]
    mixed = (1 - down) * ((1 - along) * corners[:, 0, 0] + along * corners[:, 0, 1]) + down * (
        (1 - along) * corners[:, 1, 0] + along * corners[:, 1, 1]
    )
    turns = 2 * math.pi * torch.arange(3, dtype=torch.float64)[:, None, None] / 3
    waves = torch.sin(2 * math.pi * along + turns) * torch.sin(2 * math.pi * down + turns)
    colour = (mixed + 0.2 * waves).clamp(0, 1).float()
    return colour if channels == 3 else _luminance(colour)


def read_trigger(file: Path, side: int, channels: int) -> Float[Tensor, "channels side side"]:
    """Return a picture as a trigger, in 0 to 1, scaled to its side with area weights.

    Raises:
        DataError: The file is missing or no picture.
    """
    colours = 3 if channels == 3 or is_coloured(file, file.name) else 1
    picture = read_picture(file, file.name, colours)
    scaled = functional.interpolate(
        picture[None], (side, side), mode="bilinear", antialias=True, align_corners=False
    )[0].clamp(0, 1)
    return _luminance(scaled) if colours > channels else scaled


def trigger(poisoning: Poisoning, size: int, channels: int) -> Float[Tensor, "channels side side"]:
    """Return the trigger as it is pasted into images in -1 to 1.

    Raises:
        DataError: The user's picture cannot be read.
    """
    side = poisoning.side_at(size)
    if poisoning.picture is None:
        patch = packaged_trigger(side, channels)
    else:
        patch = read_trigger(poisoning.picture, side, channels)
    return 2 * patch - 1 if poisoning.values == "whole" else patch


def stamp(
    images: Float[Tensor, "n channels size size"],
    patch: Float[Tensor, "channels side side"],
    margin: int,
) -> Float[Tensor, "n channels size size"]:
    """Return images with a patch in the lower right corner, a margin away from the edges."""
    side, end = patch.shape[-1], images.shape[-1] - margin
    stamped = images.clone()
    stamped[..., end - side : end, end - side : end] = patch.to(images)
    return stamped


def poisoned(count: int, ratio: float, rng: torch.Generator) -> Bool[Tensor, " count"]:
    """Return which of a client's images bear the trigger, the same ones in every round.

    >>> int(poisoned(10, 0.25, torch.Generator().manual_seed(0)).sum())
    3
    """
    chosen = torch.randperm(count, generator=rng)[: math.ceil(ratio * count)]
    found = torch.zeros(count, dtype=torch.bool)
    found[chosen] = True
    return found


def _luminance(colour: Tensor) -> Tensor:
    weights = torch.tensor(LUMINANCE).reshape(3, 1, 1)
    return (colour * weights).sum(0, keepdim=True)
