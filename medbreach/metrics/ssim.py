"""Structural similarity, in two and in three dimensions."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medbreach.components import Metric
from medbreach.errors import NotApplicable
from medbreach.types import ImageSpec

SIGMA = 1.5
TRUNCATE = 3.5
Images = Float[Tensor, "n channels *space"]


@dataclass(frozen=True)
class SSIM(Metric):
    """Mean structural similarity over the intensity range that the spec declares.

    The window is the source's Gaussian (standard deviation 1.5, 11 wide) along every axis, of a
    volume all three. Where an axis is shorter than 11, it is a cube of the largest odd width up to
    7 that fits. Channels are averaged; windows that reach over the edge are left out.
    """

    name: ClassVar[str] = "ssim"
    source: ClassVar[str] = "Wang et al. 2004, doi:10.1109/TIP.2003.819861"
    unit: ClassVar[str] = "1"
    better: ClassVar[Literal["higher", "lower"]] = "higher"

    def run(self, claim: Images, truth: Images, spec: ImageSpec) -> Float[Tensor, " n"]:
        """Return the mean similarity of each pair, at most 1.

        Raises:
            NotApplicable: An axis has fewer than 3 pixels.
        """
        return _similarity(_Moments.of(claim, spec), _Moments.of(truth, spec), spec)


def pairwise_ssim(
    claims: Float[Tensor, "claims channels *space"],
    images: Float[Tensor, "images channels *space"],
    spec: ImageSpec,
) -> Float[Tensor, "claims images"]:
    """Return the structural similarity of each claim to each image, -1 where it is undefined."""
    try:
        of_images = _Moments.of(images, spec)
    except NotApplicable:
        return torch.full((len(claims), len(images)), -1.0)
    rows = [_similarity(_Moments.of(claim[None], spec), of_images, spec) for claim in claims]
    return torch.stack(rows) if rows else torch.empty(0, len(images))


@dataclass(frozen=True)
class _Moments:
    """Images with their local means and variances."""

    images: Tensor
    mean: Tensor
    variance: Tensor

    @classmethod
    def of(cls, images: Images, spec: ImageSpec) -> "_Moments":
        filtered = _filter(spec)
        images = images.double() - spec.bounds[0]
        mean = filtered(images)
        return cls(images, mean, filtered(images**2) - mean**2)


def _similarity(a: _Moments, b: _Moments, spec: ImageSpec) -> Float[Tensor, " n"]:
    c1, c2 = (0.01 * spec.range) ** 2, (0.03 * spec.range) ** 2
    covariance = _filter(spec)(a.images * b.images) - a.mean * b.mean
    similarity = ((2 * a.mean * b.mean + c1) * (2 * covariance + c2)) / (
        (a.mean**2 + b.mean**2 + c1) * (a.variance + b.variance + c2)
    )
    return similarity.flatten(1).mean(1).float()


def _filter(spec: ImageSpec) -> Callable[[Tensor], Tensor]:
    """Return the local mean, one axis after the other, without padding.

    Raises:
        NotApplicable: An axis has fewer than 3 pixels.
    """
    radius = int(TRUNCATE * SIGMA + 0.5)
    if min(spec.space) >= 2 * radius + 1:
        offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
        window = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    else:
        width = min(7, (min(spec.space) - 1) // 2 * 2 + 1)
        if width < 3:
            raise NotApplicable(f"ssim needs at least 3 pixels along each axis, not {spec.space}")
        window = torch.ones(width, dtype=torch.float64)
    window = window / window.sum()

    def mean(images: Tensor) -> Tensor:
        for axis in range(2, images.ndim):
            moved = images.movedim(axis, -1)
            flat = moved.reshape(math.prod(moved.shape[:-1]), 1, moved.shape[-1])
            flat = nn.functional.conv1d(flat, window[None, None])
            images = flat.reshape(*moved.shape[:-1], -1).movedim(-1, axis)
        return images

    return mean
