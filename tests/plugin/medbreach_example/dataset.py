"""Blocks of a head at two times."""

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from medbreach import Collection, Dataset, Entry
from medbreach.datasets.brain_mr import BrainMR


@dataclass(frozen=True)
class Pairs(Dataset):
    """Blocks of nibabel's head MR, its two time points as the channels of one image.

    Attributes:
        space: Depth, height and width of a block.
    """

    name: ClassVar[str] = "example_pairs"
    source: ClassVar[str] = "nibabel"
    licence: ClassVar[str] = "MIT (nibabel)"

    space: tuple[int, ...] = (8, 16, 16)

    def open(self) -> Collection:
        """Return the blocks that have two time points."""
        single = BrainMR(self.space).open()
        of_place: dict[str, list[Entry]] = {}
        for entry in single.entries:
            of_place.setdefault(f"{entry.patient} {entry.affine}", []).append(entry)
        entries = [
            replace(pair[0], read=partial(_read, *pair))
            for pair in of_place.values()
            if len(pair) == 2
        ]
        spec = replace(single.spec, channels=2, mean=(), std=())
        return replace(single, spec=spec, entries=entries)


def _read(first: Entry, second: Entry) -> Tensor:
    return torch.cat([first.read(), second.read()])
