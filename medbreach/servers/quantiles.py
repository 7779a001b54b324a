"""Quantiles of a measurement over people of whom only a few public images are at hand."""

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from medbreach.errors import NotApplicable

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
    ends = torch.stack([sample.min() - 6 * width, sample.max() + 6 * width])
    for _ in range(48):  # halves the interval around each quantile
        if ends.dim() == 1:
            ends = ends[:, None].repeat(1, len(wanted))
        middle = ends.mean(0)
        below = torch.special.ndtr((middle[:, None] - sample) / width).mean(1) < wanted
        ends = torch.stack(
            [torch.where(below, middle, ends[0]), torch.where(below, ends[1], middle)]
        )
    return ends.mean(0).to(values)
