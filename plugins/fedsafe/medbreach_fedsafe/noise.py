"""Gaussian noise on the tensors of a network."""

from collections.abc import Collection

import torch

from medbreach_federation import Weights


def with_noise(
    weights: Weights, sigma: float, trained: Collection[str], rng: torch.Generator
) -> dict[str, torch.Tensor]:
    """Return weights with independent N(0, sigma^2) on every trained tensor; others as they are.

    Buffers get none: a running variance that noise makes negative ends the network, and a counter
    is no real number. They leave without noise, so they are to be counted among what is told.

    Args:
        weights: The tensors, by name.
        sigma: Standard deviation; 0 for no noise.
        trained: Names of the tensors that are trained.
        rng: A generator on the CPU.
    """
    return {
        name: tensor + (sigma * torch.randn(tensor.shape, generator=rng)).to(tensor)
        if sigma and name in trained
        else tensor.clone()
        for name, tensor in weights.items()
    }
