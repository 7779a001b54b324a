"""The server that follows the protocol and looks at what it receives."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from medbreach.components import Server
from medbreach.errors import NotApplicable


@dataclass(frozen=True)
class HonestServer(Server):
    """Send the agreed network as it is."""

    name: ClassVar[str] = "honest_but_curious"
    source: ClassVar[str] = "Geiping et al. 2020, arXiv:2003.14053, threat model of section 2"


def set_state(model: nn.Module, state: str) -> None:
    """Initialise weights as breaching's ``model_state`` says, for networks of any dimension.

    ``untrained`` draws the layers' own first weights again; ``orthogonal`` also makes the weights
    of convolutions and linear layers orthogonal; ``linearized`` shifts every convolution and
    BatchNorm bias by 10, so that ReLUs pass everything.

    Raises:
        NotApplicable: A layer holds weights of its own that it cannot draw again, or a BatchNorm
            that shall pass everything has no running statistics.
    """
    for module in model.modules():
        if state in ("untrained", "orthogonal"):
            _draw_again(module)
        if state == "orthogonal" and isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
            nn.init.orthogonal_(module.weight)
        if state == "linearized":
            _pass_everything(module)


def _draw_again(module: nn.Module) -> None:
    reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    if callable(reset):
        reset()
    elif list(module.parameters(recurse=False)):
        raise NotApplicable(
            f"{type(module).__name__} holds weights that it cannot draw again: set "
            "case.server.model_state=default"
        )


@torch.no_grad()
def _pass_everything(module: nn.Module) -> None:
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
        if module.running_var is None or module.running_mean is None:
            raise NotApplicable(
                "model_state=linearized needs the running statistics of BatchNorm, which this "
                "network does not keep"
            )
        module.weight.copy_(module.running_var)
        module.bias.copy_(module.running_mean + 10)
    if isinstance(module, nn.modules.conv._ConvNd) and module.bias is not None:
        module.bias += 10
