"""Records that no bin holds alone: where they lie, and how bins combine to each of them.

A record's address is its bin of each measurement. The update tells for any two bins the sum of
``delta`` over the records that they share, which is zero for most pairs. An address at which there
is a record has no such pair; so few addresses come into question, and the sums tell ``delta`` at
each of them. What the bins hold then is ``A Z``, with a row of ``Z`` for each address, the sum of
``delta x`` at it, and with ``A`` known: 1 where a bin belongs to an address. Linear algebra tells
which rows of ``Z`` follow from that. As a rule it is one for each record, with up to 0.9 records a
bin, whether or not any bin holds a record alone.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from medbreach.attacks.bin_table import BinTable, Peeled

MOST: Final = 3  # addresses a bin that come into question; with more, hardly any can be told
MOST_BEGUN: Final = 50  # the same of the first bins of addresses
MOST_IN_ALL: Final = 2048  # addresses; time grows with their cube
ROUNDING: Final = 1e-9  # of the largest eigenvalue: less is taken for zero
LITTLE: Final = 1e-12  # weight of what is known to be wrong
WHOLE: Final = 1e-6  # deviation from 1 of the factor of what is told, at most


def peel_combined(table: BinTable, tolerance: float, noise: float = 0.0) -> list[int]:
    """Read the records that bins combine to; return the bins that change.

    Args:
        table: What is left in the bins.
        tolerance: Doubt up to which what bins combine to is taken to be one record.
        noise: How much more may be due to noise.
    """
    if len(table.directions) < 2:
        return []
    changed: list[int] = []
    for address, delta, factors in _combinations(table):
        if table.full:
            break
        record = Peeled(table.combined(factors) / delta, delta)
        doubt = table.doubt_of(record, address[0], factors @ table.checks)
        allowed = tolerance + noise + table.slack(delta, gain=float(factors.norm()))
        if doubt <= allowed and table.known(record.image, address[0]) is None:
            changed += table.subtract(record._replace(doubt=doubt), address)
    return changed


def _combinations(table: BinTable) -> Iterator[tuple[list[int], float, Float[Tensor, " bins"]]]:
    """Yield addresses, ``delta`` there and factors of the bins; those noise hurts least first."""
    shared, whole = _shared(table)
    found = _possible(shared.abs() > table.floor, table.groups)
    deltas, told = _deltas(shared, found)
    holds = torch.zeros(len(found), len(shared), dtype=shared.dtype).scatter_(1, found, 1)
    explained = (deltas @ holds - table.totals).abs() <= table.floor
    there = ~told | (deltas.abs() > table.floor)
    found, holds = found[there], holds[there] * (explained & whole)
    factors, told = _solution(holds.T)
    deltas = factors @ table.totals
    told &= deltas.abs() > table.floor
    hurt = factors.norm(dim=1) / deltas.abs()
    for k in hurt.where(told, torch.inf).argsort()[: int(told.sum())].tolist():
        yield found[k].tolist(), float(deltas[k]), factors[k]


def _shared(table: BinTable) -> tuple[Float[Tensor, "bins bins"], Bool[Tensor, " bins"]]:
    """Return the sum of ``delta`` over the records that two bins share, and which bins are whole.

    Each of the two tells it. But where clients train for several steps, a record may in some of
    them pass into the bin beside the one that it is registered in. Then the other bins are right.
    """
    register = table.register
    sorts = torch.tensor([table.measurement_of(b) for b in range(len(register))])
    astray = (register.abs() > table.floor) & (sorts[:, None] == sorts)
    astray.fill_diagonal_(fill_value=False)
    whole = ~(astray.any(0) | astray.any(1))
    weight = torch.where(whole, 1.0, LITTLE).to(register)[:, None]
    return (weight * register + weight.T * register.T) / (weight + weight.T), whole


def _possible(
    occupied: Bool[Tensor, "bins bins"], groups: tuple[int, ...]
) -> Int[Tensor, "found measurements"]:
    """Return the addresses whose bins share a record two by two; none if there are too many."""
    found = torch.arange(groups[0], groups[1])[:, None]
    for start, stop in list(pairwise(groups))[1:]:
        which, beside = occupied[found, start:stop].all(1).nonzero(as_tuple=True)
        if len(which) > MOST_BEGUN * len(occupied):
            return found.new_zeros(0, len(groups) - 1)
        found = torch.cat([found[which], start + beside[:, None]], dim=1)
    return found if len(found) <= min(MOST * len(occupied), MOST_IN_ALL) else found[:0]


def _deltas(
    shared: Float[Tensor, "bins bins"], found: Int[Tensor, "found measurements"]
) -> tuple[Float[Tensor, " found"], Bool[Tensor, " found"]]:
    """Return ``delta`` at each address, and whether it follows from what pairs of bins share."""
    pairs = torch.combinations(torch.arange(found.shape[1]))
    cells = found[:, pairs] @ torch.tensor([len(shared), 1])
    cells, places = torch.unique(cells, return_inverse=True)
    belongs = torch.zeros(len(found), len(cells), dtype=shared.dtype).scatter_(1, places, 1)
    factors, told = _solution(belongs.T)
    return factors @ shared.flatten()[cells], told


def _solution(
    sums: Float[Tensor, "sums unknowns"],
) -> tuple[Float[Tensor, "unknowns sums"], Bool[Tensor, " unknowns"]]:
    """Return with which factors sums tell their unknowns, and which unknowns they do tell."""
    inverse = torch.linalg.pinv(sums.T @ sums, rtol=ROUNDING, hermitian=True) @ sums.T
    return inverse, (inverse * sums.T).sum(1) > 1 - WHOLE
