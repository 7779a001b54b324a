"""How many records a set of claims shows, by distance alone, and how many claims show none."""

from typing import Final, NamedTuple

import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from medbreach.types import ImageSpec

AT_ONCE: Final = 16  # claims compared with all records at a time


class Recovery(NamedTuple):
    """How many records are shown.

    Attributes:
        records: Number of records.
        claims: Number of claims.
        shown: Records with a claim of their own of at least so many decibels.
        false: Claims that are not so near to any record.
    """

    records: int
    claims: int
    shown: int
    false: int


def psnr_table(
    claims: Float[Tensor, "claims channels *space"],
    truth: Float[Tensor, "records channels *space"],
    spec: ImageSpec,
) -> Float[Tensor, "claims records"]:
    """Return the peak signal-to-noise ratio of every claim to every record, in dB."""
    records = truth.flatten(1).double()
    rows = [
        torch.stack([(records - claim).square().mean(1) for claim in part.flatten(1).double()])
        for part in torch.split(claims, AT_ONCE)
        if len(part)
    ]
    mse = torch.cat(rows) if rows else records.new_zeros(0, len(truth))
    return 10 * torch.log10(spec.range**2 / mse.clamp_min(1e-12 * spec.range**2))


def recovery(psnr: Float[Tensor, "claims records"], decibels: float) -> Recovery:
    """Return how many records are shown, one claim to a record.

    Args:
        psnr: Of every claim to every record.
        decibels: What counts as showing it.
    """
    near = (psnr >= decibels).numpy()
    rows, columns = linear_sum_assignment(near, maximize=True)
    return Recovery(
        records=near.shape[1],
        claims=near.shape[0],
        shown=int(near[rows, columns].sum()),
        false=int((~near.any(1)).sum()),
    )
