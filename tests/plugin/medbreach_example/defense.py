"""Sending nothing but signs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import nn

from medbreach import ClientTask, Defense, ImageSpec, LocalTraining, Refused, Update


@dataclass(frozen=True)
class Sign(Defense):
    """Send the sign of each entry times the tensor's mean size; refuse blank networks.

    Attributes:
        most_clients: Updates of more clients than this are left out of the aggregation.
    """

    name: ClassVar[str] = "example_sign"
    source: ClassVar[str] = "Bernstein et al. 2018, arXiv:1802.04434"
    differs: ClassVar[str] = "Signs are scaled by the mean size of each tensor's entries."

    most_clients: int = 1000

    def vet(self, model: nn.Module, spec: ImageSpec) -> None:
        """Refuse a network with a linear layer of zeros.

        Raises:
            Refused: There is one.
        """
        del spec
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and not module.weight.any():
                raise Refused(f"the layer {name} is blank, so the network learns from no image")

    def wrap(self, train: LocalTraining) -> LocalTraining:
        """Return local training that sends signs."""

        def trained(task: ClientTask) -> Update:
            update = train(task)
            change = {name: g.sign() * g.abs().mean() for name, g in update.change.items()}
            return replace(update, change=change)

        return trained

    def aggregate(self, updates: Sequence[Update]) -> Sequence[Update]:
        """Return the first updates, as many as are allowed."""
        return updates[: self.most_clients]
