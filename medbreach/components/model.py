"""A recipe for the network that the federation trains."""

from abc import abstractmethod
from typing import Any, final

import torch
from torch import Tensor, nn

from medbreach.components.component import Component
from medbreach.errors import ModelError
from medbreach.randomness import lend_global
from medbreach.text import blaming
from medbreach.types import ImageSpec, LossFunction


class Model(Component):
    """A recipe for the network that the federation trains. Subclasses write `build`."""

    @abstractmethod
    def build(self, spec: ImageSpec, classes: int) -> nn.Module:
        """Return the network, with the constructors' own first weights.

        It takes normalised images of ``spec.shape`` and returns one output a class. Random weights
        come from torch's global generator, which the caller has seeded.

        Raises:
            ModelError: The network cannot take such images.
        """

    def loss(self) -> LossFunction:
        """Return the loss that the federation minimises: cross-entropy unless said otherwise."""
        return nn.CrossEntropyLoss()

    def load_pretrained(self, model: nn.Module) -> None:
        """Put published weights into a network that `build` returned.

        Raises:
            ModelError: There are none, or they are not at hand.
        """
        del model
        raise ModelError(f"{self.name} has no published weights: set case.server.pretrained=false")

    @final
    def __call__(self, spec: ImageSpec, classes: int, rng: torch.Generator) -> nn.Module:
        """Build the network and try it on a blank image.

        Raises:
            ModelError: It cannot be built, or fails on images of this shape.
        """
        shape = " x ".join(map(str, spec.shape))
        failure = f"{self.name} cannot take images of {shape} (channels first)"
        with lend_global(rng), blaming(ModelError, failure):
            model: object = self.build(spec, classes)
            if not isinstance(model, nn.Module):
                raise ModelError(f"{self.name} built a {type(model).__name__}, no torch network")
            with torch.no_grad():
                outputs = model.eval()(torch.zeros(2, *spec.shape))
        self._check_outputs(outputs, classes)
        return model

    def _check_outputs(self, outputs: Any, classes: int) -> None:
        """Check what the network returned for two images.

        Raises:
            ModelError: It is not one row an image, or not one output a class for cross-entropy.
        """
        if not isinstance(outputs, Tensor):
            raise ModelError(f"{self.name} returns a {type(outputs).__name__}, not one tensor")
        by_class = isinstance(self.loss(), nn.CrossEntropyLoss)
        if outputs.shape[:1] != (2,) or (by_class and outputs.shape != (2, classes)):
            raise ModelError(
                f"{self.name} returns outputs of shape {tuple(outputs.shape)} for 2 images, not "
                f"(2, {classes}): one output a class"
            )
