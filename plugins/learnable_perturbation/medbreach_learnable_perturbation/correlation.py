"""Pearson's correlation of images, Eq. 1 of the source."""

from typing import Final

from jaxtyping import Float
from torch import Tensor

LEAST: Final = 1e-12  # of the product of two variances


def correlation(
    a: Float[Tensor, "n channels *space"], b: Float[Tensor, "n channels *space"]
) -> Float[Tensor, " n"]:
    """Return each image's correlation with its counterpart, over all channels and pixels.

    It is 0 where one of the two is constant.
    """
    left, right = (x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (a, b))
    variances = left.square().mean(1) * right.square().mean(1)
    covariance: Tensor = (left * right).mean(1)
    return covariance / variances.clamp_min(LEAST).sqrt()
