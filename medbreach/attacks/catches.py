"""What rounds with a fishing last layer hold: the gradients of few records.

Source: ours, after Wen et al. 2022, arXiv:2202.00580, whose binary search takes differences too.
"""

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from medbreach.errors import NotApplicable
from medbreach.servers.fishing import FishingSecret
from medbreach.types import Change, Exchange, Round, Update

LEAST: Final = 0.02
"""A sum of less than this many records is rounding, or a neighbour's that its cut lets through."""

SLACK: Final = 10.0
"""How far from a cut, in reciprocals of its steepness, a record may lie on the wrong side."""

SAME: Final = 0.01
"""Relative distance below which two catches' features are one record's."""

MIXING: Final = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
"""Layers that make a record's gradient depend on other records or on the round in training mode."""


class FishedRound(NamedTuple):
    """What one round says in the last layer's target row.

    Attributes:
        played: The round.
        secret: What the server planted in it.
        scale: Factor that makes a gradient of the update.
        row: Gradient of the target's weights.
        bias: Gradient of its bias: the records below the cut less those of the target class, over
            the number of records.
    """

    played: Round
    secret: FishingSecret
    scale: float
    row: Float[Tensor, " features"]
    bias: float

    def change(self, name: str) -> Tensor:
        """Return the gradient of one parameter."""
        return self.scale * self.played.update.change[name]


@dataclass(frozen=True)
class Catch:
    """A sum over few records: one round's gradient, or one's less another's.

    Attributes:
        above: The round, or that with the higher cut.
        below: The round with the lower cut, if it is a difference.
        low: Least fished feature that its records can have.
        high: Greatest one.
        records: How many records it sums over; not a whole number where a cut goes through one.
        sure: Whether that is known, and not only the likeliest reading.
        label: Class of its records, if that is known.
    """

    above: FishedRound
    below: FishedRound | None
    low: float
    high: float
    records: float
    sure: bool
    label: int | None

    @property
    def weight(self) -> float:
        """Gradient of the target's bias, which all other gradients are divided by."""
        return self.above.bias - (0.0 if self.below is None else self.below.bias)

    @property
    def features(self) -> Float[Tensor, " features"]:
        """Mean of what the last layer got for the records."""
        row = self.above.row if self.below is None else self.above.row - self.below.row
        return row / self.weight

    @property
    def plausible(self) -> bool:
        """Whether the mean fished feature lies where its records' must lie."""
        secret, features = self.above.secret, self.features
        if not features.norm() > 1e-6:  # no feature of the record is on, so it has no gradient
            return False
        mean = float(features @ secret.direction.to(features))
        slack = SLACK / secret.multiplier
        return self.low - slack <= mean <= self.high + slack

    def mean_gradient(self, name: str) -> Tensor:
        """Return the gradient of the mean fished feature by a parameter before the last layer."""
        change = self.above.change(name)
        if self.below is not None:
            change = change - self.below.change(name)
        return change / (-self.above.secret.multiplier * self.weight)


@dataclass(frozen=True)
class Told:
    """What is known of the records of a round.

    Attributes:
        count: Their number, or None.
        labels: Their classes, or None.
    """

    count: int | None
    labels: list[int] | None

    def of(self, target: int) -> int:
        """Return the number of records of a class; 0 where it is not known."""
        return (self.labels or []).count(target)

    def of_others(self, target: int) -> int:
        """Return the number of records of other classes; 0 where it is not known."""
        return len(self.labels or ()) - self.of(target)

    def only(self, *, without: int | None = None) -> int | None:
        """Return the records' class if they are all of one; those of another class left out."""
        classes = set(self.labels or ()) - {without}
        return classes.pop() if len(classes) == 1 else None


def land(exchange: Exchange, most: int) -> list[Catch]:
    """Return what the rounds hold of few records at a time, each record once.

    Args:
        exchange: What the server saw.
        most: Greatest number of records in a catch.

    Raises:
        NotApplicable: The server planted nothing of this kind, the clients do not train the layer,
            or the updates are no gradients.
    """
    rounds = [_read(played) for played in exchange.rounds if _fished(played)]
    if not rounds:
        raise NotApplicable(
            "clsattack reads a last layer that the server made for fishing: choose such a server, "
            "as case/server=malicious-fishing"
        )
    told = _told(rounds[0].played.update)
    seen = [catch for alike in _alike(rounds) for catch in _sums(alike, told)]
    if told.count is None:
        seen = _counted_by_the_least(seen)
    seen = [catch for catch in seen if LEAST < catch.records < most + 0.5 and catch.plausible]
    seen.sort(key=lambda one: (not one.sure, one.below is None, abs(one.records - 1)))
    return _distinct(seen)


def _fished(played: Round) -> bool:
    return isinstance(played.secret, FishingSecret)


