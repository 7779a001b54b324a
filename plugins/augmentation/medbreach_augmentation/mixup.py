"""Training on mixtures of records."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from scipy.special import betaincinv

from medbreach import Batch, ClientTask, Defense, Gradient, StepGradient, Update
from medbreach_augmentation.stacks import counts_records_inside


@dataclass(frozen=True)
class Mixup(Defense):
    """Train each step on pairwise mixtures of its records, and on both labels of each pair.

    The weight of a step is drawn from Beta(``alpha``, ``alpha``), and each record's partner by a
    random order of the step's records; a record may be its own partner, and that of a step with a
    single record always is. Where the weight is near 0 or 1, or a record is its own partner, the
    mixture is close to the record itself.

    An attacker who knows the defense mixes its candidates in the same way, but has to draw the
    weight and the partners anew in each iteration: only on average do they fit.

    Attributes:
        alpha: Both parameters of the Beta distribution; near 0 little is mixed, at 1 all weights
            are as likely, and large values mix in halves. The default is the source's for CIFAR-10.
    """

    name: ClassVar[str] = "mixup"
    source: ClassVar[str] = "Zhang et al. 2018, arXiv:1710.09412"
    differs: ClassVar[str] = (
        "The losses for the two sets of labels are computed one after the other, so running "
        "statistics of BatchNorm move twice in a step, and dropout differs between them."
    )

    alpha: float = 1.0

    def __post_init__(self) -> None:
        if not 0.01 <= self.alpha <= 1000:
            raise ValueError(f"alpha must lie from 0.01 to 1000, got {self.alpha}")

    def step(self, gradient: StepGradient) -> StepGradient:
        """Return the gradient of the weighted mean of both labels' losses of the mixtures."""

        def mixed(task: ClientTask, batch: Batch) -> Gradient:
            weight = self._weight(task.rng)
            order = torch.randperm(len(batch.labels), generator=task.rng)
            partner = order.to(batch.labels.device)
            images = weight * batch.images + (1 - weight) * batch.images[partner]
            own = gradient(task, replace(batch, images=images))
            other = gradient(task, Batch(images, batch.labels[partner]))
            return {name: weight * g + (1 - weight) * other[name] for name, g in own.items()}

        return mixed

    def simulate_step(self, gradient: StepGradient, seen: Update) -> StepGradient:
        """Return the same for a candidate, with weights and partners of the attacker's own."""
        del seen
        return self.step(gradient)

    def conflict(self, stack: Sequence[Defense]) -> str:
        """Return that a record would be counted in two mixtures."""
        if counts_records_inside(self, stack):
            return (
                "puts a record into two mixtures, each of which a defense inside it bounds on its "
                "own"
            )
        return ""

    def _weight(self, rng: torch.Generator) -> float:
        """Return a draw of the Beta distribution, by the inverse of its distribution function."""
        uniform = float(torch.rand((), generator=rng, dtype=torch.float64))
        return float(betaincinv(self.alpha, self.alpha, uniform))
