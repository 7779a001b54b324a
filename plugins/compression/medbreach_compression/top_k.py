"""Sending only the largest entries of a whole update, with what was left out kept for later."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Final

import torch
from torch import Tensor

from medbreach import ClientTask, Defense, Gradient, LocalTraining, Update
from medbreach_compression.masks import compared, largest

LEFT: Final = "top_k/left"  # in the client's memory: what it has not sent yet


@dataclass(frozen=True)
class TopK(Defense):
    """Send the largest entries of the whole update, and zeros for the others.

    Layers with large gradients crowd out the others, whose tensors may be zero altogether. With
    error feedback an entry that is not sent is added to the next round's, until it is large enough:
    nothing stays at the client for good, so what a round hides a later one may tell.

    An attacker who knows the defense reads off the zeros what was not sent, and leaves it out of
    the comparison, unless its candidate would have sent it. It does not know what is left of
    earlier rounds and takes it for the records'. A comparison of all entries, as if the zeros were
    the gradient, may still be the stronger attack where few entries are sent: run both.

    Attributes:
        keep: Share of the update's entries that is sent, above 0 and at most 1; at least one entry
            is. The default is the source's.
        error_feedback: Keep what was not sent and add it to the next round's update.
    """

    name: ClassVar[str] = "top_k"
    source: ClassVar[str] = (
        "Aji & Heafield 2017, arXiv:1704.05021; Stich et al. 2018, arXiv:1809.07599"
    )
    differs: ClassVar[str] = (
        "The threshold is exact, the first source estimates it from a sample of the entries; after "
        "local training the change of weights is sparsified."
    )

    keep: float = 0.01
    error_feedback: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep must lie above 0 and at most at 1, got {self.keep}")

    def wrap(self, train: LocalTraining) -> LocalTraining:
        """Return local training whose update holds the largest entries only."""

        def trained(task: ClientTask) -> Update:
            update = train(task)
            whole = dict(update.change)
            if self.error_feedback and LEFT in task.memory:
                left = task.memory[LEFT]
                whole = {name: tensor + left[name] for name, tensor in whole.items()}
            masks = self._masks(whole)
            sent = {name: tensor.where(masks[name], 0.0) for name, tensor in whole.items()}
            if self.error_feedback:
                task.memory[LEFT] = {name: whole[name] - sent[name] for name in whole}
            return replace(update, change=sent)

        return trained

    def simulate_update(self, change: Gradient, seen: Update) -> Gradient:
        """Return the entries of a candidate's change that it or the client sent, else zeros.

        Of several clients' mean an entry counts as sent if any of them sent it.
        """
        values = _flat(change)
        mask = compared(values, _flat(seen.change), self._sent(values.numel()), seen.clients)
        masks = _shaped(mask, change)
        return {name: tensor.where(masks[name], 0.0) for name, tensor in change.items()}

    def conflict(self, stack: Sequence[Defense]) -> str:
        """Return that what two of them have not sent would mix."""
        twice = self.error_feedback and sum(isinstance(other, TopK) for other in stack) > 1
        return "keeps one remainder a client, so it can stand in a stack only once" if twice else ""

    def _masks(self, change: Mapping[str, Tensor]) -> dict[str, Tensor]:
        values = _flat(change)
        return _shaped(largest(values, self._sent(values.numel())), change)

    def _sent(self, entries: int) -> int:
        return max(1, round(self.keep * entries))


def _flat(change: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in change.values()])


def _shaped(flat: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    parts = torch.split(flat, [tensor.numel() for tensor in like.values()])
    return {
        name: part.reshape(tensor.shape)
        for (name, tensor), part in zip(like.items(), parts, strict=True)
    }