def _read(played: Round) -> FishedRound:
    secret, update = played.secret, played.update
    weight, bias = f"{secret.layer}.weight", f"{secret.layer}.bias"
    if weight not in update.change or bias not in update.change:
        raise NotApplicable(f"the update holds no change of {weight} and its bias")
    if played.training and any(isinstance(m, MIXING) for m in played.model.modules()):
        raise NotApplicable(
            "the clients ran the network in training mode, where batch normalisation mixes records "
            "and dropout differs from round to round: set case.server.provide_public_buffers=true"
        )
    scale = _scale(update)
    row = scale * update.change[weight][secret.target]
    return FishedRound(
        played, secret, scale, row, scale * float(update.change[bias][secret.target])
    )


def _scale(update: Update) -> float:
    if update.kind is Change.GRADIENT:
        return 1.0
    if update.recipe is None:
        return -1.0
    if update.recipe.steps > 1:
        raise NotApplicable(
            "fishing is for gradients: the clients took several local steps, and the first one "
            "changes what the server planted"
        )
    return -1 / update.recipe.lr


def _told(update: Update) -> Told:
    count = update.count
    if update.kind is Change.DIFFERENCE:
        recipe = update.recipe
        count = None if recipe is None else recipe.records_per_step * update.clients
    labels = None if update.labels is None else update.labels.tolist()
    return Told(count, labels if labels is not None and len(labels) == count else None)


def _alike(rounds: Sequence[FishedRound]) -> list[list[FishedRound]]:
    """Return the rounds whose differences mean something together, by rising cut."""
    groups: dict[tuple[object, ...], list[FishedRound]] = {}
    for one in rounds:
        groups.setdefault(_key(one), []).append(one)
    return [sorted(group, key=lambda one: one.secret.cut) for group in groups.values()]


def _key(one: FishedRound) -> tuple[object, ...]:
    secret = one.secret
    return (secret.layer, secret.target, secret.multiplier, *secret.direction.tolist())


def _sums(alike: Sequence[FishedRound], told: Told) -> Iterator[Catch]:
    count = told.count or 1
    for below, above in itertools.pairwise(alike):
        records = count * (above.bias - below.bias)
        label = told.only()
        yield Catch(above, below, below.secret.cut, above.secret.cut, records, True, label)
    if told.labels is None:
        yield from _alone_by_sign(alike, count)
        return
    for one in {id(end): end for end in (alike[0], alike[-1])}.values():
        yield from _alone(one, told)


def _alone(one: FishedRound, told: Told) -> Iterator[Catch]:
    """Yield what a round shows by itself, if it is the records on one side of its cut alone.

    Its sum has the records below the cut with weight 1 and those of the target class with -1.
    """
    cut, target = one.secret.cut, one.secret.target
    of_target, others = told.of(target), told.of_others(target)
    total = (of_target + others) * one.bias
    if of_target == 0 or abs(total - others) < 0.5:
        yield Catch(one, None, -math.inf, cut, total, True, told.only(without=target))
    if others == 0 or abs(total + of_target) < 0.5:
        yield Catch(one, None, cut, math.inf, -total, True, target)


def _alone_by_sign(alike: Sequence[FishedRound], count: int) -> Iterator[Catch]:
    """Yield what the outermost rounds show if no two of them differ in sign.

    Without labels that is the likeliest reading: all records are of the target class, or none.
    """
    low, high = alike[0], alike[-1]
    biases = [one.bias for one in alike]
    negligible = LEAST * max(map(abs, biases))
    if min(biases) > -negligible:
        total = count * low.bias
        yield Catch(low, None, -math.inf, low.secret.cut, total, False, None)
    if max(biases) < negligible:
        sure = math.isinf(high.secret.cut)  # class fishing
        total = count * high.bias
        yield Catch(high, None, high.secret.cut, math.inf, -total, sure, high.secret.target)


def _counted_by_the_least(seen: Sequence[Catch]) -> list[Catch]:
    """Return catches with records counted as if the lightest one were a single record's.

    What is far lighter than most is no record's whole weight: a cut goes through that one.
    """
    weights = [abs(catch.weight) for catch in seen]
    weights = [weight for weight in weights if weight > LEAST * max(weights)]
    usual = statistics.median(weights) if weights else 1.0
    least = min((weight for weight in weights if weight > usual / 4), default=1.0)
    return [replace(catch, records=catch.records / least, sure=False) for catch in seen]


def _distinct(seen: Sequence[Catch]) -> list[Catch]:
    """Return the catches without those of records that were caught before."""
    kept: list[Catch] = []
    for catch in seen:
        if not any(_repeats(catch, other) for other in kept):
            kept.append(catch)
    return kept


def _repeats(catch: Catch, other: Catch) -> bool:
    """Return whether a catch is the same record as another, or may share one with it."""
    if catch.records > 1.5:
        alike = _key(catch.above) == _key(other.above)
        return alike and catch.low < other.high and other.low < catch.high
    own = catch.features
    return bool((own - other.features).norm() < SAME * own.norm())
