"""Measurements of public images, and quantiles of them over the people whom they stand for."""

import math
from collections.abc import Iterator, Sequence
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from medbreach.components import is_finite
from medbreach.errors import NotApplicable
from medbreach.types import ImageSpec

AT_ONCE: Final = 16
"""Public images that are normalised at a time."""
GRID: Final = 256
"""Points at which a distribution is tabulated before its quantiles are looked for."""
TOGETHER: Final = 2**22
"""Kernels of a table that are held at a time."""
PRECISION: Final = 1e-7
"""Of a quantile, in widths of the distribution's kernel."""
LEAST_PUBLIC: Final = 2
"""Public images that a distribution is estimated from, at least: it takes a deviation."""


def check_public(public: Tensor, least: int = LEAST_PUBLIC) -> None:
    """Check that there are public images enough to estimate a distribution from.

    Raises:
        NotApplicable: There are not.
    """
    if len(public) < least:
        raise NotApplicable(
            f"the planted rows are fitted to public images, and {len(public)} are fewer than the "
            f"{least} that it takes: give more images, or set "
            "case.server.has_external_data=true"
        )


def check_images(spec: ImageSpec, public: Tensor) -> None:
    """Check that public images are of the shape that the network takes, and finite.

    Raises:
        NotApplicable: They are not.
    """
    shape = tuple(public.shape[1:])
    if shape != spec.shape:
        raise NotApplicable(f"the public images have the shape {shape}, the clients' {spec.shape}")
    if not is_finite(public):
        raise NotApplicable("the public images hold intensities that are not finite")


def normalised(
    spec: ImageSpec, public: Float[Tensor, "n channels *space"]
) -> Iterator[Float[Tensor, "few channels *space"]]:
    """Yield public images a few at a time: all together, they may be larger than the layer."""
    for part in torch.split(public, AT_ONCE):
        yield spec.normalise(part)


def measured(
    spec: ImageSpec,
    public: Float[Tensor, "public channels *space"],
    weights: Float[Tensor, "rows voxels"],
) -> Float[Tensor, "public rows"]:
    """Return the product of each normalised public image with each row of weights."""
    return torch.cat([images.flatten(1) @ weights.T for images in normalised(spec, public)])


def quantiles(
    values: Float[Tensor, " public"], shares: Sequence[float] | Tensor
) -> Float[Tensor, " shares"]:
    """Return the values that shares of the population lie below.

    They are quantiles of a kernel density estimate with Silverman's width. Those of the sample
    itself make bins of very unequal probability where there are few images a bin.

    Args:
        values: Measurements of public images.
        shares: Shares of the population, from 0 to 1, rising.

    >>> quantiles(torch.tensor([-1.0, 0.0, 1.0]), [0.5])
    tensor([0.])
    """
    sample = values.double().cpu()
    wanted = torch.as_tensor(shares, dtype=torch.float64)
    low, high = sample.quantile(torch.tensor([0.25, 0.75], dtype=torch.float64)).tolist()
    deviation = float(sample.std()) if len(sample) > 1 else 0.0
    spread = min(deviation, (high - low) / 1.34) or deviation or 1e-6
    width = 0.9 * spread * len(sample) ** -0.2
    least = sample.min()
    found: Tensor = least + width * _inverse((sample - least) / width, wanted)
    return found.to(values)


def _inverse(
    sample: Float[Tensor, " n"], wanted: Float[Tensor, " shares"]
) -> Float[Tensor, " shares"]:
    """Return the quantiles of a kernel density estimate of width 1; the least of the sample is 0.

    Each lies between two points of a table. Newton's steps lead to it, and halving where there is
    hardly a density.
    """
    grid = torch.linspace(-6, float(sample.max()) + 6, GRID, dtype=sample.dtype)
    table = _below(sample, grid)
    place = torch.searchsorted(table, wanted).clamp(1, GRID - 1)
    low, high = grid[place - 1], grid[place]
    way = (wanted - table[place - 1]) / (table[place] - table[place - 1]).clamp_min(1e-300)
    found, moving = torch.lerp(low, high, way.clamp(0, 1)), torch.arange(len(wanted))
    while len(moving):
        here = found[moving]
        excess = _below(sample, here) - wanted[moving]
        low[moving] = torch.where(excess < 0, here, low[moving])
        high[moving] = torch.where(excess < 0, high[moving], here)
        step = here - excess / _density(sample, here).clamp_min(1e-300)
        inside = (step > low[moving]) & (step < high[moving])
        found[moving] = torch.where(inside, step, (low[moving] + high[moving]) / 2)
        rounding = 4 * torch.finfo(here.dtype).eps * here.abs()
        moving = moving[(found[moving] - here).abs() > PRECISION + rounding]
    return found


def _below(sample: Float[Tensor, " n"], points: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    parts = torch.split(points, max(1, TOGETHER // len(sample)))
    return torch.cat([torch.special.ndtr(part[:, None] - sample).mean(1) for part in parts])


def _density(sample: Float[Tensor, " n"], points: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    kernels = (-0.5 * (points[:, None] - sample).square()).exp()
    return kernels.mean(1) / math.sqrt(2 * math.pi)
