"""A server that sends a blank network."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from medbreach import ImageSpec, NotApplicable, Planted, Server


@dataclass(frozen=True)
class BlankServer(Server):
    """Set the last linear layer to zero, so that each class is as likely for every image.

    The gradient of a record then depends on its image and class only, whatever the network thought
    of it before.
    """

    name: ClassVar[str] = "example_blank"
    source: ClassVar[str] = "medbreach-example"
    malicious: ClassVar[bool] = True

    def plant(
        self, model: nn.Module, spec: ImageSpec, public: Tensor, rng: torch.Generator
    ) -> Planted:
        """Return the network with a blank last layer, and that layer's name.

        Raises:
            NotApplicable: The network has no linear layer.
        """
        del spec, public, rng
        layers = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear)]
        if not layers:
            raise NotApplicable("example_blank needs a network with a linear layer")
        name, last = layers[-1]
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        return Planted(model, secret=name)
