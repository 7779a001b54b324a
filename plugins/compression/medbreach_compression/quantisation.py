"""Sending an update in few bits an entry."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Literal

import torch
from torch import Tensor

from medbreach import ClientTask, Defense, Gradient, LocalTraining, Update

STEP: Final = "quantisation/step/"
ERROR: Final = "quantisation/error/"


@dataclass(frozen=True)
class Quantisation(Defense):
    """Round each entry of the update to a multiple of its tensor's step.

    ``qsgd`` rounds up or down at random such that the mean is the entry itself; the step is the
    tensor's L2 norm over ``levels``. ``uniform`` rounds to the nearest; the step is the tensor's
    greatest magnitude over ``2^(bits - 1) - 1``.

    The step of each tensor is a part of the message, so the server knows it. An attacker who knows
    the defense rounds a candidate's change to the same steps if the client rounded to the nearest,
    straight through: a candidate is not asked to tell apart what rounding made equal. Against
    rounding at random it takes the change as it is, the mean of what would have been sent. It is
    taken to know how large the error of rounding is in each tensor, too, which the steps bound.

    Attributes:
        kind: ``qsgd`` or ``uniform``.
        levels: Steps from zero to the norm of a tensor, of ``qsgd``. The default is ours.
        bits: Bits of an entry, sign included, of ``uniform``; at least 2. The default is that of
            the integers which Zhu et al. 2019 (arXiv:1906.08935, section 5.1) try.
    """

    name: ClassVar[str] = "quantisation"
    source: ClassVar[str] = "Alistarh et al. 2017, arXiv:1610.02132"
    differs: ClassVar[str] = (
        "A tensor is quantised as a whole, the source cuts it into buckets and encodes the levels; "
        "rounding to the nearest of evenly spaced values is ours."
    )

    kind: Literal["qsgd", "uniform"] = "qsgd"
    levels: int = 16
    bits: int = 8

    def __post_init__(self) -> None:
        if self.levels < 1:
            raise ValueError(f"levels must be at least 1, got {self.levels}")
        if not 2 <= self.bits <= 16:
            raise ValueError(f"bits must lie from 2 to 16, got {self.bits}")

    def wrap(self, train: LocalTraining) -> LocalTraining:
        """Return local training whose update is quantised."""

        def trained(task: ClientTask) -> Update:
            update = train(task)
            steps = {name: self._step(tensor) for name, tensor in update.change.items()}
            sent = {
                name: self._rounded(tensor, steps[name], task.rng)
                for name, tensor in update.change.items()
            }
            hints = {STEP + name: step for name, step in steps.items()}
            for name, meant in update.change.items():
                hints[ERROR + name] = (sent[name].double() - meant.double()).square().mean()
            return replace(update, change=sent, hints={**update.hints, **hints})

        return trained

    def simulate_update(self, change: Gradient, seen: Update) -> Gradient:
        """Return a candidate's change rounded to the steps that were seen, straight through.

        Rounding at random is left out, and so is any in the mean of several clients, whose steps
        differ: `noise` tells of both.
        """
        if self.kind == "qsgd" or seen.clients > 1:
            return change
        steps = {name: seen.hints[STEP + name].to(tensor) for name, tensor in change.items()}
        return {
            name: tensor + (_nearest(tensor.detach(), steps[name]) - tensor.detach())
            for name, tensor in change.items()
        }

    def noise(self, seen: Update) -> Mapping[str, float]:
        """Return the root mean square of what rounding changed, of each tensor."""
        return {
            name: math.sqrt(float(seen.hints[ERROR + name]) / seen.clients) for name in seen.change
        }

    def conflict(self, stack: Sequence[Defense]) -> str:
        """Return that a message has one step a tensor."""
        twice = sum(isinstance(other, Quantisation) for other in stack) > 1
        return "tells one step a tensor, so it can stand in a stack only once" if twice else ""

    def _step(self, tensor: Tensor) -> Tensor:
        """Return the distance of neighbouring values, 0 for a tensor of zeros."""
        whole = tensor.double()
        if self.kind == "qsgd":
            norm: Tensor = torch.linalg.vector_norm(whole)
            return norm.div(self.levels)
        return whole.abs().amax().div(2 ** (self.bits - 1) - 1)

    def _rounded(self, tensor: Tensor, step: Tensor, rng: torch.Generator) -> Tensor:
        if self.kind == "uniform":
            return _nearest(tensor, step.to(tensor))
        drawn = torch.rand(tensor.shape, generator=rng, dtype=torch.float64).to(tensor.device)
        if step == 0:
            return tensor
        return ((tensor.double() / step + drawn).floor() * step).to(tensor)


def _nearest(tensor: Tensor, step: Tensor) -> Tensor:
    return (tensor / step).round() * step if step > 0 else tensor
