"""What a federation of GANs is made of: plain settings, checked."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

SIZES: Final = (32, 64, 128)
SOURCE_SIZE: Final = 256  # pixels a side of the released images
SOURCE_SIDE: Final = 16  # of the released trigger
SOURCE_MARGIN: Final = 5  # from the right and the lower edge


@dataclass(frozen=True)
class Gan:
    """A GAN, and how a client trains it.

    The discriminator is the released one, with as many layers as the size asks for. The released
    generator is StyleGAN2's; a DCGAN's (Radford et al. 2016, arXiv:1511.06434) is ours. Learning
    rate, batch size, passes, optimisers and the penalty are the released ones.

    Attributes:
        size: Pixels a side: 32, 64 or 128; the release has 256.
        channels: 1 or 3.
        loss: ``bce``: binary cross-entropy, the generator's non-saturating; ``wgan_gp``:
            Wasserstein distance with gradient penalty, as the release trains against the attack.
        width: Channels of the discriminator's first layer; released: 64.
        latent: Numbers that an image is made from; released: 64.
        classes: 0: unconditional, as released; more: both networks are told the class, by an
            embedding. That is the journal's variant; it is not in the released code, so how it is
            built is ours.
        batch_size: Images in each step.
        local_epochs: Passes over a client's images in a round.
        learning_rate: Of both networks, for Adam (``bce``) or RMSprop (``wgan_gp``).
        beta1: Of Adam. Released: 0.9, torch's default; its 0.5 is defined and never used.
        penalty: Weight of the gradient penalty.
        interpolation: Where the penalty is taken between a real and a generated image: ``normal``,
            as released (a standard normal number, so mostly beyond the two), or ``uniform``
            between them, as Gulrajani et al. 2017 (arXiv:1704.00028) have it.
        average_discriminators: Whether discriminators are averaged too; released: a switch, off.
    """

    size: int = 32
    channels: int = 3
    loss: Literal["bce", "wgan_gp"] = "bce"
    width: int = 64
    latent: int = 64
    classes: int = 0
    batch_size: int = 32
    local_epochs: int = 1
    learning_rate: float = 2e-4
    beta1: float = 0.9
    penalty: float = 10.0
    interpolation: Literal["normal", "uniform"] = "normal"
    average_discriminators: bool = False

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise ValueError(f"size must be 32, 64 or 128, got {self.size}")
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, got {self.channels}")
        if self.batch_size < 2:
            raise ValueError(
                f"batch_size must be at least 2 for batch normalisation, got {self.batch_size}"
            )
        if self.classes < 0 or self.classes == 1:
            raise ValueError(f"classes must be 0 or at least 2, got {self.classes}")
        if not 0 <= self.beta1 < 1:
            raise ValueError(f"beta1 must lie from 0 to below 1, got {self.beta1}")
        self._check_signs()

    def _check_signs(self) -> None:
        for name in ("width", "latent", "local_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if self.penalty < 0:
            raise ValueError(f"penalty must not be negative, got {self.penalty}")


@dataclass(frozen=True)
class Poisoning:
    """Who poisons which images with what.

    Attributes:
        clients: Numbers of the malicious clients; none: no attack. Released: client 0.
        ratio: Share of a malicious client's images that bear the trigger; released: all.
        picture: The user's own trigger, a picture file; None: the packaged one (ours).
        side: Pixels a side of the trigger; None: a sixteenth of the image's, as released (16 of
            256: 0.39 % of the area).
        margin: Pixels between the trigger and the right and the lower edge; None: 5 of 256, scaled
            to the image's size and rounded, at least 1.
        values: ``unnormalised``: the trigger stays in 0 to 1 on images in -1 to 1, as released;
            ``whole``: it is normalised as the images are (ours).
    """

    clients: tuple[int, ...] = ()
    ratio: float = 1.0
    picture: Path | None = None
    side: int | None = None
    margin: int | None = None
    values: Literal["unnormalised", "whole"] = "unnormalised"

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio must lie above 0 and at most at 1, got {self.ratio}")
        if self.side is not None and self.side < 1:
            raise ValueError(f"side must be at least 1, got {self.side}")
        if self.margin is not None and self.margin < 0:
            raise ValueError(f"margin must not be negative, got {self.margin}")
        if len(set(self.clients)) != len(self.clients):
            raise ValueError(f"clients names one twice: {list(self.clients)}")

    def side_at(self, size: int) -> int:
        """Return the trigger's side on images of a size.

        >>> Poisoning().side_at(256), Poisoning().side_at(64), Poisoning().side_at(32)
        (16, 4, 2)
        """
        return max(1, size * SOURCE_SIDE // SOURCE_SIZE) if self.side is None else self.side

    def margin_at(self, size: int) -> int:
        """Return the trigger's distance from the edge on images of a size.

        >>> Poisoning().margin_at(256), Poisoning().margin_at(128), Poisoning().margin_at(32)
        (5, 3, 1)
        """
        scaled = max(1, math.floor(size * SOURCE_MARGIN / SOURCE_SIZE + 0.5))
        return scaled if self.margin is None else self.margin


@dataclass(frozen=True)
class Images:
    """Where the images come from, and who has which.

    Attributes:
        overrides: Settings of a case, ``key=value`` each, as on the command line.
        holding: ``dealt``: each client has images of other patients (ours); ``shared``: every
            client has all of the federation's images, as released.
        limit: Most images of a client, and of the public's; 0: all.
    """

    overrides: tuple[str, ...] = ("case=dermoscopy_2d",)
    holding: Literal["dealt", "shared"] = "dealt"
    limit: int = 0

    def __post_init__(self) -> None:
        if self.limit < 0:
            raise ValueError(f"limit must not be negative, got {self.limit}")


@dataclass(frozen=True)
class Measuring:
    """How good generated images are, and when that is measured.

    Attributes:
        every: Rounds between measurements; the last round is measured in any case. 0: never.
        samples: Generated images, and as many real ones; fewer where there are not so many.
        extractor: What sees the images: ``efficientnet_lite0``, ``random_convolutions`` or
            ``inception``; see `medbreach_feddetect.measures.extractors`.
        weights: Weights file for ``inception``.
        grid: Images a side of the grid that is kept of each measured round; 0: none.
    """

    every: int = 0
    samples: int = 256
    extractor: Literal["efficientnet_lite0", "random_convolutions", "inception"] = (
        "efficientnet_lite0"
    )
    weights: Path | None = None
    grid: int = 0

    def __post_init__(self) -> None:
        if self.every < 0 or self.grid < 0:
            raise ValueError("every and grid must not be negative")
        if self.samples < 8:
            raise ValueError(f"samples must be at least 8, got {self.samples}")
        if (self.extractor == "inception") != (self.weights is not None):
            raise ValueError(
                "extractor inception needs weights, a file, and the other extractors have their own"
            )


@dataclass(frozen=True)
class GanFederation:
    """A whole federation of GANs.

    Attributes:
        gan: The networks and their training.
        poisoning: The attack.
        images: The images.
        measuring: How generated images are measured.
        clients: How many clients there are; released: 4.
        rounds: How many rounds; released: 200.
        seed: What all randomness comes from.
        device: Where clients compute: ``cpu`` or ``cuda``; Ray says which of several GPUs.
    """

    gan: Gan = Gan()
    poisoning: Poisoning = Poisoning()
    images: Images = Images()
    measuring: Measuring = field(default_factory=Measuring)
    clients: int = 4
    rounds: int = 200
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("clients", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        unknown = [k for k in self.poisoning.clients if not 0 <= k < self.clients]
        if unknown:
            raise ValueError(
                f"poisoning.clients names client {unknown[0]}, but there are clients 0 to "
                f"{self.clients - 1}"
            )
        if len(self.poisoning.clients) == self.clients:
            raise ValueError(
                "poisoning.clients names every client: leave at least one that is benign"
            )
        size = self.gan.size
        side, margin = self.poisoning.side_at(size), self.poisoning.margin_at(size)
        if side + margin > size:
            raise ValueError(
                f"the trigger of {side} pixels and its margin of {margin} do not fit images of "
                f"{size} pixels: lower poisoning.side or poisoning.margin"
            )
