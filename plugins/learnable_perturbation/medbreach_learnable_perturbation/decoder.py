"""Decoders, which guess an image from a noisy latent. They never leave the client."""

import math
from itertools import pairwise
from typing import Any, Final

import torch
from torch import Tensor, nn

from medbreach import ImageSpec
from medbreach_learnable_perturbation.correlation import correlation

WIDTH: Final = 32  # channels of the general decoder (ours)
CONVOLUTIONS: Final = {2: nn.Conv2d, 3: nn.Conv3d}
LAST_KERNELS: Final = {(10, 32): 4, (9, 28): 2}
"""Kernel of Table I's last layer for a side of the latent and of the image.

The table prints 2 for CIFAR-10 (32 pixels) and 4 for BloodMNIST (28): those give 30 pixels for
both, so the two must have been swapped.
"""


def decoder_for(latent: tuple[int, ...], spec: ImageSpec) -> nn.Module:
    """Return a decoder from latents ``(channels, *sides)`` to images, with random weights.

    It is that of the source's Table I where this fits: latents of 10 x 10 for images of 32 x 32,
    and of 9 x 9 for 28 x 28; otherwise our own.
    """
    sides = {*zip(latent[1:], spec.space, strict=True)}
    if len(spec.space) == 2 and len(sides) == 1 and sides <= LAST_KERNELS.keys():
        return table_one(latent[0], spec.channels, LAST_KERNELS[sides.pop()])
    return general(latent, spec)


def table_one(width: int, channels: int, last_kernel: int) -> nn.Sequential:
    """Return the source's decoder; its sides grow by 2, by 3, and then to twice as many."""
    return nn.Sequential(
        nn.ConvTranspose2d(width, width, 3),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.ConvTranspose2d(width, width, 4),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.ConvTranspose2d(width, channels, last_kernel, stride=2),
    )


def general(latent: tuple[int, ...], spec: ImageSpec) -> nn.Sequential:
    """Return our decoder for any latent, in 2D and 3D.

    Each stage grows the sides by a factor of at most 2, geometrically between the latent's and the
    image's: nearest-neighbour upsampling, a convolution of 3, normalisation of each record by
    itself, and a ReLU. A last convolution makes the image's channels.
    """
    conv = CONVOLUTIONS[len(spec.space)]
    growth = [after / before for before, after in zip(latent[1:], spec.space, strict=True)]
    stages = max(1, math.ceil(math.log2(max(growth))))
    layers: list[nn.Module] = []
    widths = [latent[0], *[WIDTH] * stages]
    for k, (before, after) in enumerate(pairwise(widths), start=1):
        sides = tuple(
            round(side * factor ** (k / stages))
            for side, factor in zip(latent[1:], growth, strict=True)
        )
        layers += [
            nn.Upsample(sides),
            conv(before, after, 3, padding=1),
            nn.GroupNorm(1, after),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, conv(WIDTH, spec.channels, 3, padding=1))


class Adversary:
    """A decoder that learns to guess images from latents, and how it learns.

    Attributes:
        decoder: The network.
    """

    def __init__(self, decoder: nn.Module, lr: float) -> None:
        self.decoder = decoder
        self._optimizer = torch.optim.Adam(decoder.parameters(), lr)

    def keep(self) -> dict[str, Any]:
        """Return what it has learned, as plain values that go on changing with it."""
        return {
            "decoder": self.decoder.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def go_on(self, kept: dict[str, Any]) -> None:
        """Put everything back to where `keep` found it."""
        self.decoder.load_state_dict(kept["decoder"])
        self._optimizer.load_state_dict(kept["optimizer"])

    def learn(self, latents: Tensor, images: Tensor) -> None:
        """Take one step towards a greater correlation of guesses and images (Eq. 2)."""
        with torch.enable_grad():
            loss = -correlation(images.detach(), self.decoder(latents.detach())).mean()
            gradients = torch.autograd.grad(loss, list(self.decoder.parameters()))
        for parameter, gradient in zip(self.decoder.parameters(), gradients, strict=True):
            parameter.grad = gradient
        self._optimizer.step()

    def correlation(self, latents: Tensor, images: Tensor) -> Tensor:
        """Return the mean correlation of guesses and images, by the decoder as it is now.

        Steps that it takes before the gradient is asked for make no difference.
        """
        now = {name: p.detach().clone() for name, p in self.decoder.named_parameters()}
        guesses: Tensor = torch.func.functional_call(self.decoder, now, latents)
        return correlation(images, guesses).mean()
