"""Gates that see the whole image through affine functions, whatever layers those are spread over.

Attacks that read records out of an update need them: there, the gradient of a row is a sum of the
images that the row's gate let through.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medbreach.inspection.probes import random_images
from medbreach.inspection.rows import RowTable, sum_up
from medbreach.inspection.trace import GATES, Call, inputs_of
from medbreach.types import ImageSpec

BUDGET: Final = 2**23  # numbers in one batch of images
MOST_GATES: Final = 16
MOST_ROWS: Final = 256
MOST_RUNS: Final = 16  # of the network for the rows of one gate
NEARLY: Final = 0.2
"""Bend of a gate's input that counts as none: noise in a planted layer that also takes products of
pixels makes 0.09, the first ReLU of an honest network 0.6 and more."""
EXACTLY: Final = 1e-3
"""The same for further gates: smooth gates of an honest network bend little."""
SUPPORT: Final = 0.25  # share of the image that a unit sees if it sees the whole
FINENESS: Final = 1 / 64  # numbers a pixel from which on what was seen would show the image


class DenseGate(NamedTuple):
    """A gate whose units each see the whole image.

    Attributes:
        number: Its number among the calls.
        weights: Names of the weights that read the image.
        rows: The affine functions of the image that its units see.
        seen: What its units see of random images, and of public ones if there are any; one row an
            image.
    """

    number: int
    weights: tuple[str, ...]
    rows: RowTable
    seen: tuple[Tensor, ...]


@dataclass(frozen=True)
class Front:
    """A network up to its gates.

    Attributes:
        model: The network.
        spec: What is known about the images.
        calls: What the network calls.
        rng: Chooses rows of many, and columns.
    """

    model: nn.Module
    spec: ImageSpec
    calls: Sequence[Call]
    rng: torch.Generator

    def dense_gates(self, images: Sequence[Tensor]) -> Iterator[DenseGate]:
        """Yield the first gates whose units each see the whole image through an affine function.

        None is looked for behind a layer that takes images of what such a gate lets through.

        Args:
            images: Random images and, if there are any, public ones, as the network takes them.
        """
        found = 0
        for number, call in enumerate(self.calls):
            if found == MOST_GATES or (found and call.takes_images):
                return
            straight = call.bent <= (EXACTLY if found else NEARLY)
            weights = self._readers(number) if call.name in GATES and straight else ()
            if weights:
                found += 1
                yield self._dense_gate(number, weights, images)

    def _readers(self, number: int) -> tuple[str, ...]:
        """Return the weights by which single units of a gate see the whole image."""
        weights = {n: p for n, p in self.model.named_parameters() if _could_read(p, self.spec)}
        if not weights:
            return ()
        image = random_images(self.spec, 1, self.rng).requires_grad_()
        units = inputs_of(self.model, image, number, grad=True).flatten()
        read: dict[str, None] = {}
        for unit in torch.randperm(len(units), generator=self.rng)[:8].tolist():
            slope, *others = torch.autograd.grad(
                units[unit], [image, *weights.values()], retain_graph=True, allow_unused=True
            )
            if _support(slope) >= SUPPORT:
                read |= dict.fromkeys(n for n, s in zip(weights, others, strict=True) if _given(s))
        return tuple(read)

    def _dense_gate(
        self, number: int, weights: tuple[str, ...], images: Sequence[Tensor]
    ) -> DenseGate:
        black = inputs_of(self.model, torch.zeros(1, *self.spec.shape), number).flatten()
        most = min(MOST_ROWS, MOST_RUNS * self._at_once(number))
        some = torch.randperm(len(black), generator=self.rng)[:most].sort().values
        rows = sum_up(self._slopes(number, some), black[some], len(black), self.rng)
        seen = tuple(self._seen(number, some, kind) for kind in images)
        return DenseGate(number, weights, rows, seen)

    def _seen(self, number: int, units: Tensor, images: Tensor) -> Float[Tensor, "images rows"]:
        parts = torch.split(images, self._at_once(number))
        return torch.cat([inputs_of(self.model, p, number).flatten(1)[:, units] for p in parts])

    def _slopes(self, number: int, units: Tensor) -> Iterator[Float[Tensor, "some pixels"]]:
        """Yield the gradients of a gate's units with respect to the image, some at a time."""
        at = random_images(self.spec, 1, self.rng)[0]
        for part in torch.split(units, self._at_once(number)):
            copies = at.expand(len(part), *at.shape).clone().requires_grad_()
            seen = inputs_of(self.model, copies, number, grad=True).flatten(1)
            picked = seen[torch.arange(len(part)), part].sum()
            yield torch.autograd.grad(picked, copies)[0].flatten(1)

    def _at_once(self, number: int) -> int:
        """Return how many images may go up to a gate together."""
        numbers = sum(torch.Size(c.shape[1:]).numel() for c in self.calls[: number + 1])
        return max(1, min(64, BUDGET // max(numbers, torch.Size(self.spec.shape).numel())))


def _could_read(weight: Tensor, spec: ImageSpec) -> bool:
    """Return whether a weight is a matrix over a good part of the image, or a kernel as large."""
    pixels = torch.Size(spec.shape).numel()
    if weight.dim() == 2:
        return max(weight.shape) >= FINENESS * pixels
    return weight.dim() > 2 and tuple(weight.shape[-len(spec.space) :]) == spec.space


def _support(slope: Tensor | None) -> float:
    """Return the share of the image that a gradient is of."""
    if slope is None:
        return 0.0
    size = slope.abs()
    return float((size > 1e-6 * size.max()).float().mean())


def _given(slope: Tensor | None) -> bool:
    return slope is not None
