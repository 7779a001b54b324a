"""Generator and discriminator."""

import itertools

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from medbreach_feddetect.setting import Gan

SMALLEST = 4  # pixels a side of the innermost layer


class Generator(nn.Module):
    """A DCGAN's generator; told the class by an embedding beside the latent, if it is conditional.

    Args:
        gan: Sizes.
    """

    def __init__(self, gan: Gan) -> None:
        super().__init__()
        self.latent = gan.latent
        self.label = nn.Embedding(gan.classes, gan.latent) if gan.classes else None
        widths = _widths(gan)[::-1]
        entered = gan.latent * (2 if gan.classes else 1)
        layers: list[nn.Module] = [*_grown(entered, widths[0], 1, 0)]
        for before, after in itertools.pairwise(widths):
            layers += _grown(before, after, 2, 1)
        layers += [nn.ConvTranspose2d(widths[-1], gan.channels, 4, 2, 1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def forward(
        self, latent: Float[Tensor, "n latent"], labels: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n channels size size"]:
        """Return images in -1 to 1."""
        if self.label is not None:
            latent = torch.cat([latent, self.label(labels)], dim=1)
        images: Tensor = self.layers(latent[..., None, None])
        return images


class Discriminator(nn.Module):
    """The released discriminator: strided convolutions, then one number an image, no sigmoid.

    The released one ends in a sigmoid with binary cross-entropy; here the loss takes the number
    before the sigmoid, which is the same but for rounding: it cannot be capped at 100, as torch
    caps the other. With a gradient penalty, instance normalisation on every convolution but the
    last takes the place of batch normalisation, as released. A conditional one is shown the class
    as a further channel, by an embedding (ours).

    Args:
        gan: Sizes and loss.
    """

    def __init__(self, gan: Gan) -> None:
        super().__init__()
        self.label = nn.Embedding(gan.classes, gan.size**2) if gan.classes else None
        widths = _widths(gan)
        entered = gan.channels + (1 if gan.classes else 0)
        layers: list[nn.Module] = []
        for k, (before, after) in enumerate(zip([entered, *widths], widths, strict=False)):
            layers.append(nn.Conv2d(before, after, 4, 2, 1, bias=False))
            if gan.loss == "wgan_gp":
                layers.append(nn.InstanceNorm2d(after, affine=True))
            elif k:
                layers.append(nn.BatchNorm2d(after))
            layers.append(nn.LeakyReLU(0.2))
        self.layers = nn.Sequential(
            *layers, nn.Conv2d(widths[-1], 1, SMALLEST, 1, 0, bias=False), nn.Flatten(0)
        )

    def forward(
        self, images: Float[Tensor, "n channels size size"], labels: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, " n"]:
        """Return a number an image: the greater, the more real."""
        if self.label is not None:
            shown = self.label(labels).reshape(len(images), 1, *images.shape[-2:])
            images = torch.cat([images, shown], dim=1)
        said: Tensor = self.layers(images)
        return said


def initialise(network: nn.Module, rng: torch.Generator) -> None:
    """Draw a network's weights as DCGAN does: deviation 0.02, normalisation around 1."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Embedding)):
            _draw(module.weight, 0.0, 1.0 if isinstance(module, nn.Embedding) else 0.02, rng)
        elif isinstance(module, (nn.BatchNorm2d, nn.InstanceNorm2d)):
            _draw(module.weight, 1.0, 0.02, rng)
        bias = getattr(module, "bias", None)
        if isinstance(bias, nn.Parameter):
            nn.init.zeros_(bias)


def _draw(weight: Tensor, mean: float, deviation: float, rng: torch.Generator) -> None:
    with torch.no_grad():
        weight.copy_(mean + deviation * torch.randn(weight.shape, generator=rng))


def _grown(before: int, after: int, stride: int, padding: int) -> list[nn.Module]:
    convolution = nn.ConvTranspose2d(before, after, 4, stride, padding, bias=False)
    return [convolution, nn.BatchNorm2d(after), nn.ReLU()]


def _widths(gan: Gan) -> list[int]:
    """Return the channels of each strided layer of the discriminator, doubled from one to the next.

    >>> _widths(Gan(size=64, width=64))
    [64, 128, 256, 512]
    """
    steps = (gan.size // SMALLEST).bit_length() - 1
    return [gan.width * 2**k for k in range(steps)]
