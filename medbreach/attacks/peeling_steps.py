"""Reading records one by one out of a planted layer's bins."""

import heapq
import math
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from medbreach.attacks.addresses import peel_combined
from medbreach.attacks.bin_table import SAME, BinTable, Peeled


def peel(table: BinTable, tolerance: float, noise: float = 0.0) -> None:
    """Read record after record, from bins of one and, where there is none, from several.

    Under noise several bins come first: together they tell a record better than one does.

    Args:
        table: What is left in the bins.
        tolerance: Doubt up to which a bin is taken to hold one record.
        noise: How much more may be due to noise, where the register tells that there is one.
    """
    changed: Iterable[int] = range(len(table.totals))
    if table.noisy:
        peel_combined(table, tolerance, noise)
    while changed:
        _peel_single(table, changed, tolerance, noise)
        changed = peel_combined(table, tolerance, noise)


def _peel_single(
    table: BinTable, bins: Iterable[int], tolerance: float, noise: float = 0.0
) -> None:
    """Read record after record, always from the bin that is least in doubt.

    Args:
        table: What is left in the bins.
        bins: Those that may hold one record; others may once a record is taken from them.
        tolerance: Doubt up to which a bin is taken to hold one record.
        noise: How much more may be due to noise, where the register tells that there is one.
    """

    def is_one(b: int) -> bool:
        doubt = current[b]
        if math.isinf(doubt):
            return False
        allowed = tolerance + noise + table.slack(float(table.totals[b]))
        return doubt <= tolerance or (doubt <= allowed and bool(table.address(b)))

    current = {b: table.doubt(b) for b in bins}
    queue = [(doubt, b) for b, doubt in current.items() if is_one(b)]
    heapq.heapify(queue)
    while queue and not table.full:
        doubt, b = heapq.heappop(queue)
        if current[b] != doubt:
            continue
        record = Peeled(table.content(b) / table.totals[b], float(table.totals[b]), doubt)
        for changed in table.take(record, b):
            current[changed] = table.doubt(changed)
            if is_one(changed):
                heapq.heappush(queue, (current[changed], changed))


def peel_beside(
    table: BinTable,
    known: Sequence[Float[Tensor, " voxels"]],
    tolerance: float,
    noise: float = 0.0,
) -> None:
    """Read on with records that another round gave away.

    A bin that holds nothing else gives away each one's ``delta``. One that holds a known and an
    unknown record gives both away: with ``W``, ``B`` and ``H`` the bin's sums of ``delta x``,
    ``delta`` and ``delta e(x)``, and ``x`` the known record, ``delta (H + e(x) B - 2 <W, x>) =
    H B - e(W)`` for each part of the image.

    Args:
        table: What is left in the bins.
        known: Normalised images, flat.
        tolerance: Doubt up to which what is left of a bin is taken to be one record.
        noise: How much more may be due to noise, where the register tells that there is one.
    """
    waiting = [image for image in known if not table.holds(image)]
    progress = True
    while waiting and progress and not table.full:
        inside: dict[int, list[Tensor]] = {}
        for image in waiting:
            for b in table.bins_of(image):
                inside.setdefault(b, []).append(image)
        progress = any(_solve(table, b, images) for b, images in inside.items())
        progress = progress or any(
            _resolve(table, images[0], b, tolerance)
            for b, images in inside.items()
            if len(images) == 1
        )
        peel(table, tolerance, noise)
        waiting = [image for image in waiting if not table.holds(image)]


def _solve(table: BinTable, b: int, images: Sequence[Float[Tensor, " voxels"]]) -> bool:
    """Subtract known records if they are all that a bin holds; return whether they are."""
    if len(table.peeled) + len(images) > len(table.totals):
        return False
    held, shown = table.content(b).double(), torch.stack(list(images)).double()
    deltas = torch.linalg.lstsq(shown @ shown.T, (shown @ held)[:, None]).solution[:, 0]
    size = float(deltas.abs().sum())
    energies = torch.stack([table.energy(image) for image in images])
    wrong = (
        float((held - deltas @ shown).square().mean().sqrt()) / table.scale**0.5,
        abs(float(table.totals[b] - deltas.sum())),
        float((table.checks[b] - deltas.cpu() @ energies).abs().max()) / table.scale,
    )
    if max(wrong) > SAME * size or float(deltas.abs().min()) <= table.floor:
        return False
    for image, delta in zip(images, deltas.tolist(), strict=True):
        table.subtract(Peeled(image, delta), list(table.bins_of(image)))
    return True


def _resolve(table: BinTable, image: Float[Tensor, " voxels"], b: int, tolerance: float) -> bool:
    """Subtract a known record whose ``delta`` a bin gives away; return whether it does."""
    if abs(table.totals[b]) <= table.floor:
        return False
    delta = _delta_beside_one(table, image, b)
    left = float(table.totals[b]) - delta
    if not min(abs(delta), abs(left)) > table.floor:
        return False
    rest = Peeled((table.content(b) - delta * image) / left, left)
    doubt = table.doubt_of(rest, b, table.checks[b] - delta * table.energy(image))
    if doubt > tolerance:
        return False
    table.subtract(Peeled(image, delta, doubt), list(table.bins_of(image)))
    return True


def _delta_beside_one(table: BinTable, image: Float[Tensor, " voxels"], b: int) -> float:
    """Return the ``delta`` of a known record if its bin holds one record besides."""
    held, total = table.content(b), float(table.totals[b])
    own, mixed = table.energy(image), table.energy(held)
    both = (table.energy(held + image) - own - mixed) / 2
    factor = table.checks[b] + own * total - 2 * both
    wanted = table.checks[b] * total - mixed
    square = float(factor.square().sum())
    return float((factor * wanted).sum()) / square if square > 0 else math.nan
