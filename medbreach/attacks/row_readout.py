"""Rows of a linear layer's gradient that one record of a batch alone went through."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from medbreach.attacks.image_layer import Gradient, ImageLayer
from medbreach.attacks.simulation import check
from medbreach.attacks.span import Span
from medbreach.types import UNKNOWN, Change, Exchange, Reconstruction

SAME: Final = 1e-3  # of the intensities' range, root mean square: rows that say the same
ANOTHER: Final = 0.02  # of the same: images that may both be records
MARGIN: Final = 0.02  # of the range, by which an image may leave the bounds
LEFT: Final = 1e-3  # of what went through a row: less is rounding
FITS: Final = 0.03  # greatest residual of a record
EXACT: Final = 1e-4  # greatest residual of a record that can be taken off without a trace
FULL: Final = 1e-3  # by which a record's share of the batch may differ from one over its size
AT_A_TIME: Final = 64  # images
CONFIRMED, LIKELY, PLAUSIBLE = 1.0, 0.5, 0.1


@dataclass
class Rows:
    """A layer's gradient in coordinates of its span, from which records can be taken off.

    Attributes:
        weight: Change of the weight.
        bias: Change of the bias.
        size: What went through each row, taken off or not.
    """

    weight: Float[Tensor, "rows rank"]
    bias: Float[Tensor, " rows"]
    size: Float[Tensor, " rows"]

    def quotients(self) -> tuple[Int[Tensor, " n"], Float[Tensor, "n rank"]]:
        """Return the rows where something is left, and what they give for the layer's input."""
        index = (self.bias.abs() > LEFT * self.size).nonzero().flatten()
        return index, self.weight[index] / self.bias[index, None]

    def take_off(self, record: "Fitting") -> None:
        """Take a record off every row that it went through."""
        self.weight.addr_(record.amounts, record.inputs, alpha=-1)
        self.bias -= record.amounts
        self.size += record.amounts.abs()


@dataclass(frozen=True)
class Candidates:
    """Inputs of the layer that rows speak for.

    Attributes:
        rows: One of the rows that speak for each.
        inputs: The inputs, in coordinates of the span.
        votes: How many rows speak for each.
    """

    rows: Int[Tensor, " n"]
    inputs: Float[Tensor, "n rank"]
    votes: Int[Tensor, " n"]

    def __getitem__(self, chosen: Tensor) -> "Candidates":
        return Candidates(self.rows[chosen], self.inputs[chosen], self.votes[chosen])


class Fitting(NamedTuple):
    """An input that rows speak for and that the network gives such a gradient for.

    It need not be a record: with two classes a mixture that goes through the same rows as a record
    fits as well. Its share of the batch tells them apart.

    Attributes:
        inputs: The layer's input, in coordinates of the span.
        label: Its class.
        amounts: Its share of the bias's change.
        residual: How much of the latter the network gives that the update does not have.
        votes: How many rows speak for it.
        is_one: Whether its share is that of one record in a gradient of the batch's mean loss.
        is_exact: Whether it can be taken off. After several local steps it cannot, and neither can
            what one row alone speaks for, if its share is not that of one record.
    """

    inputs: Float[Tensor, " rank"]
    label: int
    amounts: Float[Tensor, " rows"]
    residual: float
    votes: int
    is_one: bool
    is_exact: bool


