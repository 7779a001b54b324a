"""What generator and discriminator minimise."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from medbreach_feddetect.setting import Gan

Judge = Callable[[Tensor], Tensor]


def discriminator_loss(
    gan: Gan,
    judge: Judge,
    real: Float[Tensor, "n channels size size"],
    made: Float[Tensor, "n channels size size"],
    rng: torch.Generator,
) -> Float[Tensor, ""]:
    """Return what a discriminator minimises.

    Args:
        gan: Which loss.
        judge: The discriminator, told the classes if it is conditional.
        real: Real images.
        made: As many generated ones, which no gradient goes through.
        rng: For the gradient penalty; on the CPU.
    """
    of_real, of_made = judge(real), judge(made)
    if gan.loss == "bce":
        return _cross_entropy(of_real, 1.0) + _cross_entropy(of_made, 0.0)
    penalty = gradient_penalty(judge, real, made, gan.interpolation, rng)
    return of_made.mean() - of_real.mean() + gan.penalty * penalty


def generator_loss(gan: Gan, of_made: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Return what a generator minimises, from what the discriminator says of its images."""
    return _cross_entropy(of_made, 1.0) if gan.loss == "bce" else -of_made.mean()


def gradient_penalty(
    judge: Judge,
    real: Float[Tensor, "n channels size size"],
    made: Float[Tensor, "n channels size size"],
    interpolation: str,
    rng: torch.Generator,
) -> Float[Tensor, ""]:
    """Return how far a discriminator's gradient is from norm 1: the mean squared difference.

    It is taken at ``a * real + (1 - a) * made``, a number a for each image.

    Args:
        judge: The discriminator.
        real: Real images.
        made: As many generated ones.
        interpolation: ``normal``: a is standard normal, as released; ``uniform``: from 0 to 1.
        rng: Where a is drawn from; on the CPU.
    """
    drawn = torch.randn if interpolation == "normal" else torch.rand
    share = drawn(len(real), 1, 1, 1, generator=rng).to(real)
    between = (share * real + (1 - share) * made).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(judge(between).sum(), between, create_graph=True)
    apart: Tensor = gradient.flatten(1).norm(dim=1) - 1
    return apart.square().mean()


def _cross_entropy(said: Tensor, truth: float) -> Tensor:
    return functional.binary_cross_entropy_with_logits(said, torch.full_like(said, truth))
