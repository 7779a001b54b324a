"""What one client does in a round, and how it computes a step's gradient."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from medbreach.types import Batch, ImageSpec, LossFunction, Recipe, Update

Gradient = dict[str, Tensor]
StepGradient = Callable[["ClientTask", Batch], Gradient]
"""How a client computes the gradient of one step from that step's records."""


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that clients train, by name, in the model's order."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def mean_gradient(task: "ClientTask", batch: Batch) -> Gradient:
    """Return the gradient of the mean loss over a step's records.

    It is differentiable by the images if these ask for a gradient, so that an attacker can use it
    to search for them.
    """
    outputs = task.model(task.spec.normalise(batch.images))
    loss = task.loss(outputs, batch.labels)
    parameters = trainable(task.model)
    gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
        loss,
        list(parameters.values()),
        allow_unused=True,
        create_graph=batch.images.requires_grad,
    )
    return {
        name: torch.zeros_like(p) if g is None else g
        for (name, p), g in zip(parameters.items(), gradients, strict=True)
    }


def no_others(most: int) -> Batch:
    """Return that a client has no records but those of the round."""
    del most
    return Batch(torch.zeros(0, 1, 1, 1), torch.zeros(0, dtype=torch.long))


@dataclass(frozen=True)
class ClientTask:
    """What one client does in one round.

    Attributes:
        model: The network as received; training may change it in place.
        batch: The client's records of this round, in the spec's unit.
        spec: What is known about the images.
        classes: Number of classes.
        loss: The loss to minimise.
        recipe: How to train; None for the gradient of one batch.
        training: Run the network in training mode.
        rng: The client's own randomness.
        gradient: How the gradient of a step is computed.
        others: Returns up to so many further records that the client holds; there may be none.
        memory: What the client keeps from round to round, by a name that begins with the
            defense's; empty before its first round. It never leaves the client. Tensors, numbers,
            text, and lists and dicts of them, so that it can be kept on disk.
    """

    model: nn.Module
    batch: Batch
    spec: ImageSpec
    classes: int
    loss: LossFunction
    recipe: Recipe | None
    training: bool
    rng: torch.Generator
    gradient: StepGradient = mean_gradient
    others: Callable[[int], Batch] = no_others
    memory: dict[str, Any] = field(default_factory=dict)


LocalTraining = Callable[[ClientTask], Update]
"""A client's whole part in a round."""


class Workload(NamedTuple):
    """What a client computes in a training.

    Attributes:
        steps: Steps in each round, for all its updates.
        records_per_step: Records in each step.
        records: Records that the client trains on in a round.
        rounds: Rounds that it takes part in; None if the audit of one round does not know.
        updates: Updates that it sends in each round: one for each query of the server.
    """

    steps: int
    records_per_step: int
    records: int
    rounds: int | None = None
    updates: int = 1
