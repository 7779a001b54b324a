"""breaching's own networks, in 2D."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from medbreach.components import Model
from medbreach.errors import ModelError
from medbreach.types import ImageSpec

NAMES = (
    "ConvNet",
    "ConvNetSmall",
    "convnet-trivial",
    "convnet_beyond",
    "LeNet_zhu",
    "cnn6",
    "ResNet18",
    "ResNet20",
    "ResNet32",
    "ResNet32-10",
    "ResNet34",
    "ResNet50",
    "ResNet56",
    "ResNet101",
    "ResNet152",
    "ResNetGN18",
    "DenseNet121",
    "DenseNet169",
    "VGG11",
    "VGG13",
    "VGG16",
    "VGG19",
)


SIDES = {
    "ConvNet": 32,
    "convnet_beyond": 28,
    "LeNet_zhu": 32,
    "cnn6": 32,
    "VGG11": 32,
    "VGG13": 32,
    "VGG16": 32,
    "VGG19": 32,
}
"""Pixels along each side that a network takes; the others take images of any size."""


@dataclass(frozen=True)
class BreachingModel(Model):
    """A network of breaching's, for small 2D images with any number of channels."""

    source: ClassVar[str] = "breaching"
    architecture: ClassVar[str]

    def build(self, spec: ImageSpec, classes: int) -> nn.Module:
        """Return the network.

        Raises:
            ModelError: The images are volumes, or of a size that the network does not take.
        """
        from medbreach.breaching_bridge.networks import construct

        if len(spec.space) != 2:
            raise ModelError(
                f"{self.name} takes 2D images; for volumes there are small_cnn and MONAI's "
                "networks, such as monai_resnet18"
            )
        side = SIDES.get(self.architecture)
        if side is not None and spec.space != (side, side):
            raise ModelError(
                f"{self.name} takes images of {side} x {side} pixels, not "
                f"{' x '.join(map(str, spec.space))}"
            )
        return construct(self.architecture, spec, classes)


def networks() -> list[type[Model]]:
    """Return one model for each network."""
    return [
        dataclasses.make_dataclass(
            f"Breaching_{name.replace('-', '_')}",
            [],
            bases=(BreachingModel,),
            frozen=True,
            namespace={
                "name": name,
                "architecture": name,
                "__doc__": f"breaching's {name}, for {_images(name)}.",
                "__module__": __name__,
            },
        )
        for name in NAMES
    ]


def _images(name: str) -> str:
    side = SIDES.get(name)
    return "small 2D images" if side is None else f"2D images of {side} x {side} pixels"
