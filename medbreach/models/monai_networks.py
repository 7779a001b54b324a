"""MONAI's networks, in 2D and 3D, for any number of channels and classes."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from medbreach.components import Model
from medbreach.errors import ModelError
from medbreach.types import ImageSpec

RESNETS = ("resnet10", "resnet18", "resnet34", "resnet50", "resnet101")
DENSENETS = ("densenet121", "densenet169", "densenet201", "densenet264")


@dataclass(frozen=True)
class MonaiResNet(Model):
    """A ResNet of MONAI's, in 2D and 3D.

    Attributes:
        conv1_t_stride: Stride of the first convolution along every axis.
        no_max_pool: Leave the pooling after it out, for small images.
    """

    source: ClassVar[str] = "MONAI"
    architecture: ClassVar[str]

    conv1_t_stride: int = 2
    no_max_pool: bool = False

    def build(self, spec: ImageSpec, classes: int) -> nn.Module:
        """Return the network."""
        from monai.networks import nets

        network: nn.Module = getattr(nets, self.architecture)(
            spatial_dims=len(spec.space),
            n_input_channels=spec.channels,
            num_classes=classes,
            conv1_t_stride=self.conv1_t_stride,
            no_max_pool=self.no_max_pool,
        )
        return network


@dataclass(frozen=True)
class MonaiDenseNet(Model):
    """A DenseNet of MONAI's, in 2D and 3D."""

    source: ClassVar[str] = "MONAI"
    architecture: ClassVar[str]

    def build(self, spec: ImageSpec, classes: int) -> nn.Module:
        """Return the network."""
        from monai.networks import nets

        network: nn.Module = getattr(nets, self.architecture)(
            spatial_dims=len(spec.space), in_channels=spec.channels, out_channels=classes
        )
        return network


class FirstOutput(nn.Module):
    """A network whose first output counts."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return the first output."""
        first: Tensor = self.network(images)[0]
        return first


@dataclass(frozen=True)
class MonaiViT(Model):
    """MONAI's vision transformer, in 2D and 3D.

    Attributes:
        patch: Pixels along each axis of a patch.
        hidden_size: Width of a token.
        mlp_dim: Width of the MLPs.
        num_layers: Number of blocks.
        num_heads: Number of attention heads.
    """

    name: ClassVar[str] = "monai_vit"
    source: ClassVar[str] = "MONAI"
    differs: ClassVar[str] = "Small by default (ours): 4 layers of width 192, patches of 8."

    patch: int = 8
    hidden_size: int = 192
    mlp_dim: int = 384
    num_layers: int = 4
    num_heads: int = 4

    def build(self, spec: ImageSpec, classes: int) -> nn.Module:
        """Return the network.

        Raises:
            ModelError: An axis is no multiple of the patch.
        """
        from monai.networks.nets import ViT

        if any(side % self.patch for side in spec.space):
            raise ModelError(f"monai_vit needs sides that are multiples of {self.patch}: set patch")
        settings: dict[str, Any] = {
            "in_channels": spec.channels,
            "img_size": spec.space,
            "patch_size": (self.patch,) * len(spec.space),
            "spatial_dims": len(spec.space),
            "hidden_size": self.hidden_size,
            "mlp_dim": self.mlp_dim,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "classification": True,
            "num_classes": classes,
            "post_activation": "none",  # its default squeezes the outputs through tanh
        }
        return FirstOutput(ViT(**settings))


def networks() -> list[type[Model]]:
    """Return one model for each network."""
    families: tuple[tuple[type[Model], tuple[str, ...]], ...] = (
        (MonaiResNet, RESNETS),
        (MonaiDenseNet, DENSENETS),
    )
    named = [_named(family, name) for family, names in families for name in names]
    return [*named, MonaiViT]


def _named(family: type[Model], architecture: str) -> type[Model]:
    doc = f"MONAI's {architecture}, in 2D and 3D."
    attributes = (family.__doc__ or "").partition("Attributes:")[1:]
    return dataclasses.make_dataclass(
        f"Monai_{architecture}",
        [],
        bases=(family,),
        frozen=True,
        namespace={
            "name": f"monai_{architecture}",
            "architecture": architecture,
            "__doc__": "\n\n    ".join([doc, "".join(attributes)]).rstrip(),
            "__module__": __name__,
        },
    )
