"""Something that makes an update give away less."""

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import nn

from medbreach.components.client import Gradient, LocalTraining, StepGradient, Workload
from medbreach.components.component import Component
from medbreach.types import Guarantee, ImageSpec, Update


class Defense(Component):
    """Something that makes an update give away less. Each method does nothing by default.

    What the clients do is `remodel`, `vet`, `step` and `wrap`, in this order, and `deploy` in the
    end; `aggregate` is where their updates come together. `simulate_step`, `simulate_update` and
    `noise` are what an attacker makes of it who knows the defense and its settings: an attack with
    ``adaptive`` uses them.
    """

    def remodel(self, model: nn.Module, spec: ImageSpec, classes: int) -> nn.Module:
        """Return the network that a federation with this defense agrees on.

        Everybody knows it, the server included. The model may be changed in place; random first
        weights come from torch's global generator, which the caller has seeded.

        Raises:
            ModelError: The defense cannot protect this network; the sentence says why.
        """
        del spec, classes
        return model

    def vet(self, model: nn.Module, spec: ImageSpec) -> None:
        """Inspect what the server sent, before any training.

        Raises:
            Refused: The client will not train this network.
        """
        del model, spec

    def step(self, gradient: StepGradient) -> StepGradient:
        """Return how a step's gradient is computed with this defense around it.

        It is called with the client's task and the step's records, in local training once for each
        step. Random numbers come from ``task.rng``.
        """
        return gradient

    def wrap(self, train: LocalTraining) -> LocalTraining:
        """Return local training with this defense around it.

        The task's batch, model and recipe may be replaced (`dataclasses.replace`) before training,
        the update after it. The truth that attacks are scored against stays as it is.
        """
        return train

    def aggregate(self, updates: Sequence[Update]) -> Sequence[Update]:
        """Return the clients' updates as the server's aggregation should take them."""
        return updates

    def deploy(
        self, model: nn.Module, memory: Mapping[str, Any], rng: torch.Generator
    ) -> nn.Module:
        """Return the trained network as a client uses it, in evaluation mode.

        Args:
            model: The network; it may be changed in place.
            memory: What the client keeps from its training.
            rng: Random numbers, for a network that goes on drawing them.
        """
        del memory, rng
        return model

    def simulate_step(self, gradient: StepGradient, seen: Update) -> StepGradient:
        """Return how an attacker who knows this defense computes a step's gradient.

        The gradient has to stay differentiable by the images. ``self.step(gradient)`` is an answer
        if it is; noise is redrawn at each call, so it averages out over the attacker's iterations.

        Args:
            gradient: How it is computed without this defense.
            seen: The update that the attacker saw, with the client's hints.
        """
        del seen
        return gradient

    def simulate_update(self, change: Gradient, seen: Update) -> Gradient:
        """Return what of one client's candidate change of weights would have been sent.

        It has to stay differentiable: a mask that is read off the update that was seen, say.
        """
        del seen
        return change

    def noise(self, seen: Update) -> float | Mapping[str, float]:
        """Return the standard deviation of the noise on each entry of an update that was seen.

        It is one number for all tensors, or one for each by the parameter's name.
        """
        del seen
        return 0.0

    def guarantee(self, work: Workload) -> Guarantee | None:
        """Return what differential privacy this defense gives over a whole training, if any.

        Raises:
            ConfigError: It is asked for a guarantee that its mechanism does not give.
        """
        del work
        return None

    def conflict(self, stack: Sequence["Defense"]) -> str:
        """Return why this defense cannot stand in a stack, as half a sentence, or ``""``.

        Args:
            stack: All defenses of the stack, innermost first, this one among them.
        """
        del stack
        return ""

    @final
    @property
    def can_be_adapted_to(self) -> bool:
        """Whether an attacker who knows this defense does anything else than one who does not."""
        told = ("simulate_step", "simulate_update", "noise")
        return any(getattr(type(self), name) is not getattr(Defense, name) for name in told)
