"""The bins of a planted layer, and what is left in them."""

import bisect
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
SURELY = 4  # deviations of the noise that hardly any of it exceeds
LOOSEST = 0.1  # doubt, at most: mixtures of like images differ by little more
BLURRED = 0.03  # the same where it is rounding that puts faint records in doubt
EDGE = 1e-4  # error of a measurement by rounding; those of public images vary by 1


class Peeled(NamedTuple):
    """A record that has been read.

    Attributes:
        image: Its normalised voxels, flat.
        delta: The gradient that it caused at the layer's output, as the update counts it.
        doubt: How far what it was read from was from being one record.
    """

    image: Float[Tensor, " voxels"]
    delta: float
    doubt: float = 0.0


def same(
    image: Float[Tensor, " voxels"], other: Float[Tensor, " voxels"], noise: float = 0.0
) -> bool:
    """Return whether two readings are of one record, given the deviation of their noise."""
    apart = SAME + 2 * noise
    return all(
        float((image[::step] - other[::step]).square().mean()) <= apart**2 for step in (61, 1)
    )


def first_alike(
    images: Sequence[Float[Tensor, " voxels"]], noise: Sequence[float] = ()
) -> list[int]:
    """Return for each reading the place of the first one of the same record.

    Args:
        images: Normalised readings.
        noise: Deviation of the noise in each, if there is any.
    """
    noise = noise or [0.0] * len(images)
    places: list[int] = []
    kept: list[int] = []
    for k, image in enumerate(images):
        alike = (o for o in kept if same(image, images[o], math.hypot(noise[k], noise[o])))
        place = next(alike, k)
        if place == k:
            kept.append(k)
        places.append(place)
    return places


def noise_of(register: Float[Tensor, "bins bins"]) -> float:
    """Return the deviation of the noise in a register, from pairs of entries that tell the same."""
    return float((register - register.T).abs().median()) / (0.6745 * math.sqrt(2))


