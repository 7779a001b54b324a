"""How much two sets of data, of the same records, depend on each other."""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import torch
from torch import Tensor

EPSILON: Final = 1e-5
"""Ridge of the normalised kernel, for each record."""

FLOOR: Final = 1e-12
"""A Frobenius norm below this is rounding, and counts as none: a root is steep at zero."""


class Measure(NamedTuple):
    """A measure of dependence between two kernels.

    Attributes:
        prepare: Makes of a kernel what is compared.
        compare: Returns the dependence, at least 0.
    """

    prepare: Callable[[Tensor], Tensor]
    compare: Callable[[Tensor, Tensor], Tensor]


def gaussian_kernel(data: Tensor, sigma: float) -> Tensor:
    """Return ``exp(-|a - b|^2 / (2 sigma^2 d))`` of any two records, in double precision.

    Args:
        data: One row a record; ``d`` is the number of its other entries.
        sigma: Width, in root mean square differences of an entry.
    """
    rows = data.flatten(1)
    rows = rows - rows.mean(0)  # distances stay, and large means cost no digits
    products = (rows @ rows.T).double()
    squares = products.diagonal()
    distances = squares[:, None] + squares[None, :] - 2 * products
    return torch.exp(-distances / (2 * sigma**2 * rows.shape[1]))


def linear_kernel(data: Tensor) -> Tensor:
    """Return the scalar product of any two records, in double precision."""
    rows = data.flatten(1).double()
    return rows @ rows.T


def centred(kernel: Tensor) -> Tensor:
    """Return the kernel of the same records with their mean in feature space taken off."""
    return kernel - kernel.mean(0) - kernel.mean(1, keepdim=True) + kernel.mean()


def normalised(kernel: Tensor) -> Tensor:
    """Return ``C (C + epsilon m I)^-1`` of the centred kernel ``C`` of ``m`` records.

    The source centres ``K`` from the right only and inverts a matrix that is not symmetric. With
    the centring matrix ``H``, that is ``K H (H K H + epsilon m I)^-1 H``; in a trace of a product
    of two such matrices each ``H`` may stand on both sides, so the dependence is the same.
    """
    records = len(kernel)
    within = centred(kernel)
    ridge = EPSILON * records * torch.eye(records, dtype=kernel.dtype, device=kernel.device)
    solved: Tensor = torch.linalg.solve(within + ridge, within)
    return solved


def trace_of_product(first: Tensor, second: Tensor) -> Tensor:
    """Return the trace of the product of two matrices."""
    return (first * second.T).sum()


def root_of_product(first: Tensor, second: Tensor) -> Tensor:
    """Return the root of the product's Frobenius norm, divided by the number of records."""
    square = (first @ second).square().sum()
    dependent = square > FLOOR**2
    root = torch.where(dependent, square, torch.ones_like(square)) ** 0.25
    return torch.where(dependent, root, torch.zeros_like(root)) / len(first)


MEASURES: Final[Mapping[str, Measure]] = {
    "hsic": Measure(normalised, trace_of_product),
    "coco": Measure(centred, root_of_product),
}
"""HSIC in its normalised (CCA) form, and COCO, as BiDO's authors have released them."""
