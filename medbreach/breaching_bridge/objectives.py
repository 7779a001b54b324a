"""The gradients that breaching's objectives match, computed as clients compute them.

breaching's own need every parameter to be used and trained, and play one client only whose batch
size divides its number of records. Where that holds, the results are the same. An adaptive
attacker's come from what is known of the clients' defenses.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from medbreach.attacks.known_defenses import KnownDefenses
from medbreach.components import trainable


class Adaptive(NamedTuple):
    """An attacker who knows the clients' defenses.

    Attributes:
        known: What clients would have sent.
        models: The network of each round, as the objective gets it.
    """

    known: KnownDefenses
    models: Sequence[nn.Module]

    def step(
        self, objective: Any, model: Any, candidate: Tensor, labels: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """Return what clients would have sent, and the task loss if the objective wants it."""
        exchange = self.known.exchange
        (round_number,) = (k for k, own in enumerate(self.models) if own is model)
        rng = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        change = self.known.change(
            model.model,  # breaching's attackers have the network in a container
            exchange.spec.denormalise(candidate),
            labels,
            rng,
            exchange.rounds[round_number],
        )
        loss = candidate.new_zeros(())
        if objective.task_regularization != 0:
            loss = objective.loss_fn(model(candidate), labels)
        update = exchange.rounds[round_number].update
        sign = -1 if update.is_unplayable else 1  # as the update is passed on to breaching
        return [sign * part for part in change.values()], loss


def match_like_clients(objective: Any, clients: int, adaptive: Adaptive | None = None) -> Any:
    """Let an objective of breaching's compute its gradients as ours do; return it."""
    if not hasattr(objective, "_grad_fn_single_step"):
        return objective
    if adaptive is not None:
        step = adaptive.step
        objective._grad_fn_single_step = lambda m, x, y: step(objective, m, x, y)
        objective._grad_fn_multi_step = objective._grad_fn_single_step
        return objective
    objective._grad_fn_single_step = lambda m, x, y: single_step(objective, m, x, y)
    objective._grad_fn_multi_step = lambda m, x, y: local_training(objective, m, x, y, clients)
    return objective


def single_step(
    objective: Any, model: nn.Module, candidate: Tensor, labels: Tensor
) -> tuple[list[Tensor], Tensor]:
    """Return the gradient of the task loss, and the loss."""
    with torch.autocast(candidate.device.type, enabled=objective.cfg_impl.mixed_precision):
        loss = objective.loss_fn(model(candidate), labels)
    return _gradient(loss, list(trainable(model).values())), loss


def local_training(
    objective: Any, model: nn.Module, candidate: Tensor, labels: Tensor, clients: int
) -> tuple[list[Tensor], Tensor]:
    """Return the mean change of weights over clients, and the last loss.

    Records are the clients' in turn; each client goes through its own in order.
    """
    del labels  # the recipe has them step by step
    recipe = objective.local_hyperparams
    names, first = zip(*trainable(model).items(), strict=True)
    own = candidate.chunk(clients)
    total = [torch.zeros_like(p) for p in first]
    loss = candidate.new_zeros(())
    for k, records in enumerate(own):
        weights = [p.clone() for p in first]
        start, per_step = 0, recipe["data_per_step"]
        for step in range(recipe["steps"]):
            loss = _loss(
                objective,
                model,
                dict(zip(names, weights, strict=True)),
                records[start : start + per_step],
                recipe["labels"][k * recipe["steps"] + step],
            )
            gradient = _gradient(loss, weights)
            weights = [w - recipe["lr"] * g for w, g in zip(weights, gradient, strict=True)]
            start = start + per_step if start + per_step < len(records) else 0
        total = [t + (w - p) / clients for t, w, p in zip(total, weights, first, strict=True)]
    return total, loss


def _loss(
    objective: Any, model: nn.Module, weights: dict[str, Tensor], images: Tensor, labels: Tensor
) -> Tensor:
    with torch.autocast(images.device.type, enabled=objective.cfg_impl.mixed_precision):
        outputs = torch.func.functional_call(model, weights, (images,))
        loss: Tensor = objective.loss_fn(outputs, labels)
    return loss


def _gradient(loss: Tensor, weights: list[Any]) -> list[Tensor]:
    found = torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True)
    gradients: tuple[Tensor | None, ...] = found
    return [
        torch.zeros_like(w) if g is None else g for w, g in zip(weights, gradients, strict=True)
    ]
