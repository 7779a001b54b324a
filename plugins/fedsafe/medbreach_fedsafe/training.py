"""SGD as the source has it, for clients and for the server."""

import time
from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from medbreach import lend_global
from medbreach_federation import Weights


def fit(
    network: nn.Module,
    inputs: Float[Tensor, "n channels *space"],
    labels: Int[Tensor, " n"],
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    max_grad_norm: float,
    rng: torch.Generator,
) -> None:
    """Train a network in place by SGD with cross-entropy.

    Args:
        network: The network; it is left in evaluation mode.
        inputs: Normalised images.
        labels: Their classes.
        epochs: Passes over them.
        batch_size: Images in each step.
        learning_rate: Of the steps.
        max_grad_norm: Gradients are scaled down to this L2 norm.
        rng: For the order, and for what the network draws.
    """
    like = next(network.parameters())
    optimizer = torch.optim.SGD(network.parameters(), lr=learning_rate)
    network.train()
    with lend_global(rng):
        for _ in range(epochs):
            for rows in torch.split(torch.randperm(len(labels), generator=rng), batch_size):
                outputs = network(inputs[rows].to(like))
                loss = nn.functional.cross_entropy(outputs, labels[rows].to(outputs.device))
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(network.parameters(), max_grad_norm)
                optimizer.step()
    network.eval()


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a network's tensors, buffers included, on the CPU."""
    return {name: t.detach().cpu().clone() for name, t in network.state_dict().items()}


def trained_names(network: nn.Module) -> frozenset[str]:
    """Return the names of the tensors that are trained."""
    return frozenset(name for name, _ in network.named_parameters())


def load(network: nn.Module, weights: Weights) -> nn.Module:
    """Put weights into a network, and return it."""
    network.load_state_dict(dict(weights))
    return network


class Stopwatch:
    """Seconds that this process computed, or that passed where a GPU computes.

    On CPUs the time of the processor is taken, which others who use it do not lengthen.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._began = self._now()

    def seconds(self) -> float:
        """Return the seconds since this watch was made."""
        return self._now() - self._began

    def _now(self) -> float:
        if self._device.type != "cuda":
            return time.process_time()
        torch.cuda.synchronize(self._device)
        return time.perf_counter()


def norm_of(change: Mapping[str, Tensor]) -> float:
    """Return the L2 norm of tensors together."""
    return float(torch.stack([t.double().square().sum() for t in change.values()]).sum().sqrt())
