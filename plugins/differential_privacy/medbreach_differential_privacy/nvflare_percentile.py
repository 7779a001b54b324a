"""NVFlare's filter that sends the largest changes of weights."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from medbreach import Change, ClientTask, Defense, Gradient, LocalTraining, Update
from medbreach_differential_privacy.vectors import what_was_sent


@dataclass(frozen=True)
class NVFlarePercentile(Defense):
    """Send zeros for the smallest changes of weights and cut off the largest, as NVFlare does.

    The change is divided by the number of steps; entries whose absolute value is below its
    percentile become zero, the others are cut off at ``gamma``; then it is multiplied by the steps
    again. It is no differential privacy: there is no randomness in it.

    An attacker who knows of it reads off the update which entries are zero, and leaves them out of
    the comparison; where the update is at ``gamma``, it cuts candidates off at it, too.

    Attributes:
        percentile: Percentage of the entries that become zero, from 0 to 100.
        gamma: Greatest absolute value of an entry, in the unit of one step's change of weights.
    """

    name: ClassVar[str] = "nvflare_percentile"
    source: ClassVar[str] = (
        "NVFlare 2.9.0, nvflare.app_common.filters.PercentilePrivacy, after Shokri & Shmatikov 2015"
    )
    differs: ClassVar[str] = (
        "A gradient is taken as one step's change of weights with learning rate 1; only weights "
        "that are trained are filtered. Settings out of range, under which NVFlare sends the "
        "update as it is, are refused. NVFlare's documentation says that changes below gamma "
        "become zero; its code cuts off those above, and so does this."
    )

    percentile: float = 10.0
    gamma: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.percentile <= 100:
            raise ValueError(f"percentile must lie between 0 and 100, got {self.percentile}")
        if self.gamma <= 0:
            raise ValueError(f"gamma must be positive, got {self.gamma}")

    def wrap(self, train: LocalTraining) -> LocalTraining:
        """Return local training whose update is filtered."""

        def trained(task: ClientTask) -> Update:
            update = train(task)
            return replace(update, change=self._filtered(dict(update.change), steps_of(update)))

        return trained

    def simulate_update(self, change: Gradient, seen: Update) -> Gradient:
        """Return a candidate's change where the client sent one, cut off where the client's was.

        Entries that were sent as they are need no cutting off, and keep their gradient.
        """
        bound = self.gamma * steps_of(seen)
        if seen.kind is Change.DIFFERENCE and seen.recipe is None:  # then as far as was sent
            bound = max(float(g.abs().max()) for g in seen.change.values())
        sent = what_was_sent(change, seen)
        return {
            name: g if g.ndim == 0 else _cut_off(g, seen.change[name].to(g), bound)
            for name, g in sent.items()
        }

    def _filtered(self, change: Gradient, steps: int) -> Gradient:
        sizes = [np.abs(g.cpu().numpy()).ravel() / steps for g in change.values()]
        cutoff = float(np.percentile(np.concatenate(sizes), self.percentile))
        filtered = {}
        for name, whole in change.items():
            g = whole / steps
            kept = g.where(g.abs() >= cutoff, 0.0).clamp(-self.gamma, self.gamma)
            filtered[name] = whole if whole.ndim == 0 else kept * steps
        return filtered


def _cut_off(tensor: Tensor, seen: Tensor, bound: float) -> Tensor:
    """Return entries cut off at a bound on the side where those seen are."""
    at = (1 - 1e-5) * bound  # single precision
    low = torch.where(seen <= -at, tensor.clamp_min(-bound), tensor)
    return torch.where(seen >= at, tensor.clamp_max(bound), low)


def steps_of(update: Update) -> int:
    """Return the number of local steps of an update; 1 for a gradient, or if it is unknown."""
    return 1 if update.recipe is None else update.recipe.steps
