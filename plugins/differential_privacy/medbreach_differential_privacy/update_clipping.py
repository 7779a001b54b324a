"""Clipping of a client's whole update."""

from dataclasses import dataclass, replace
from typing import ClassVar

from medbreach import ClientTask, Defense, Gradient, LocalTraining, Update
from medbreach_differential_privacy.vectors import clipped


@dataclass(frozen=True)
class UpdateClipping(Defense):
    """Scale the update down to at most an L2 norm, all tensors together (flat clipping).

    It bounds what one client can do to the model, and is what noise at the server builds on. Alone
    it hides nothing: the direction of the update stays, and gradient inversion that compares
    directions is not even slowed down. There is no guarantee without noise.

    An attacker who knows of it clips what candidates give. It gains the scale back where it
    compares lengths too.

    Attributes:
        clip_norm: Greatest L2 norm of the whole update, in the update's unit; the default is ours.
    """

    name: ClassVar[str] = "update_clipping"
    source: ClassVar[str] = "McMahan et al. 2018, arXiv:1710.06963, section 2.2, FlatClip"
    differs: ClassVar[str] = (
        "The source clips changes of weights; a gradient is clipped in the same way. Attackers "
        "clip the mean of an aggregate of clients, who each clipped their own."
    )

    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        if self.clip_norm <= 0:
            raise ValueError(f"clip_norm must be positive, got {self.clip_norm}")

    def wrap(self, train: LocalTraining) -> LocalTraining:
        """Return local training whose update is clipped."""

        def trained(task: ClientTask) -> Update:
            update = train(task)
            return replace(update, change=clipped(update.change, self.clip_norm))

        return trained

    def simulate_update(self, change: Gradient, seen: Update) -> Gradient:
        """Return a candidate's change, clipped as the client clips."""
        del seen
        return clipped(change, self.clip_norm)
