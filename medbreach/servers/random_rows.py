"""Planted rows of random weights: trap weights, and quantile-based biases."""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from medbreach.errors import NotApplicable
from medbreach.servers.modification import Modification
from medbreach.servers.quantiles import AT_ONCE, check_public, measured, normalised, quantiles
from medbreach.servers.secrets import ImprintSecret
from medbreach.types import ImageSpec

SIMULATED: Final = 64
"""Rounds of public images that rows are tried on (ours)."""
ROWS_AT_ONCE: Final = 64
"""Candidates for rows that are drawn and measured together."""
FITTED_ROWS: Final = 256
"""Rows that trap weights' scale is fitted to, at most."""
FORKS_SCALE: Final = 0.01
"""Ratio of the halves of each row's weights in the DKFZ fork of breaching."""


class RowsBlock(nn.Module):
    """Rectified rows on the flat image whose mean is added to it, or that a dense layer follows.

    Attributes:
        structure: Each row sees records of its own, in breaching's words.
        linear0: The rows.
        outgoing: Factor of what is added.
    """

    structure = "sparse"

    def __init__(self, shape: tuple[int, ...], rows: int, connection: str) -> None:
        super().__init__()
        self.shape = shape
        self.linear0: nn.Linear = nn.utils.skip_init(  # type: ignore[no-untyped-call]
            nn.Linear, math.prod(shape), rows
        )
        self.outgoing = 1.0
        if connection == "linear":
            self.linear2 = nn.Linear(rows, math.prod(shape))
            nn.init.ones_(self.linear2.weight)
            nn.init.zeros_(self.linear2.bias)

    def forward(self, images: Float[Tensor, "n channels *space"]) -> Tensor:
        """Return images of the same shape."""
        rows: Tensor = self.outgoing * self.linear0(images.flatten(1)).relu()
        if hasattr(self, "linear2"):
            shown: Tensor = self.linear2(rows).unflatten(1, self.shape)
            return shown
        return images + rows.mean(1).reshape(-1, *[1] * len(self.shape))


@torch.no_grad()
def trap_weights(
    chosen: Modification,
    spec: ImageSpec,
    public: Float[Tensor, "public channels *space"],
    rng: torch.Generator,
) -> tuple[RowsBlock, Callable[[str], ImprintSecret]]:
    """Return a block with trap weights (Boenisch et al. 2021, arXiv:2112.02918).

    A random half of each row's weights is negative, the other half the same numbers, positive and
    scaled. They are for intensities from 0 to 1, so the block undoes the normalisation that clients
    apply.

    Raises:
        NotApplicable: The scale is to be fitted and there are too few public images, or all are
            black.
    """
    block = RowsBlock(spec.shape, chosen.num_bins, chosen.connection)
    weight, bias = block.linear0.weight, block.linear0.bias
    voxels = weight.shape[1]
    half = voxels // 2
    factor, offset = _undoing_normalisation(spec)
    is_fitted = chosen.scale_factor is None and not chosen.legacy_dkfz
    if is_fitted:
        check_public(public)
    positive = torch.zeros(len(weight), voxels, dtype=torch.bool)
    for k in range(len(weight)):  # one after the other: indices take more memory than weights
        order = torch.randperm(voxels, generator=rng)
        drawn = chosen.sigma * torch.randn(half, generator=rng)
        drawn = drawn if chosen.legacy_dkfz else -drawn.abs()
        weight[k] = 0
        weight[k, order[:half]] = drawn
        weight[k, order[half : 2 * half]] = -drawn
        positive[k, order[half:]] = True
    scale = FORKS_SCALE if chosen.scale_factor is None else chosen.scale_factor
    if is_fitted:
        some = slice(FITTED_ROWS)  # all are drawn alike
        scale = _fitted_scale(*_halves(weight[some], positive[some], spec, public), chosen)
    for row, scaled in zip(weight, positive, strict=True):
        row[scaled] *= scale
    bias[:] = chosen.mu + weight @ offset
    weight *= factor
    if not chosen.legacy_dkfz:
        _limit_output(block, spec, public, chosen.gain)
    return block, ImprintSecret.maker(block.structure)


def _halves(
    weight: Float[Tensor, "rows voxels"],
    positive: Bool[Tensor, "rows voxels"],
    spec: ImageSpec,
    public: Float[Tensor, "public channels *space"],
) -> tuple[Float[Tensor, "rows public"], Float[Tensor, "rows public"]]:
    """Return what the negative and the positive half of each row make of public images."""
    down, up = torch.zeros(2, len(weight), len(public))
    for start in range(0, len(public), AT_ONCE):
        few = slice(start, start + AT_ONCE)
        shown = _from_0_to_1(spec, public[few])
        for k, (row, above) in enumerate(zip(weight, positive, strict=True)):
            up[k, few] = shown @ row.where(above, 0)
            down[k, few] = shown @ row.where(~above, 0)
    return down, up


