"""FedProx's pull towards what the server sent."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from medbreach import Batch, ClientTask, Defense, Gradient, StepGradient
from medbreach_federation.learner import Weights


@dataclass(frozen=True)
class Proximal(Defense):
    """Add the gradient of half ``mu`` times the squared distance to the weights that were sent.

    It is no defense, but stands where one does: outside of all others, so that clipping and noise
    act on the records' gradient alone.

    Attributes:
        mu: Weight of the distance.
        sent: The weights that were sent.
    """

    name: ClassVar[str] = "proximal"
    source: ClassVar[str] = "Li et al. 2020, arXiv:1812.06127"

    mu: float
    sent: Weights

    def step(self, gradient: StepGradient) -> StepGradient:
        """Return the step's gradient with the pull added."""

        def pulled(task: ClientTask, batch: Batch) -> Gradient:
            weights: dict[str, Tensor] = dict(task.model.named_parameters())
            return {
                name: g + self.mu * (weights[name].detach() - self.sent[name].to(g))
                for name, g in gradient(task, batch).items()
            }

        return pulled
