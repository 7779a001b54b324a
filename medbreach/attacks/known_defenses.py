"""What clients would have sent for given images, computed by who knows their defenses.

The result is differentiable by the images. Clients' random numbers are unknown: the attacker draws
its own, and averages over several draws.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medbreach.components import (
    ClientTask,
    Gradient,
    StepGradient,
    mean_gradient,
    trainable,
)
from medbreach.types import Batch, Exchange, Recipe, Round


@dataclass(frozen=True)
class KnownDefenses:
    """The clients of one exchange, as an attacker simulates them who knows their defenses.

    Attributes:
        exchange: What the attacker saw.
        draws: How often the clients' randomness is drawn for one gradient, and averaged.
    """

    exchange: Exchange
    draws: int = 1

    def change(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        rng: torch.Generator,
        played: Round | None = None,
    ) -> Gradient:
        """Return the update, by parameter name, that images would have given.

        A change of weights whose recipe is withheld, or is not plain SGD, is taken for one step of
        rate 1: it points the right way, but its size is not known.

        Args:
            model: The network as sent.
            images: Candidates in the spec's unit, each client's in turn.
            labels: Their classes.
            rng: Where the attacker's draws of the clients' randomness come from.
            played: The round to simulate; None for the first.
        """
        seen = (played or self.exchange.rounds[0]).update
        own = zip(images.chunk(seen.clients), labels.chunk(seen.clients), strict=True)
        parts = []
        for k, (records, classes) in enumerate(own):
            task = self._task(model, Batch(records, classes), rng, played)
            if seen.playable is not None:
                part = self._local_training(task, seen.playable, k, played)
            else:
                part = self._gradient(task, task.batch, played)
            if seen.is_unplayable:
                part = {name: -g for name, g in part.items()}
            for defense in self.exchange.defenses:
                part = defense.simulate_update(part, seen)
            parts.append(part)
        return {name: sum_of(part[name] for part in parts) / len(parts) for name in parts[0]}

    def _gradient(self, task: ClientTask, batch: Batch, played: Round | None) -> Gradient:
        seen = (played or self.exchange.rounds[0]).update
        gradient: StepGradient = mean_gradient
        for defense in self.exchange.defenses:
            gradient = defense.simulate_step(gradient, seen)
        drawn = [gradient(task, batch) for _ in range(self.draws)]
        return {name: sum_of(g[name] for g in drawn) / self.draws for name in drawn[0]}

    def _local_training(
        self, task: ClientTask, recipe: Recipe, client: int, played: Round | None
    ) -> Gradient:
        """Return the change of weights over the steps that the client says it made."""
        assert recipe.labels is not None
        first: dict[str, Tensor] = dict(trainable(task.model))
        weights, start = first, 0
        for step in range(recipe.steps):
            records = task.batch.images[start : start + recipe.records_per_step]
            labels = recipe.labels[client * recipe.steps + step].to(records.device)
            with weights_of(task.model, weights):
                gradient = self._gradient(task, Batch(records, labels), played)
            weights = {name: w - recipe.lr * gradient[name] for name, w in weights.items()}
            start += recipe.records_per_step
            start = start if start < len(task.batch.images) else 0
        return {name: w - first[name] for name, w in weights.items()}

    def _task(
        self, model: nn.Module, batch: Batch, rng: torch.Generator, played: Round | None
    ) -> ClientTask:
        exchange = self.exchange
        return ClientTask(
            model=model,
            batch=batch,
            spec=exchange.spec,
            classes=exchange.classes,
            loss=exchange.loss,
            recipe=None,
            training=(played or exchange.rounds[0]).training,
            rng=rng,
        )


def sum_of(tensors: Iterator[Tensor]) -> Tensor:
    """Return the sum of tensors, of which there is at least one."""
    total = next(tensors)
    for tensor in tensors:
        total = total + tensor
    return total


@contextlib.contextmanager
def weights_of(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Let a network compute with other weights, which may be results of a computation."""
    places = {name: model.get_submodule(name.rpartition(".")[0]) for name in weights}
    before = {name: place._parameters[name.rpartition(".")[2]] for name, place in places.items()}
    try:
        for name, place in places.items():
            place._parameters[name.rpartition(".")[2]] = weights[name]  # type: ignore[assignment]
        yield
    finally:
        for name, place in places.items():
            place._parameters[name.rpartition(".")[2]] = before[name]