def _fitted_scale(
    down: Float[Tensor, "rows public"], up: Float[Tensor, "rows public"], chosen: Modification
) -> float:
    """Return the ratio of the halves at which a row lets one of n public images through.

    Args:
        down: What the negative half of each row makes of each image.
        up: What the positive half does before it is scaled.
        chosen: The block's settings.

    Raises:
        NotApplicable: All images are black.
    """
    seen = up > 1e-6 * up.max()  # a black image gets through at every scale, or at none
    if not seen.any():
        raise NotApplicable(
            "trap weights cannot be fitted to public images that are all black: give others, or "
            "set case.server.model_modification.scale_factor"
        )
    opening = -(down[seen] + chosen.mu) / up[seen]
    return float(quantiles(opening, [1 / chosen.expected_records]))


@torch.no_grad()
def quantile_biases(
    chosen: Modification,
    spec: ImageSpec,
    public: Float[Tensor, "public channels *space"],
    rng: torch.Generator,
) -> tuple[RowsBlock, Callable[[str], ImprintSecret]]:
    """Return a block of random rows that each let one of n records through (arXiv:2406.18745).

    The bias of a row is minus the quantile of its measurement at ``1 - 1/n``: of public images, or
    of independent normal voxels, as the paper has it.

    Raises:
        NotApplicable: Public images are needed and there are too few.
    """
    n = chosen.expected_records
    block = RowsBlock(spec.shape, chosen.num_bins, chosen.connection)
    weight, bias = block.linear0.weight, block.linear0.bias
    seeds = torch.randint(2**62, (chosen.num_bins * chosen.pairs,), generator=rng).tolist()
    normal = math.sqrt(weight.shape[1]) * chosen.sigma * NormalDist().inv_cdf(1 - 1 / n)
    limits = torch.full((len(seeds),), normal)
    kept = list(range(len(seeds)))
    if chosen.calibrate or chosen.pairs > 1:
        check_public(public)
        values = torch.cat(
            [
                measured(
                    spec, public, _rows(seeds[k : k + ROWS_AT_ONCE], weight.shape[1], chosen)
                ).T
                for k in range(0, len(seeds), ROWS_AT_ONCE)
            ]
        )
        if chosen.calibrate:
            limits = torch.stack([quantiles(own, [1 - 1 / n])[0] for own in values])
        if chosen.pairs > 1:
            kept = isolating(values > limits[:, None], chosen.num_bins, n, rng)
    for k, candidate in enumerate(kept):  # drawn again: all candidates together are too large
        weight[k] = _rows([seeds[candidate]], weight.shape[1], chosen)[0]
        bias[k] = -limits[candidate]
    _limit_output(block, spec, public, chosen.gain)
    return block, ImprintSecret.maker(block.structure)


def isolating(
    fires: Bool[Tensor, "candidates public"], rows: int, records: int, rng: torch.Generator
) -> list[int]:
    """Return the rows that together isolate the most records of simulated rounds.

    Rows are chosen one after the other, each time the one that adds the most records that it alone
    of its round gets through.

    Args:
        fires: Which candidate lets which public image through.
        rows: Number of rows to keep.
        records: Number of records in a round.
        rng: The server's randomness.
    """
    public = fires.shape[1]
    size = min(records, public)
    rounds = torch.stack([torch.randperm(public, generator=rng)[:size] for _ in range(SIMULATED)])
    inside = fires[:, rounds]
    alone = (inside & (inside.sum(2, keepdim=True) == 1)).flatten(1)
    missing = torch.ones(alone.shape[1], dtype=torch.bool)
    most, kept = alone.sum(1), list[int]()  # what each may add: never less than what it does
    for _ in range(rows):
        best = int(most.argmax())
        while (gain := int((alone[best] & missing).sum())) < most[best]:
            most[best] = gain
            best = int(most.argmax())
        kept.append(best)
        missing &= ~alone[best]
        if not missing.any() or not gain:
            missing |= True  # every record is covered: cover them once more
            most = alone.sum(1)
        most[kept] = -1
    return kept


def _rows(seeds: list[int], voxels: int, chosen: Modification) -> Float[Tensor, "rows voxels"]:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return chosen.sigma * torch.stack([torch.randn(voxels, generator=g) for g in generators])


def _limit_output(
    block: RowsBlock, spec: ImageSpec, public: Float[Tensor, "public channels *space"], gain: float
) -> None:
    """Scale what the block gives so that it has the size ``gain`` over public images.

    Its size is its deviation, or its mean if that is larger. Otherwise it can be so large that the
    network is sure of a record's class, whose gradient is then zero.
    """
    if len(public) < 2:
        return
    few = normalised(spec, public)
    given = torch.cat([block.linear0(images.flatten(1)).relu().mean(1) for images in few])
    largest = max(float(given.std()), float(given.mean()))
    if largest > 0:
        block.outgoing = gain / largest
    if hasattr(block, "linear2"):
        block.outgoing /= block.linear0.out_features


def _from_0_to_1(spec: ImageSpec, images: Float[Tensor, "n channels *space"]) -> Tensor:
    return ((images - spec.bounds[0]) / spec.range).flatten(1)


def _undoing_normalisation(spec: ImageSpec) -> tuple[Tensor, Tensor]:
    """Return factor and offset that take a flat normalised image to intensities from 0 to 1."""
    zero, one = torch.zeros(1, *spec.shape), torch.ones(1, *spec.shape)
    offset = _from_0_to_1(spec, spec.denormalise(zero))[0]
    return _from_0_to_1(spec, spec.denormalise(one))[0] - offset, offset