@dataclass(frozen=True)
class Reader:
    """Reads records off rows.

    Attributes:
        exchange: What the server saw.
        layer: The layer.
        span: Its gradient's span.
        count: Number of records.
    """

    exchange: Exchange
    layer: ImageLayer
    span: Span
    count: int

    @property
    def unit(self) -> float:
        """Distance of two inputs whose images are the intensities' range apart, on average."""
        code = self.layer.code
        return float((code.white - code.black).norm())

    def images(self, inputs: Float[Tensor, "n rank"]) -> Float[Tensor, "n channels *space"]:
        """Return images, in the spec's unit, from coordinates in the span."""
        return self.layer.code.images(inputs @ self.span.right, self.exchange.spec)

    def candidates(self, rows: Rows, known: Float[Tensor, "known rank"]) -> Candidates:
        """Return the distinct inputs that rows speak for and that are images, most votes first."""
        index, inputs = rows.quotients()
        near = torch.cdist(inputs, inputs) < SAME * self.unit
        new = (torch.cdist(inputs, known) >= ANOTHER * self.unit).all(1)
        votes = near.sum(1)
        chosen: list[int] = []
        for k in votes.argsort(descending=True, stable=True).tolist():
            if bool(new[k]):
                chosen.append(k)
                new &= ~near[k]
        picked = torch.tensor(chosen, dtype=torch.long, device=index.device)
        found = Candidates(index[picked], inputs[picked], votes[picked])
        return found[self._within_bounds(found.inputs)]

    def fitting(self, rows: Rows, found: Candidates) -> list[Fitting]:
        """Return the candidates that fit in, the best of those that are much the same."""
        kept: list[Fitting] = []
        fits = self._fits(rows, found)
        for one in sorted(fits, key=lambda f: (not f.is_exact, not f.is_one, -f.votes, f.residual)):
            there = [float((one.inputs - other.inputs).norm()) for other in kept]
            if all(distance >= ANOTHER * self.unit for distance in there):
                kept.append(one)
        return kept

    def _fits(self, rows: Rows, found: Candidates) -> Iterator[Fitting]:
        sign = -1 if self.exchange.update.kind is Change.DIFFERENCE else 1
        for part in torch.split(torch.arange(len(found.rows)), AT_A_TIME):
            some = found[part]
            images = self.images(some.inputs).clamp(*self.exchange.spec.bounds)
            signs = some.rows, sign * rows.bias[some.rows]
            fit = check(self.exchange, self.layer.name, images, self.span.left, signs)
            for k in (fit.residual < FITS).nonzero().flatten().tolist():
                delta, residual, votes = fit.deltas[k], float(fit.residual[k]), int(some.votes[k])
                share = float(rows.bias[some.rows[k]] / delta[some.rows[k]])
                is_one = sign > 0 and abs(share * self.count - 1) < FULL
                yield Fitting(
                    some.inputs[k],
                    int(fit.labels[k]),
                    share * delta,
                    residual,
                    votes,
                    is_one,
                    (is_one or votes > 1) and residual < EXACT,
                )

    def _within_bounds(self, inputs: Float[Tensor, "n rank"]) -> Tensor:
        spec, margin = self.exchange.spec, MARGIN * self.exchange.spec.range
        within = [torch.zeros(0, dtype=torch.bool, device=inputs.device)]
        for part in torch.split(inputs, AT_A_TIME):
            images = self.images(part).flatten(1)
            low, high = images.amin(1), images.amax(1)
            within.append((low > spec.bounds[0] - margin) & (high < spec.bounds[1] + margin))
        return torch.cat(within)


def records_in_rows(
    exchange: Exchange, layer: ImageLayer, gradient: Gradient, span: Span, count: int
) -> Reconstruction:
    """Return the records that rows give away, at most as many as there are.

    Those that fit the network come first, then what several rows agree on, then single rows that
    give an image, each as far from those before as can be: mixtures lie between records. Confirmed
    is what has the share of one record, and all if they leave nothing.

    Args:
        exchange: What the server saw.
        layer: The layer that takes the image.
        gradient: Its gradient, bias included.
        span: The span of its weight's gradient.
        count: Number of records.
    """
    assert gradient.bias is not None
    span = span.leading(span.clear_rank() or count)
    reader = Reader(exchange, layer, span, count)
    bias = gradient.bias.clone()
    rows = Rows(gradient.weight @ span.right.T, bias, bias.abs())
    known, fitting = rows.weight[:0], list[Fitting]()
    live = int((bias != 0).sum()) / len(exchange.rounds)
    while len(known) < count and 2 * len(span.values) <= live:
        found = reader.fitting(rows, reader.candidates(rows, known))
        exact = [one for one in found if one.is_exact]
        new = (exact or found)[: count - len(known)]
        known = torch.cat([known, *(one.inputs[None] for one in new)])
        fitting += new
        for one in new:
            if one.is_exact:
                rows.take_off(one)
        if not exact:
            break
    rest = _most_different(reader.candidates(rows, known), known, count - len(known))
    explained = len(fitting) == count and not len(rows.quotients()[0])
    confirmed = [one.is_exact and (one.is_one or explained) for one in fitting]
    labels = [one.label if sure else UNKNOWN for one, sure in zip(fitting, confirmed, strict=True)]
    fitted = torch.tensor([CONFIRMED if sure else LIKELY for sure in confirmed])
    return Reconstruction(
        reader.images(torch.cat([known, rest.inputs])),
        torch.tensor(labels + [UNKNOWN] * len(rest.rows)) if any(confirmed) else None,
        torch.cat([fitted, torch.where(rest.votes > 1, LIKELY, PLAUSIBLE).cpu()]),
    )


def _most_different(
    found: Candidates, known: Float[Tensor, "known rank"], count: int
) -> Candidates:
    """Return candidates: those with several votes, then the farthest from what is there so far."""
    chosen = (found.votes > 1).nonzero().flatten()[:count].tolist()
    left = (found.votes == 1) if len(chosen) < count else torch.zeros_like(found.votes).bool()
    while len(chosen) < count and bool(left.any()):
        there = torch.cat([known, found.inputs[chosen]])
        middle = found.inputs.mean(0, keepdim=True)
        apart = torch.cdist(found.inputs, there if len(there) else middle).amin(1)
        farthest = int(apart.masked_fill(~left, -1).argmax())
        chosen.append(farthest)
        left[farthest] = False
    return found[torch.tensor(chosen, dtype=torch.long, device=found.rows.device)]
