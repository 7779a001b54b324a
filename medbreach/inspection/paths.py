"""Signs in convolutions and gates: copied images, empty layers, gates that are always open."""

from collections.abc import Iterator
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from medbreach.inspection.signs import Sign
from medbreach.inspection.trace import CONVOLUTIONS, RELUS
from medbreach.inspection.view import View

UNITS: Final = 32  # fewest of a gate whose state says something
MOST: Final = 0.6  # of the convolutions; some initialisations make the last one of each block zero


def _first_kernels(view: View) -> tuple[str, Float[Tensor, "kernels weights"]] | None:
    """Return the kernels of the first convolution if it takes the raw image."""
    first = next((c for c in view.calls if c.name in CONVOLUTIONS), None)
    if first is None or first.bent > 1e-3 or not first.weight:
        return None
    return first.weight, view.model.get_parameter(first.weight).detach().flatten(1)


def copying_convolutions(view: View) -> Iterator[Sign]:
    """Find first convolutions that hand the image on as it is.

    The measure is SEER's transmission signal-to-noise ratio: a kernel's largest weight over the sum
    of the others, which stays below 1 in every network that was trained.
    """
    found = _first_kernels(view)
    if found is None:
        return
    name, kernels = found
    least = {True: 1.0, False: 1000.0}[kernels.shape[1] >= 9]
    size = kernels.abs()
    largest = size.max(1).values
    copies = (largest > least * (size.sum(1) - largest)) & (largest > 0)
    if kernels.shape[1] > 1 and int(copies.sum()) >= view.spec.channels:
        yield Sign(
            "copying convolution",
            (name,),
            "medium",
            f"{int(copies.sum())} of {len(kernels)} kernels have one weight larger than the sum of "
            "their others: they hand the image on as it is, to a layer that can store it",
        )


def empty_kernels(view: View) -> Iterator[Sign]:
    """Find first convolutions most of whose kernels are zero, as those kept for other clients."""
    found = _first_kernels(view)
    if found is None:
        return
    name, kernels = found
    norm = kernels.norm(dim=1)
    empty = int((norm <= 1e-8 * norm.max()).sum())
    if 2 * empty >= len(norm) > 1 and norm.max() > 0:
        yield Sign(
            "empty kernels",
            (name,),
            "medium",
            f"{empty} of {len(norm)} kernels on the raw image are zero, as where each client is "
            "given kernels of its own",
        )


def open_gates(view: View) -> Iterator[Sign]:
    """Find networks whose ReLUs let everything through."""
    shares = torch.tensor(
        [c.positive for c in view.calls if c.name in RELUS and _units(c.shape) >= UNITS]
    )
    if len(shares) > 1 and (shares > 0.99).float().mean() >= 0.5:
        yield Sign(
            "open gates",
            (),
            "medium",
            f"{int((shares > 0.99).sum())} of {len(shares)} ReLUs let everything through, which "
            "makes the network linear and its gradients easy to invert",
        )


def empty_layers(view: View) -> Iterator[Sign]:
    """Find networks most of whose convolutions are zero, so that images pass them unchanged."""
    names = dict.fromkeys(c.weight for c in view.calls if c.name in CONVOLUTIONS and c.weight)
    empty = tuple(name for name in names if not view.model.get_parameter(name).any())
    if len(empty) > MOST * len(names):
        yield Sign(
            "empty layers",
            empty,
            "medium",
            f"{len(empty)} of {len(names)} convolutions are zero, so that what goes past them "
            "reaches the end unchanged",
        )


def _units(shape: tuple[int, ...]) -> int:
    return torch.Size(shape[1:]).numel()
