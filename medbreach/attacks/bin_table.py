"""The bins of a planted layer, and the records that are peeled out of them."""

import bisect
import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from medbreach.servers.peeling import PeelingBlock, energies
from medbreach.types import ImageSpec

SAME = 0.01  # deviation of the difference of two readings of one record, at most


class Peeled(NamedTuple):
    """A record that has been read.

    Attributes:
        image: Its normalised voxels, flat.
        delta: The gradient that it caused at the layer's output, as the update counts it.
    """

    image: Float[Tensor, " voxels"]
    delta: float


def same(image: Float[Tensor, " voxels"], other: Float[Tensor, " voxels"]) -> bool:
    """Return whether two readings are of one record."""
    return all(
        float((image[::step] - other[::step]).square().mean()) <= SAME**2 for step in (61, 1)
    )


@dataclass
class BinTable:
    """What an update says of each bin, less what has been peeled.

    A bin's content is computed from the update whenever it is looked at, so the table holds no copy
    of it.

    Attributes:
        gradient: Gradient of the rows' weights, parts' energies last.
        totals: Sum of ``delta`` over the records that are left in each bin.
        checks: Sum of ``delta`` times the records' energies.
        directions: Weights of each measurement.
        ends: Lower end of each bin.
        groups: First bin of each measurement, and the end of the last.
        spec: What is known about the images.
        scale: Mean energy of an image, about.
        floor: The least ``delta`` that is told from rounding errors.
        shelf: Room for the images that have been read: as many as there are bins, seldom more.
        peeled: The records that have been read.
        members: For each bin, which of them lay in it.
    """

    gradient: Float[Tensor, "bins voxels_and_parts"]
    totals: Float[Tensor, " bins"]
    checks: Float[Tensor, "bins parts"]
    directions: Float[Tensor, "measurements voxels"]
    ends: Float[Tensor, " bins"]
    groups: tuple[int, ...]
    spec: ImageSpec
    scale: float
    floor: float
    shelf: Float[Tensor, "bins voxels"]
    peeled: list[Peeled] = field(default_factory=list)
    members: list[list[int]] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        weight: Float[Tensor, "bins voxels_and_parts"],
        bias: Float[Tensor, " bins"],
        block: PeelingBlock,
        spec: ImageSpec,
        scale: float,
    ) -> "BinTable":
        """Return the table of one update.

        Args:
            weight: The update's change of the rows' weights.
            bias: Its change of their biases.
            block: The planted block as it was sent.
            spec: What is known about the images.
            scale: Mean energy of an image, about.
        """
        groups = tuple(sum(block.groups[:j]) for j in range(len(block.groups) + 1))
        inner = [b for b in range(len(bias)) if b + 1 not in groups]
        after = [b + 1 for b in inner]
        totals, checks = bias.double().cpu(), weight[:, -block.parts :].double().cpu()
        return cls(
            gradient=weight,
            totals=totals.index_put((torch.tensor(inner),), -totals[after], accumulate=True),
            checks=checks.index_put((torch.tensor(inner),), -checks[after], accumulate=True),
            directions=block.directions,
            ends=block.ends.double().cpu(),
            groups=groups,
            spec=spec,
            scale=scale,
            floor=16 * torch.finfo(bias.dtype).eps * float(bias.abs().max()),
            shelf=weight.new_empty(len(bias), block.directions.shape[1]),
            members=[[] for _ in range(len(bias))],
        )

    @property
    def images(self) -> Float[Tensor, "peeled voxels"]:
        """The records that have been read, normalised."""
        count = len(self.peeled)
        if count <= len(self.shelf):
            return self.shelf[:count]
        return torch.stack([record.image for record in self.peeled])

    def peel(self, tolerance: float) -> None:
        """Read record after record, from bins of one and, where there is none, from differences.

        Args:
            tolerance: Doubt up to which a bin is taken to hold one record.
        """
        self._peel_single(tolerance)
        while self._peel_difference(tolerance):
            self._peel_single(tolerance)

    def _peel_single(self, tolerance: float) -> None:
        """Read record after record, always from the bin that is least in doubt."""
        current = {b: self.doubt(b) for b in range(len(self.totals))}
        queue = [(doubt, b) for b, doubt in current.items() if doubt <= tolerance]
        heapq.heapify(queue)
        while queue:
            doubt, b = heapq.heappop(queue)
            if current[b] != doubt:
                continue
            record = Peeled(self.content(b) / self.totals[b], float(self.totals[b]))
            for changed in self.subtract(record):
                current[changed] = self.doubt(changed)
                if current[changed] <= tolerance:
                    heapq.heappush(queue, (current[changed], changed))

    def _peel_difference(self, tolerance: float) -> bool:
        """Read a record from a bin whose other records are just those of another measurement's bin.

        The difference of the two bins then is one record. Which pairs it can be, totals, energies
        and measurements tell without a look at the images.
        """
        bins = [b for b in range(len(self.totals)) if abs(self.totals[b]) > self.floor]
        if not bins:
            return False
        measured = torch.stack([self.directions @ self.content(b) for b in bins]).double().cpu()
        for one, other in self._differing_by_one(bins, measured):
            total = float(self.totals[one] - self.totals[other])
            image = (self.content(one) - self.content(other)) / total
            told = (self.checks[one] - self.checks[other]) / total
            if self._doubt_of(image, one, told) <= tolerance:
                self.subtract(Peeled(image, total))
                return True
        return False

    def _differing_by_one(
        self, bins: Sequence[int], measured: Float[Tensor, "bins measurements"]
    ) -> list[tuple[int, int]]:
        """Return the pairs of bins whose difference could be one record of the first.

        Args:
            bins: Bins that are not empty.
            measured: Measurements of their contents.
        """
        totals, checks = self.totals[bins], self.checks[bins]
        group = torch.tensor([bisect.bisect(self.groups, b) - 1 for b in bins])
        total = totals[:, None] - totals[None]
        possible = (group[:, None] != group[None]) & (total.abs() > self.floor)
        total = torch.where(possible, total, math.nan)
        energy = (checks[:, None] - checks[None]) / total[..., None]
        possible &= (energy > -SAME * self.scale).all(2)
        place = (measured[:, None] - measured[None]) / total[..., None]
        low, high = (limits[bins] for limits in self._limits())
        in_one = place.gather(2, group[:, None, None].expand_as(total[..., None]))[..., 0]
        in_other = place.gather(2, group[None, :, None].expand_as(total[..., None]))[..., 0]
        possible &= (in_one >= low[:, None]) & (in_one < high[:, None])
        possible &= (in_other < low[None]) | (in_other >= high[None])
        return [(bins[a], bins[b]) for a, b in possible.nonzero().tolist()]

    def _limits(self) -> tuple[Float[Tensor, " bins"], Float[Tensor, " bins"]]:
        """Return between which measurements each bin lies."""
        above = torch.cat([self.ends[1:], self.ends.new_tensor([math.inf])])
        above[torch.tensor(self.groups[1:]) - 1] = math.inf
        return self.ends, above

    def peel_beside(self, known: Sequence[Float[Tensor, " voxels"]], tolerance: float) -> None:
        """Read on with records that another round gave away.

        A bin that holds one of them and one unknown record gives both away: with ``W``, ``B`` and
        ``H`` the bin's sums of ``delta x``, ``delta`` and ``delta e(x)``, and ``x`` the known
        record, ``delta (H + e(x) B - 2 <W, x>) = H B - e(W)`` for each part of the image.

        Args:
            known: Normalised images, flat.
            tolerance: Doubt up to which what is left of a bin is taken to be one record.
        """
        waiting = [image for image in known if not self.holds(image)]
        progress = True
        while waiting and progress:
            progress = any(self._resolve(image, waiting, tolerance) for image in waiting)
            self.peel(tolerance)
            waiting = [image for image in waiting if not self.holds(image)]

    def _resolve(
        self, image: Float[Tensor, " voxels"], waiting: Sequence[Tensor], tolerance: float
    ) -> bool:
        """Subtract a known record whose ``delta`` one of its bins gives away, if one does."""
        others = [set(self.bins_of(w)) for w in waiting if w is not image]
        for b in self.bins_of(image):
            if abs(self.totals[b]) <= self.floor or any(b in bins for bins in others):
                continue
            delta = self._delta_beside_one(image, b)
            if not abs(delta) > self.floor:
                continue
            left = float(self.totals[b]) - delta
            rest = (self.content(b) - delta * image) / left
            told = (self.checks[b] - delta * self._energy(image)) / left
            if self._doubt_of(rest, b, told) <= tolerance:
                self.subtract(Peeled(image, delta))
                return True
        return False

    def _delta_beside_one(self, image: Float[Tensor, " voxels"], b: int) -> float:
        """Return the ``delta`` of a known record if its bin holds one record besides."""
        held, total = self.content(b), float(self.totals[b])
        own, mixed = self._energy(image), self._energy(held)
        both = (self._energy(held + image) - own - mixed) / 2
        factor = self.checks[b] + own * total - 2 * both
        wanted = self.checks[b] * total - mixed
        square = float(factor.square().sum())
        return float((factor * wanted).sum()) / square if square > 0 else math.nan

    def subtract(self, record: Peeled) -> list[int]:
        """Take a record out of its bins; return which they are."""
        bins, energy = list(self.bins_of(record.image)), self._energy(record.image)
        place = len(self.peeled)
        if place < len(self.shelf):
            self.shelf[place] = record.image
            record = record._replace(image=self.shelf[place])
        self.peeled.append(record)
        for b in bins:
            self.members[b].append(len(self.peeled) - 1)
            self.totals[b] -= record.delta
            self.checks[b] -= record.delta * energy
        return bins

    def holds(self, image: Float[Tensor, " voxels"]) -> bool:
        """Return whether a record has been peeled."""
        return any(same(image, r.image) for r in self.peeled)

    def content(self, b: int) -> Float[Tensor, " voxels"]:
        """Return the sum of ``delta`` times the image over the records that are left in a bin."""
        voxels = self.directions.shape[1]
        held = self.gradient[b, :voxels]
        if b + 1 not in self.groups:
            held = held - self.gradient[b + 1, :voxels]
        for i in self.members[b]:
            held = held - self.peeled[i].delta * self.peeled[i].image
        return held

    def doubt(self, b: int) -> float:
        """Return how far a bin is from holding exactly one record; infinite if it holds none.

        It is the greatest difference of a part's energy to the one that the update tells, relative
        to the mean energy of images; infinite if the bin's quotient is no image, or one of another
        bin.
        """
        total = float(self.totals[b])
        if abs(total) <= self.floor:
            return math.inf
        return self._doubt_of(self.content(b) / total, b, self.checks[b] / total)

    def _doubt_of(self, image: Float[Tensor, " voxels"], b: int, told: Tensor) -> float:
        if not self.is_image(image) or b not in self.bins_of(image):
            return math.inf
        return float((told - self._energy(image)).abs().max()) / self.scale

    def _energy(self, image: Float[Tensor, " voxels"]) -> Float[Tensor, " parts"]:
        return energies(image[None], self.checks.shape[1])[0].double().cpu()

    def bins_of(self, image: Float[Tensor, " voxels"]) -> Iterator[int]:
        """Yield the bin of each measurement that a normalised image falls into, if there is one."""
        measured = (self.directions @ image).double().cpu()
        for j, (start, stop) in enumerate(zip(self.groups[:-1], self.groups[1:], strict=True)):
            b = int(torch.searchsorted(self.ends[start:stop], measured[j], right=True)) - 1
            if b >= 0:
                yield start + b

    def is_image(self, image: Float[Tensor, " voxels"]) -> bool:
        """Return whether a flat image's intensities lie within their bounds, but for noise."""
        extremes = torch.stack(image.reshape(self.spec.channels, -1).aminmax(dim=1), dim=1)
        per_channel = extremes.reshape(1, self.spec.channels, 2, *[1] * (len(self.spec.space) - 1))
        shown = self.spec.denormalise(per_channel)
        low, high = self.spec.bounds
        slack = 0.05 * self.spec.range
        return float(shown.min()) >= low - slack and float(shown.max()) <= high + slack
