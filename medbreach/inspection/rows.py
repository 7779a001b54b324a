"""Rows of a linear layer, summed up: images have too many pixels to keep whole rows of them."""

from collections.abc import Iterable
from typing import Final, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

COLUMNS: Final = 2048
PARALLEL: Final = 0.98
"""Least cosine of rows that measure the same: noise of 10 % of the weights leaves 0.99; rows that
training made parallel, and a normalisation's biases spread out, reach 0.97."""


class RowTable(NamedTuple):
    """What is known about rows: a sample of their numbers, and sums over all of them.

    Attributes:
        sample: Some columns of the rows.
        norm: Euclidean norm of each row.
        small: Share of each row's numbers below a tenth of its root mean square.
        balance: Sum of each row's numbers, divided by its norm: about normal, with deviation 1, for
            rows of independent numbers.
        total: Number of rows that there are, of which these may be a sample.
    """

    sample: Float[Tensor, "rows columns"]
    norm: Float[Tensor, " rows"]
    small: Float[Tensor, " rows"]
    balance: Float[Tensor, " rows"]
    total: int


def sum_up(parts: Iterable[Tensor], total: int, rng: torch.Generator) -> RowTable:
    """Return what is known about rows that come in parts, each of which is soon forgotten.

    Args:
        parts: Some rows each.
        total: Number of rows that there are.
        rng: Chooses the columns that are kept.
    """
    kept: list[tuple[Tensor, ...]] = []
    columns: Int[Tensor, " columns"] | None = None
    for part in parts:
        if columns is None:
            columns = torch.randperm(part.shape[1], generator=rng)[:COLUMNS]
        norm = part.norm(dim=1).clamp_min(1e-30)
        size = norm[:, None] / part.shape[1] ** 0.5
        small = (part.abs() < 0.1 * size).float().mean(1)
        kept.append((part[:, columns], norm, small, part.sum(1) / norm))
    sample, norm, small, balance = (torch.cat(column) for column in zip(*kept, strict=True))
    return RowTable(sample, norm, small, balance, total)


def cosines(rows: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows rows"]:
    """Return the cosine of each row with each other, and 0 with itself."""
    directions = torch.nn.functional.normalize(rows, dim=1)
    return (directions @ directions.T).fill_diagonal_(0)


def likeness(rows: Float[Tensor, "rows columns"]) -> float:
    """Return the median cosine, without its sign, of rows but for what is common to all of them."""
    directions = torch.nn.functional.normalize(rows, dim=1)
    common = torch.linalg.svd(directions, full_matrices=False).Vh[0]
    own = directions - torch.outer(directions @ common, common)
    above = torch.triu_indices(len(rows), len(rows), 1)
    return float(cosines(own)[above[0], above[1]].abs().median())


def groups(cosine: Float[Tensor, "rows rows"]) -> list[Int[Tensor, " members"]]:
    """Return the rows that measure the same up to factors, those of each measurement together."""
    free: Bool[Tensor, " rows"] = torch.ones(len(cosine), dtype=torch.bool)
    found = []
    alike = cosine.abs() >= PARALLEL
    for k in alike.sum(1).argsort(descending=True).tolist():
        if free[k] and alike[k].any():
            members = alike[k].clone()
            members[k] = True
            members &= free
            free &= ~members
            if members.sum() > 1:
                found.append(members.nonzero().flatten())
    return found


def levels(
    seen: Float[Tensor, "images rows"], cosine: Float[Tensor, "rows rows"], group: Tensor
) -> Float[Tensor, " members"]:
    """Return from where on each row of a group lets images through, sorted.

    The unit is the deviation of what the group measures over the images.
    """
    signs = cosine[group[0], group].sign()
    signs[0] = 1
    deviation, mean = torch.std_mean(seen[:, group], 0)
    return (-signs * mean / deviation.clamp_min(1e-30)).sort().values