@dataclass
class BinTable:
    """What an update says of each bin, less what has been peeled.

    A bin's content is computed from the update whenever it is looked at, so the table holds no copy
    of it.

    Attributes:
        gradient: Gradient of the rows' weights for the image's voxels.
        totals: Sum of ``delta`` over the records that are left in each bin.
        checks: Sum of ``delta`` times the records' energies.
        register: Sum of ``delta`` over the records that are left in a bin and lie in another one.
        block: The planted block as it was sent.
        low: Lower end of each bin.
        high: Upper end.
        groups: First bin of each measurement, and the end of the last.
        spec: What is known about the images.
        scale: Mean energy of an image, about.
        floor: The least ``delta`` that is told from rounding errors and noise.
        noisy: Whether it is noise that hides what is less.
        shelf: Room for the images that have been read: as many as there are bins.
        peeled: The records that have been read.
        members: For each bin, which of them were subtracted from it, with which ``delta``.
        addresses: The bins that each of them lies in.
        corrected: Which bins turned out to hold which of them otherwise than was thought.
    """

    gradient: Float[Tensor, "bins voxels"]
    totals: Float[Tensor, " bins"]
    checks: Float[Tensor, "bins parts"]
    register: Float[Tensor, "bins bins"]
    block: PeelingBlock
    low: Float[Tensor, " bins"]
    high: Float[Tensor, " bins"]
    groups: tuple[int, ...]
    spec: ImageSpec
    scale: float
    floor: float
    noisy: bool
    shelf: Float[Tensor, "bins voxels"]
    peeled: list[Peeled] = field(default_factory=list)
    members: list[dict[int, float]] = field(default_factory=list)
    addresses: list[list[int]] = field(default_factory=list)
    corrected: set[tuple[int, int]] = field(default_factory=set)

    @classmethod
    def of(
        cls,
        weight: Float[Tensor, "bins voxels_parts_and_bins"],
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
        low = block.ends.double().cpu()
        high = torch.full_like(low, math.inf)
        high[inner] = low[after]

        def in_bins(passed: Tensor) -> Tensor:
            sums = passed.double().cpu()
            return sums.index_put((torch.tensor(inner),), -sums[after], accumulate=True)

        voxels = block.directions.shape[1]
        register = in_bins(weight[:, voxels + block.parts :])
        noise = SURELY * noise_of(register)
        rounding = 16 * torch.finfo(bias.dtype).eps * float(bias.abs().max())
        return cls(
            gradient=weight[:, :voxels],
            totals=in_bins(bias),
            checks=in_bins(weight[:, voxels : voxels + block.parts]),
            register=register,
            block=block,
            low=low,
            high=high,
            groups=groups,
            spec=spec,
            scale=scale,
            floor=max(rounding, noise),
            noisy=noise > rounding,
            shelf=weight.new_empty(len(bias), voxels),
            members=[{} for _ in range(len(bias))],
        )

    @property
    def directions(self) -> Float[Tensor, "measurements voxels"]:
        """Weights of each measurement."""
        return self.block.directions[: len(self.block.groups)]

    @property
    def images(self) -> Float[Tensor, "peeled voxels"]:
        """The records that have been read, normalised."""
        return self.shelf[: len(self.peeled)]

    @property
    def full(self) -> bool:
        """Whether as many records have been read as there are rows, which can tell no more."""
        return len(self.peeled) >= len(self.totals)

    def take(self, record: Peeled, b: int) -> list[int]:
        """Take a record that was read from a bin out of the bins that it lies in.

        If it is one that has been read before, its bins were told wrong: by rounding, a measurement
        may fall on the other side of the end between two bins, one of which then still holds the
        record, the other less than nothing of it; and where clients train for several steps, a
        record may pass a row in some of them only. Then this bin is corrected.

        Returns:
            The bins that change.
        """
        i = self.known(record.image, b)
        if i is None:
            bins = self.address(b) or list(self.bins_of(record.image))
            return self.subtract(record, bins if b in bins else [*bins, b])
        if (i, b) in self.corrected:
            return []
        self.corrected.add((i, b))
        self._count(i, b, record.delta)
        return [b]

    def subtract(self, record: Peeled, bins: Sequence[int]) -> list[int]:
        """Take a record that has not been read before out of its bins; return which they are."""
        place = len(self.peeled)
        self.shelf[place] = record.image
        self.peeled.append(record._replace(image=self.shelf[place]))
        self.addresses.append(list(bins))
        for b in bins:
            self._count(place, b, record.delta)
        return self.addresses[place]

    def measurement_of(self, b: int) -> int:
        """Return by which measurement a bin sorts images."""
        return bisect.bisect(self.groups, b) - 1

    def address(self, b: int) -> list[int]:
        """Return the bins that all records of a bin lie in; empty if the register shows none.

        One measurement has none: all that lies in a bin lies in the same bins.
        """
        if len(self.directions) < 2:
            return []
        entries = self.register[b].abs()
        held = (entries > self.floor).nonzero()[:, 0].tolist()
        measurements = [self.measurement_of(k) for k in held]
        return held if b in held and measurements == list(range(len(self.directions))) else []

    def known(self, image: Float[Tensor, " voxels"], b: int) -> int | None:
        """Return which record that was subtracted from a bin, or one beside it, an image shows."""
        near = {i for held in self.members[max(0, b - 1) : b + 2] for i in held}
        return next((i for i in near if same(image, self.peeled[i].image)), None)

    def _count(self, i: int, b: int, delta: float) -> None:
        """Subtract a record that has been read from a bin, as often as ``delta`` says."""
        self.members[b][i] = self.members[b].get(i, 0.0) + delta
        self.totals[b] -= delta
        self.register[b, self.addresses[i]] -= delta
        self.checks[b] -= delta * self.energy(self.peeled[i].image)

    def holds(self, image: Float[Tensor, " voxels"]) -> bool:
        """Return whether a record has been peeled."""
        return any(same(image, r.image) for r in self.peeled)

    def content(self, b: int) -> Float[Tensor, " voxels"]:
        """Return the sum of ``delta`` times the image over the records that are left in a bin."""
        held = self.gradient[b]
        if b + 1 not in self.groups:
            held = held - self.gradient[b + 1]
        for i, delta in self.members[b].items():
            held = held - delta * self.peeled[i].image
        return held

    def combined(self, factors: Float[Tensor, " bins"]) -> Float[Tensor, " voxels"]:
        """Return the sum of what is left in the bins, each times a factor."""
        inner = torch.tensor([b not in self.groups for b in range(len(factors))])
        rows = factors - factors.roll(1) * inner
        mixed = rows.to(self.gradient) @ self.gradient
        counted = [0.0] * len(self.peeled)
        for held, factor in zip(self.members, factors.tolist(), strict=True):
            for i, delta in held.items():
                counted[i] += delta * factor
        return mixed - mixed.new_tensor(counted) @ self.images

    def slack(self, delta: float, gain: float = 1.0) -> float:
        """Return how far noise, or rounding, may put a record that was read in doubt.

        Args:
            delta: The gradient that it caused.
            gain: How much of the noise of one bin is in what it was read from.
        """
        return min(LOOSEST if self.noisy else BLURRED, gain * self.floor / abs(delta))

    def noise(self, delta: float) -> float:
        """Return the deviation of the noise in what one bin tells of a record's voxels."""
        return self.floor / SURELY / abs(delta) if self.noisy else 0.0

    def doubt(self, b: int) -> float:
        """Return how far a bin is from holding exactly one record; infinite if it holds none.

        It is the greatest difference of a part's energy to the one that the update tells, relative
        to the mean energy of images; infinite if the bin's quotient is no image, or one of another
        bin.
        """
        total = float(self.totals[b])
        if abs(total) <= self.floor:
            return math.inf
        return self.doubt_of(Peeled(self.content(b) / total, total), b, self.checks[b])

    def doubt_of(self, record: Peeled, b: int, check: Float[Tensor, " parts"]) -> float:
        """Return how far what was read of a bin is from being one record.

        Args:
            record: What was read.
            b: The bin.
            check: ``delta`` times the record's energies, as the update tells them.
        """
        image, delta = record.image, record.delta
        slack = EDGE + self.floor / abs(delta)
        measured = float(self.directions[self.measurement_of(b)] @ image)
        inside = self.low[b] - slack <= measured <= self.high[b] + slack
        if not inside or not self.is_image(image):
            return math.inf
        return float((check / delta - self.energy(image)).abs().max()) / self.scale

    def energy(self, image: Float[Tensor, " voxels"]) -> Float[Tensor, " parts"]:
        """Return the energy of each part of an image."""
        return energies(image[None], self.checks.shape[1])[0].double().cpu()

    def bins_of(self, image: Float[Tensor, " voxels"]) -> Iterator[int]:
        """Yield the bin of each measurement that a normalised image falls into, if there is one."""
        measured = (self.block.directions @ image).double().cpu()
        if bool((measured[len(self.block.groups) :] > self.block.reach.cpu()).any()):
            return
        for j, (start, stop) in enumerate(zip(self.groups[:-1], self.groups[1:], strict=True)):
            b = int(torch.searchsorted(self.low[start:stop], measured[j], right=True)) - 1
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
