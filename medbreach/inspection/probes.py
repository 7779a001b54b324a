"""Images to try a network on where no real ones are at hand."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medbreach.types import ImageSpec

SCALES = (2, 4, 8, 16)


def random_images(
    spec: ImageSpec, count: int, rng: torch.Generator
) -> Float[Tensor, "count channels *space"]:
    """Return smooth random images as a network takes them: mean 0, deviation 1 a channel.

    Noise of several coarsenesses is added up, the coarser the stronger, as in photographs and
    scans; brightness and contrast differ from image to image.
    """
    mode = "bilinear" if len(spec.space) == 2 else "trilinear"
    images = torch.randn(count, spec.channels, *[1] * len(spec.space), generator=rng)
    images = images.expand(-1, -1, *spec.space)
    for cells in SCALES:
        grid = [min(cells, side) for side in spec.space]
        noise = torch.randn(count, spec.channels, *grid, generator=rng) / cells**0.5
        images = images + nn.functional.interpolate(noise, spec.space, mode=mode)
    images = images + 0.1 * torch.randn(images.shape, generator=rng)
    contrast = 0.5 + torch.rand(count, *[1] * (1 + len(spec.space)), generator=rng)
    images = images * contrast
    axes = [0, *range(2, images.dim())]
    deviation, mean = torch.std_mean(images, axes, keepdim=True)
    return (images - mean) / deviation
