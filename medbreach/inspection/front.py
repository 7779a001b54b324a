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

from medbreach.inspection.rows import COLUMNS, RowTable, sum_up
from medbreach.inspection.trace import CORNERS, GATES, Call, inputs_of
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
FEW_UNITS: Final = 2**13
"""Units of a gate, at most, that is looked at although it is bent: planted rows are no more."""
PASSING: Final = 4  # images of which a gate sees one affine function, at least
SOME: Final = 8  # units that are looked at to tell weights and images
SUPPORT: Final = 0.25  # share of the image that a unit sees if it sees the whole
FINENESS: Final = 1 / 64  # numbers a pixel from which on what was seen would show the image


class DenseGate(NamedTuple):
    """A gate whose units each see the whole image.

    Attributes:
        number: Its number among the calls.
        weights: Names of the weights that read the image.
        rows: The affine functions of the image that its units see.
        seen: What its units see of random images, and of public ones if there are any; one row an
            image that it is not closed to.
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

        None is looked for behind a layer that takes images of what such a gate lets through. The
        first one, if it comes before a second such layer, may be closed to some images altogether:
        then it is looked at with the others.

        Args:
            images: Random images and, if there are any, public ones, as the network takes them.
        """
        found = layers = 0
        for number, call in enumerate(self.calls):
            if found == MOST_GATES or (found and call.takes_images):
                return
            layers += call.takes_images
            if call.name not in GATES:
                continue
            passing = images
            if call.bent > (EXACTLY if found else NEARLY):
                if found or layers > 1 or not _has_few_units(call):
                    continue
                passing = self._passing(number, images)
            at = next((kind[:1] for kind in passing if len(kind)), None)
            if at is not None and (weights := self._readers(number, at)):
                found += 1
                yield self._dense_gate(number, weights, passing, at)

    def _passing(self, number: int, kinds: Sequence[Tensor]) -> list[Tensor]:
        """Return the images of which units see one affine function, if they see no other's at all.

        Behind the first layers of an honest network, images have functions of their own.
        """
        images = torch.cat(list(kinds))
        total = inputs_of(self.model, images[:1], number).numel()
        units = torch.randperm(total, generator=self.rng)[:SOME].tolist()
        pixels = torch.randperm(images[0].numel(), generator=self.rng)[:COLUMNS]
        parts = torch.split(images, self._at_once(number))
        functions = [self._functions(number, units, pixels, part) for part in parts]
        slopes, offsets, seen = (torch.cat(c, dim=1) for c in zip(*functions, strict=True))
        share = len(pixels) / images[0].numel()
        same = torch.zeros(len(images), len(images))
        for slope, offset in zip(slopes, offsets, strict=True):
            size, apart = slope.norm(dim=1), torch.cdist(slope, slope)
            shift = (offset[:, None] - offset).abs() * share**0.5  # images deviate by 1 a voxel
            same += (size > 0) & (apart + shift <= NEARLY * size)
        alike, shut = same > len(units) / 2, (seen <= 0).all(0)
        proper = (alike | shut).all(1) & ~alike.all(1) & (alike.sum(1) >= PASSING)
        passing = alike[(alike.sum(1) * proper).argmax()] & proper.any()
        counts = [len(kind) for kind in kinds]
        return [k[p] for k, p in zip(kinds, torch.split(passing, counts), strict=True)]

    def _functions(
        self, number: int, units: Sequence[int], pixels: Tensor, images: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the slopes of a gate's units at each image, their offsets, and what they see."""
        images = images.clone().requires_grad_()
        seen = inputs_of(self.model, images, number, grad=True).reshape(len(images), -1)
        seen = seen + 0 * images.sum()  # may be a constant
        slopes, offsets = [], []
        for unit in units:
            (slope,) = torch.autograd.grad(
                seen[:, unit].sum(), images, retain_graph=True, materialize_grads=True
            )
            slopes.append(slope.flatten(1)[:, pixels])
            offsets.append(seen[:, unit].detach() - (slope * images.detach()).flatten(1).sum(1))
        return torch.stack(slopes), torch.stack(offsets), seen.detach().T[units]

    def _readers(self, number: int, image: Tensor) -> tuple[str, ...]:
        """Return the weights by which single units of a gate see a whole image."""
        weights = {n: p for n, p in self.model.named_parameters() if _could_read(p, self.spec)}
        if not weights:
            return ()
        image = image.clone().requires_grad_()
        units = inputs_of(self.model, image, number, grad=True).flatten()
        read: dict[str, None] = {}
        for unit in torch.randperm(len(units), generator=self.rng)[:SOME].tolist():
            slope, *others = torch.autograd.grad(
                units[unit], [image, *weights.values()], retain_graph=True, allow_unused=True
            )
            if _support(slope) >= SUPPORT:
                read |= dict.fromkeys(n for n, s in zip(weights, others, strict=True) if _given(s))
        return tuple(read)

    def _dense_gate(
        self, number: int, weights: tuple[str, ...], images: Sequence[Tensor], at: Tensor
    ) -> DenseGate:
        total = inputs_of(self.model, at, number).numel()
        most = min(MOST_ROWS, MOST_RUNS * self._at_once(number))
        some = torch.randperm(total, generator=self.rng)[:most].sort().values
        rows = sum_up(self._slopes(number, some, at[0]), total, self.rng)
        seen = tuple(self._seen(number, some, kind) for kind in images)
        return DenseGate(number, weights, rows, seen)

    def _seen(self, number: int, units: Tensor, images: Tensor) -> Float[Tensor, "images rows"]:
        if not len(images):
            return torch.zeros(0, len(units))
        parts = torch.split(images, self._at_once(number))
        rows = [inputs_of(self.model, p, number).reshape(len(p), -1) for p in parts]
        return torch.cat(rows)[:, units]

    def _slopes(
        self, number: int, units: Tensor, at: Tensor
    ) -> Iterator[Float[Tensor, "some pixels"]]:
        """Yield the gradients of a gate's units with respect to the image, some at a time."""
        for part in torch.split(units, self._at_once(number)):
            copies = at.expand(len(part), *at.shape).clone().requires_grad_()
            seen = inputs_of(self.model, copies, number, grad=True).reshape(len(part), -1)
            picked = seen[torch.arange(len(part)), part].sum()
            yield torch.autograd.grad(picked, copies)[0].flatten(1)

    def _at_once(self, number: int) -> int:
        """Return how many images may go up to a gate together."""
        numbers = sum(torch.Size(c.shape[1:]).numel() for c in self.calls[: number + 1])
        return max(1, min(64, BUDGET // max(numbers, torch.Size(self.spec.shape).numel())))


def _has_few_units(call: Call) -> bool:
    """Return whether a gate takes a row of units for each image, and not too many."""
    of_images = len(call.shape) > 1 and call.shape[0] == CORNERS
    return of_images and 0 < torch.Size(call.shape[1:]).numel() <= FEW_UNITS


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
