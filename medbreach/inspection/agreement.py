"""What a model file has that the agreed architecture has not."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from medbreach.inspection.signs import Sign
from medbreach.types import ImageSpec

COUNTERS: Final = "num_batches_tracked"  # BatchNorm's, which old files lack
SHOWN: Final = 4  # layers that are named one by one

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Difference:
    """How a model file differs from an architecture.

    Attributes:
        same: Names of the architecture's tensors and of those in the file that they correspond to.
        extra: Names of tensors in the file that correspond to none.
        missing: Names of the architecture's tensors that none in the file corresponds to.
    """

    same: Mapping[str, str]
    extra: tuple[str, ...]
    missing: tuple[str, ...]


def compare(agreed: State, sent: State) -> Difference:
    """Match the tensors of an architecture and of a file.

    They are matched by their names where the architecture's are all there, and otherwise by their
    order, shapes and last names, since what is planted before a layer renames it.
    """
    ours = {n: t for n, t in agreed.items() if not n.endswith(COUNTERS)}
    theirs = {n: t for n, t in sent.items() if not n.endswith(COUNTERS)}
    same = {n: n for n in ours if n in theirs and theirs[n].shape == ours[n].shape}
    if len(same) < len(ours):
        by_order = _by_order(ours, theirs)
        same = by_order if len(by_order) > len(same) else same
    taken = set(same.values())
    return Difference(
        same,
        tuple(name for name in theirs if name not in taken),
        tuple(name for name in ours if name not in same),
    )


def _by_order(ours: State, theirs: State) -> dict[str, str]:
    def marks(state: State) -> list[tuple[str, torch.Size]]:
        return [(name.rpartition(".")[2], tensor.shape) for name, tensor in state.items()]

    matcher = difflib.SequenceMatcher(None, marks(ours), marks(theirs), autojunk=False)
    left, right = list(ours), list(theirs)
    return {
        left[block.a + k]: right[block.b + k]
        for block in matcher.get_matching_blocks()
        for k in range(block.size)
    }


def reads_image(tensor: Tensor, spec: ImageSpec) -> bool:
    """Return whether each row of a tensor has a number for each of an image's, or more."""
    return tensor.dim() == 2 and tensor.shape[1] >= torch.Size(spec.shape).numel()


def extra_layers(difference: Difference, sent: State, spec: ImageSpec, than: str) -> Iterator[Sign]:
    """Find layers that the file has and the architecture has not.

    Args:
        difference: How they differ.
        sent: The file's tensors.
        spec: What is known about the images.
        than: What the file is compared with, such as ``"the agreed resnet18"``.
    """
    raw = [n for n in difference.extra if reads_image(sent[n], spec)]
    pixels = torch.Size(spec.shape).numel()
    for name in raw:
        rows, columns = sent[name].shape
        yield Sign(
            "unexpected dense layer",
            (name,),
            "high",
            f"{than} has no such layer: {rows} rows of {columns} numbers, enough to hold a whole "
            f"image of {pixels} each",
        )
    layers = dict.fromkeys(_layer(n) for n in difference.extra if n not in raw)
    others = [layer for layer in layers if layer not in {_layer(n) for n in raw}]
    if others:
        yield Sign(
            "unexpected layers",
            tuple(n for n in difference.extra if _layer(n) in others),
            "high",
            f"{than} has no {_listed(others)}",
        )


def _layer(name: str) -> str:
    return name.rpartition(".")[0] or name


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - SHOWN} more layers" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + more
