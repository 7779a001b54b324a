"""Sending only the largest entries of each tensor of an update."""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from medbreach import ClientTask, Defense, Gradient, LocalTraining, Update
from medbreach_compression.masks import compared, largest


@dataclass(frozen=True)
class GradientPruning(Defense):
    """Set the smallest entries of each tensor of the update to zero.

    An attacker who knows the defense reads off the zeros of the update what was not sent. It leaves
    those entries out of the comparison, unless its candidate would have sent them: that they were
    too small to be sent is a part of what it knows. What was sent is exact, so a candidate that
    equals the records fits without a remainder. A comparison of all entries, as if the zeros were
    the gradient, may still be the stronger attack where few entries are sent: run both.

    Attributes:
        share: Share of the entries of each tensor that is set to zero, from 0 to below 1; the
            largest entry of a tensor is always sent. The default is ours: the source tries several
            shares and names none as its setting.
    """

    name: ClassVar[str] = "gradient_pruning"
    source: ClassVar[str] = "Zhu et al. 2019, arXiv:1906.08935, section 5.2"
    differs: ClassVar[str] = (
        "Of equal entries as many are pruned as the share says; after local training the change of "
        "weights is pruned."
    )

    share: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ValueError(f"share must be at least 0 and below 1, got {self.share}")

    def wrap(self, train: LocalTraining) -> LocalTraining:
        """Return local training whose update is pruned."""

        def trained(task: ClientTask) -> Update:
            update = train(task)
            pruned = {
                name: tensor.where(largest(tensor, self._sent(tensor)), 0.0)
                for name, tensor in update.change.items()
            }
            return replace(update, change=pruned)

        return trained

    def simulate_update(self, change: Gradient, seen: Update) -> Gradient:
        """Return the entries of a candidate's change that it or the client sent, else zeros.

        Of several clients' mean an entry counts as sent if any of them sent it.
        """
        return {
            name: tensor.where(
                compared(tensor, seen.change[name], self._sent(tensor), seen.clients), 0.0
            )
            for name, tensor in change.items()
        }

    def _sent(self, tensor: Tensor) -> int:
        return max(1, tensor.numel() - round(self.share * tensor.numel()))
