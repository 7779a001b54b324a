"""torchvision's networks for any number of channels and classes, in 2D."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.error import URLError

from torch import nn

from medbreach.components import Model
from medbreach.errors import ModelError
from medbreach.types import ImageSpec

NAMES = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "densenet121",
    "densenet161",
    "densenet169",
    "densenet201",
    "vit_b_16",
    "vit_b_32",
    "vit_l_16",
)


@dataclass(frozen=True)
class TorchvisionModel(Model):
    """A network of torchvision's, its first layer fitted to the channels. 2D only.

    torchvision starts the last layer of its vision transformers with zeros, so the gradient of a
    fresh one is that of its last layer alone.
    """

    source: ClassVar[str] = "torchvision"
    differs: ClassVar[str] = (
        "The first convolution takes the images' channels; where they are not three, its weights "
        "are normal with the deviation of torchvision's."
    )
    architecture: ClassVar[str]

    def build(self, spec: ImageSpec, classes: int) -> nn.Module:
        """Return the network.

        Raises:
            ModelError: The images are volumes, or not what a transformer takes.
        """
        import torchvision

        if len(spec.space) != 2:
            raise ModelError(
                f"{self.name} takes 2D images; for volumes there are MONAI's networks, such as "
                "monai_resnet18"
            )
        settings: dict[str, Any] = {"num_classes": classes}
        if self.architecture.startswith("vit"):
            settings["image_size"] = self._side(spec)
        network: nn.Module = torchvision.models.get_model(
            self.architecture, weights=None, **settings
        )
        if spec.channels != 3:
            _fit_first_convolution(network, spec.channels)
        return network

    def load_pretrained(self, model: nn.Module) -> None:
        """Load ImageNet weights wherever the shapes are the same: all but the head.

        Raises:
            ModelError: They are not in torch's cache and cannot be downloaded.
        """
        import torchvision

        try:
            weights = torchvision.models.get_model_weights(self.architecture).DEFAULT
            state = weights.get_state_dict(progress=False, check_hash=True)
        except (URLError, OSError, RuntimeError) as error:
            raise ModelError(
                f"the published weights of {self.architecture} are not in torch's cache and cannot "
                f"be downloaded: {error}"
            ) from error
        own = model.state_dict()
        model.load_state_dict(
            {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}, strict=False
        )

    def _side(self, spec: ImageSpec) -> int:
        patch = int(self.architecture.rsplit("_", 1)[1])
        height, width = spec.space
        if height != width or height % patch:
            raise ModelError(
                f"{self.name} takes square images whose side is a multiple of {patch}, "
                f"not {height} x {width}"
            )
        return height


def _fit_first_convolution(network: nn.Module, channels: int) -> None:
    """Replace a network's first convolution by one of other channels, initialised as its own."""
    name, first = next((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d))
    fitted = nn.Conv2d(
        channels,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]
        first.stride,  # type: ignore[arg-type]
        first.padding,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )
    nn.init.normal_(fitted.weight, std=float(first.weight.detach().std()))
    if fitted.bias is not None:
        nn.init.zeros_(fitted.bias)
    network.set_submodule(name, fitted)


def networks() -> list[type[Model]]:
    """Return one model for each network."""
    return [
        dataclasses.make_dataclass(
            f"Torchvision_{name}",
            [],
            bases=(TorchvisionModel,),
            frozen=True,
            namespace={
                "name": f"torchvision_{name}",
                "architecture": name,
                "__doc__": f"torchvision's {name}, fitted to the channels. 2D only.",
                "__module__": __name__,
            },
        )
        for name in NAMES
    ]
