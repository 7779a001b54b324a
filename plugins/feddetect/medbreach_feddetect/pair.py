"""A client's networks and optimisers, and how they are sent and kept."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn, optim

from medbreach_feddetect.networks import Discriminator, Generator
from medbreach_feddetect.setting import Gan
from medbreach_federation import Weights


@dataclass
class Pair:
    """A client's networks and their optimisers."""

    generator: Generator
    discriminator: Discriminator
    of_generator: optim.Optimizer
    of_discriminator: optim.Optimizer

    @property
    def optimizers(self) -> dict[str, optim.Optimizer]:
        """Both optimisers, by the network that they train."""
        return {"generator": self.of_generator, "discriminator": self.of_discriminator}


def optimizer_of(gan: Gan, network: nn.Module) -> optim.Optimizer:
    """Return a network's optimiser: Adam with cross-entropy, else RMSprop, as released."""
    if gan.loss == "bce":
        return optim.Adam(network.parameters(), gan.learning_rate, (gan.beta1, 0.999))
    return optim.RMSprop(network.parameters(), gan.learning_rate)


def named(part: str, network: nn.Module) -> dict[str, Tensor]:
    """Return a network's weights and running statistics; counters of batches are left out."""
    return {
        f"{part}.{name}": value.detach().cpu().clone()
        for name, value in network.state_dict().items()
        if value.is_floating_point()
    }


def load_named(network: nn.Module, part: str, weights: Weights) -> None:
    """Put the weights of one part into a network; what is not among them stays."""
    own = {
        name.removeprefix(f"{part}."): value
        for name, value in weights.items()
        if name.startswith(f"{part}.")
    }
    whole = network.state_dict()
    network.load_state_dict({name: own.get(name, value) for name, value in whole.items()})


def kept_of(pair: Pair, gan: Gan) -> dict[str, Any]:
    """Return what a client keeps: its discriminator, and where all optimisers are."""
    states = {
        part: {
            str(k): {name: value.detach().cpu().clone() for name, value in one.items()}
            for k, one in optimizer.state_dict()["state"].items()
        }
        for part, optimizer in pair.optimizers.items()
    }
    own = {} if gan.average_discriminators else named("discriminator", pair.discriminator)
    return {"discriminator": own, "optimizers": states}


def restore(optimizer: optim.Optimizer, kept: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Put an optimiser back to where `kept_of` found it."""
    whole = optimizer.state_dict()
    whole["state"] = {int(k): copy.deepcopy(dict(one)) for k, one in kept.items()}
    optimizer.load_state_dict(whole)
