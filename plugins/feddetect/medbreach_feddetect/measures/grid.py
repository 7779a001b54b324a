"""Grids of images as PNG."""

import io
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from medbreach.storage import write_whole


def save_grid(images: Float[Tensor, "n channels size size"], side: int, file: Path) -> None:
    """Write the first images as a square grid, a line of one pixel between them.

    Args:
        images: In -1 to 1.
        side: Images a side, at most.
        file: Where to.
    """
    write_whole(file, as_png(images, side))


def as_png(images: Float[Tensor, "n channels size size"], side: int) -> bytes:
    """Return the first images as the content of a PNG file."""
    from PIL import Image

    columns = min(side, len(images))
    shown = images[: columns * min(side, -(-len(images) // columns))]
    size = images.shape[-1] + 1
    rows = -(-len(shown) // columns)
    sheet = torch.ones(3, rows * size - 1, columns * size - 1)
    for k, image in enumerate(shown):
        down, along = k // columns * size, k % columns * size
        sheet[:, down : down + size - 1, along : along + size - 1] = (image + 1) / 2
    pixels = (sheet.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()
