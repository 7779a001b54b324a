"""Rotated, flipped and sheared copies of images, in the plane of their last two axes.

All are differentiable by the images. A volume is transformed slice by slice.
"""

import torch
from torch import Tensor
from torch.nn import functional


def rotated(images: Tensor, quarters: int) -> Tensor:
    """Return images turned by quarters of a turn.

    Nothing is interpolated, unless the last two sides differ and the turn swaps them: the result is
    then resampled linearly to the images' size.
    """
    turned = torch.rot90(images, quarters, dims=(-2, -1))
    if turned.shape == images.shape:
        return turned
    planes = functional.interpolate(
        turned.flatten(1, -3), images.shape[-2:], mode="bilinear", align_corners=False
    )
    return planes.reshape(images.shape)


def sheared(images: Tensor, factor: float, background: float) -> Tensor:
    """Return images sheared along the last axis, interpolated linearly.

    Args:
        images: The images.
        factor: How many pixels a row moves against the row above it.
        background: What comes in from outside.
    """
    planes = images.flatten(1, -3) - background
    height, width = planes.shape[-2:]
    rows = torch.tensor([[1.0, factor * height / width, 0.0], [0.0, 1.0, 0.0]]).to(planes)
    grid = functional.affine_grid(
        rows.expand(len(planes), 2, 3), list(planes.shape), align_corners=False
    )
    moved = functional.grid_sample(planes, grid, align_corners=False)
    return (moved + background).reshape(images.shape)
