"""What the clients of a Fed-Safe federation do: train a classifier, and add noise to it."""

import copy
import functools
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from medbreach import Seeds
from medbreach_federation import Instruction, Learner, Result, Weights
from medbreach_fedsafe.evasion import predicted
from medbreach_fedsafe.noise import with_noise
from medbreach_fedsafe.settings import FedSafe, Setup
from medbreach_fedsafe.shares import Shares, share_out
from medbreach_fedsafe.training import (
    Stopwatch,
    fit,
    load,
    norm_of,
    trained_names,
    weights_of,
)


class ClassifierLearner(Learner):
    """Clients that train a classifier of their images by SGD.

    Each begins from what it was sent, passes ``local_epochs`` times over its records, and sends the
    weights that it ends with, buffers included; with ``uplink`` its trained weights bear noise.

    Args:
        shares: The images.
        network: The network that the federation begins with.
        settings: What clients do.
        seed: Of the order of records and the noise.
        device: Where to compute.
    """

    def __init__(
        self,
        shares: Shares,
        network: nn.Module,
        settings: FedSafe,
        seed: int,
        device: torch.device,
    ) -> None:
        self.shares, self.settings, self.device = shares, settings, device
        self._network, self._seeds = network, Seeds(seed)
        self.trained = trained_names(network)

    @property
    def clients(self) -> int:
        """How many clients there are."""
        return len(self.shares.roles.clients)

    def first(self) -> Weights:
        """Return the first weights."""
        return weights_of(self._network)

    def network(self, weights: Weights) -> nn.Module:
        """Return a network of its own with some weights, in evaluation mode, on the device."""
        return load(copy.deepcopy(self._network), weights).to(self.device).eval()

    def train(self, instruction: Instruction) -> Result:
        """Return what a client makes of a round, and how many seconds it took.

        It tells no loss: that would be a number about its records without noise.
        """
        settings, role = self.settings, f"{instruction.client}/{instruction.round}"
        own = self.shares.client(instruction.client)
        watch = Stopwatch(self.device)
        network = self.network(instruction.weights)
        fit(
            network,
            self.shares.spec.normalise(own.images),
            own.labels,
            epochs=settings.local_epochs,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            max_grad_norm=settings.max_grad_norm,
            rng=self._seeds.stream(f"train/{role}"),
        )
        sent: Weights = weights_of(network)
        if settings.max_update_norm is not None:
            sent = clipped(sent, instruction.weights, self.trained, settings.max_update_norm)
        if settings.uplink:
            noise = self._seeds.stream(f"uplink/{role}")
            sent = with_noise(sent, settings.sigma, self.trained, noise)
        return Result(sent, len(own), {"seconds": watch.seconds()})

    def evaluate(self, round: int, weights: Weights) -> Mapping[str, float]:
        """Return the accuracy of the federation's weights on the images for evaluation."""
        del round
        test = self.shares.test
        said = predicted([self.network(weights)], test.images, self.shares.spec)
        return {"accuracy": float((said == test.labels).float().mean())}


def clipped(
    weights: Weights, before: Weights, trained: frozenset[str], most: float
) -> dict[str, Tensor]:
    """Return weights whose change in the trained tensors has at most some L2 norm."""
    change = {name: weights[name] - before[name].to(weights[name]) for name in trained}
    scale = min(1.0, most / max(norm_of(change), 1e-30))
    return {
        name: before[name].to(tensor) + scale * change[name] if name in trained else tensor
        for name, tensor in weights.items()
    }


def build(folder: Path) -> ClassifierLearner:
    """Return the learner that a federation's folder describes.

    Raises:
        InputError: It describes none, or the images do not fit.
    """
    return learner_of(Setup.read(folder))


@functools.lru_cache(maxsize=2)
def learner_of(setup: Setup) -> ClassifierLearner:
    """Return the learner of a setup.

    Raises:
        InputError: The settings or the images do not fit.
    """
    case, shares = share_out(setup.case, setup.seed, setup.pool_share)
    rng = Seeds(setup.seed).stream("model")
    network = case.model(shares.spec, len(shares.classes), rng)
    return ClassifierLearner(shares, network, setup.fedsafe, setup.seed, torch.device(setup.device))
