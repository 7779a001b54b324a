"""Norms, clipping and noise of a whole update, seen as one vector."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from medbreach import Gradient, Update


def norm(change: Mapping[str, Tensor], order: float = 2.0) -> Tensor:
    """Return the norm of all entries together; it is differentiable, at zero too."""
    each = [torch.linalg.vector_norm(tensor, order) for tensor in change.values()]
    whole: Tensor = torch.linalg.vector_norm(torch.stack(each), order)
    return whole


def clipped(change: Mapping[str, Tensor], bound: float, order: float = 2.0) -> Gradient:
    """Return a change scaled down to at most a norm; one within it stays as it is.

    The factor is differentiable, so an attacker can search through it.
    """
    total = norm(change, order)
    factor = (bound / total.clamp_min(torch.finfo(total.dtype).tiny)).clamp_max(1.0)
    return {name: factor * tensor for name, tensor in change.items()}


def root_mean_square(change: Mapping[str, Tensor]) -> float:
    """Return the root mean square of all entries."""
    return float(norm(change)) / math.sqrt(sum(tensor.numel() for tensor in change.values()))


def gaussian(like: Tensor, std: float, rng: torch.Generator) -> Tensor:
    """Return Gaussian noise, drawn on the CPU and put where a tensor is."""
    return std * torch.randn(like.shape, generator=rng).to(like)


def laplacian(like: Tensor, scale: float, rng: torch.Generator) -> Tensor:
    """Return Laplace noise, drawn on the CPU and put where a tensor is.

    It is drawn in double precision: in single precision its tails end at 17 times the scale.
    """
    uniform = torch.rand(like.shape, generator=rng, dtype=torch.float64)
    centred = (uniform - 0.5).clamp_min(-0.5 + 2**-54)
    return (-scale * centred.sign() * torch.log1p(-2 * centred.abs())).to(like)


def straight_clamp(tensor: Tensor, bound: float) -> Tensor:
    """Return entries cut off at a bound, with a gradient as if they were not.

    An attacker's candidate whose entry is cut off on the wrong side could not find back otherwise.
    """
    return tensor + (tensor.clamp(-bound, bound) - tensor).detach()


def what_was_sent(change: Mapping[str, Tensor], seen: Update) -> Gradient:
    """Return a candidate's change with zeros where the update that was seen is zero."""
    return {
        name: torch.where(seen.change[name].to(tensor) != 0, tensor, torch.zeros_like(tensor))
        for name, tensor in change.items()
    }
