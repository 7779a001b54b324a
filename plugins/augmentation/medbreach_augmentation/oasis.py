"""Training on the records together with transformed copies of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from medbreach import Batch, ClientTask, Defense, Gradient, ImageSpec, StepGradient, Update
from medbreach_augmentation.copies import rotated, sheared
from medbreach_augmentation.stacks import counts_records_inside


@dataclass(frozen=True)
class Oasis(Defense):
    """Train on each record together with rotated, flipped and sheared copies of it.

    A planted row that reads a record's own gradient then gives a mixture of the record and those
    copies that fall into the same row. A quarter turn keeps the mean brightness, by which imprint
    layers sort records: such copies share the record's rows for certain. A sheared copy may fall
    into a row of its own and be read there alone. A mixture of a record with its rotations is not
    noise: what the image has of its own symmetry stays in it.

    An attacker who knows the defense makes the same copies of its candidates, which takes no random
    number: candidates that equal the records fit without a remainder.

    The client reveals the number and the labels of its records, without the copies.

    Attributes:
        rotations: Add copies turned by 90, 180 and 270 degrees in the plane of the last two axes.
        flips: Add copies mirrored along the last axis and along the one before.
        shears: Add a copy for each factor: how many pixels a row moves against the row above it.
            The default is ours.
    """

    name: ClassVar[str] = "oasis"
    source: ClassVar[str] = "Jeter et al. 2024, arXiv:2311.13739"
    differs: ClassVar[str] = (
        "Works on volumes, slice by slice; where the last two sides differ, quarter turns are "
        "resampled to the images' size; what a shear brings in has the least intensity; rotations "
        "by other angles are left out."
    )

    rotations: bool = True
    flips: bool = False
    shears: tuple[float, ...] = (0.5,)

    def __post_init__(self) -> None:
        if not (self.rotations or self.flips or self.shears):
            raise ValueError("oasis adds no copies: set rotations, flips or shears")
        if not all(0 < abs(factor) <= 2 for factor in self.shears):
            raise ValueError(f"shears must lie from -2 to 2 and not be 0, got {list(self.shears)}")

    def step(self, gradient: StepGradient) -> StepGradient:
        """Return the gradient of the mean loss over a step's records and all their copies."""

        def augmented(task: ClientTask, batch: Batch) -> Gradient:
            parts = [batch.images, *self._copies(batch.images, task.spec)]
            labels = batch.labels.repeat(len(parts))
            return gradient(task, replace(batch, images=torch.cat(parts), labels=labels))

        return augmented

    def simulate_step(self, gradient: StepGradient, seen: Update) -> StepGradient:
        """Return the same for a candidate."""
        del seen
        return self.step(gradient)

    def conflict(self, stack: Sequence[Defense]) -> str:
        """Return that the copies of a record would count as records of their own."""
        if counts_records_inside(self, stack):
            return (
                "makes several images of a record, each of which a defense inside it bounds on its "
                "own: put oasis before it"
            )
        return ""

    def _copies(self, images: Tensor, spec: ImageSpec) -> list[Tensor]:
        copies = [rotated(images, quarters) for quarters in (1, 2, 3)] if self.rotations else []
        if self.flips:
            copies += [images.flip(-1), images.flip(-2)]
        return copies + [sheared(images, factor, spec.bounds[0]) for factor in self.shears]
