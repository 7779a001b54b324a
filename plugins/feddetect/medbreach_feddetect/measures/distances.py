"""Distances between two sets of features."""

from typing import Final, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

SUBSETS: Final = 50  # of the kernel distance
SUBSET: Final = 100  # images in each, at most


class Kernel(NamedTuple):
    """A kernel distance.

    Attributes:
        mean: Over subsets.
        deviation: Over subsets.
    """

    mean: float
    deviation: float


def frechet(real: Float[Tensor, "n d"], made: Float[Tensor, "m d"]) -> float:
    """Return the Frechet distance between normal distributions fitted to two sets of features.

    ``|a - b|^2 + tr(A + B - 2 (A B)^(1/2))`` with means a, b and covariances A, B (Heusel et al.
    2017, arXiv:1706.08500). The last trace is the sum of singular values of the product of both
    centred sets, which takes no root of a matrix and no more images than features. It is biased
    upwards for few images: compare equal numbers only.
    """
    real, made = real.double(), made.double()
    means = (real.mean(0) - made.mean(0)).square().sum()
    left, right = _root(real), _root(made)
    common = torch.linalg.svdvals(left @ right.T).sum()
    total = left.square().sum() + right.square().sum() - 2 * common
    return float((means + total).clamp_min(0))


def _root(features: Tensor) -> Tensor:
    """Return a matrix R whose R' R is the covariance, with no more rows than features."""
    centred: Tensor = (features - features.mean(0)) / max(1, len(features) - 1) ** 0.5
    if len(features) <= features.shape[1]:
        return centred
    factors: tuple[Tensor, Tensor] = torch.linalg.qr(centred, mode="r")
    return factors[1]


def kernel_distance(
    real: Float[Tensor, "n d"], made: Float[Tensor, "m d"], rng: torch.Generator
) -> Kernel:
    """Return the unbiased squared MMD with the kernel ``(x y / d + 1)^3``, over random subsets.

    Binkowski et al. 2018, arXiv:1801.01401. It can be negative where both sets are alike.

    Args:
        real: Features of real images.
        made: Features of generated images.
        rng: Draws the subsets.
    """
    size = min(SUBSET, len(real), len(made))
    found = torch.tensor(
        [
            _mmd(
                real[torch.randperm(len(real), generator=rng)[:size]].double(),
                made[torch.randperm(len(made), generator=rng)[:size]].double(),
            )
            for _ in range(SUBSETS)
        ]
    )
    return Kernel(found.mean().item(), found.std().item())


def _mmd(one: Tensor, other: Tensor) -> float:
    size = len(one)
    within = [_kernel(x, x) for x in (one, other)]
    off = sum(k.sum() - k.diagonal().sum() for k in within) / (size * (size - 1))
    return float(off - 2 * _kernel(one, other).mean())


def _kernel(one: Tensor, other: Tensor) -> Tensor:
    return (one @ other.T / one.shape[1] + 1) ** 3
