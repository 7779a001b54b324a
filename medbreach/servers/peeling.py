"""A planted layer that can be decoded like an invertible Bloom lookup table.

Several measurements sort the records of a round into bins, each measurement into bins of its own.
The difference of two neighbouring rows of the update is what one bin holds: the sum over its
records of ``d x`` and of ``d``, where ``d`` is the gradient that reaches the layer's output. All
rows lead to the output in the same way, so a record's ``d`` is the same in every bin that it lies
in, and a record that has been read from one bin can be subtracted from its bins of the other
measurements.

Whether a bin holds one record or a mixture shows a checksum: beside the image the rows take the
energy (mean square) of its parts, with weight zero, so that the update holds the sum of ``d`` times
the records' energies too. The energy of a mixture of different images is not the mixture of their
energies.

Which bins hold the same record shows a register: the rows also take in which of the bins an image
lies, with weight zero again. So the update tells for any two bins the sum of ``d`` over the records
that lie in both; few records do, so that each one's bins and its ``d`` can be told from it.

No more records than rows can be told. Where more are expected, those that measure high in one more
direction pass no row at all, so that the others can be read.

Measurements and thresholds are fixed. The rows' own weights and biases, which clients train, start
at zero: a change of weights then keeps the precision of a gradient, however small the steps.
"""

import math
from collections.abc import Callable
from itertools import accumulate
from typing import Final, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medbreach.errors import NotApplicable
from medbreach.servers.modification import Modification
from medbreach.servers.quantiles import AT_ONCE, check_public, normalised, quantiles
from medbreach.types import ImageSpec

LEAST_PUBLIC: Final = 8
"""Public images that several uncorrelated measurements are fitted to, at least (ours)."""
LEAST_SPREAD: Final = 1e-3
"""Of a measurement's deviation, the part that earlier ones do not explain, at least (ours)."""
MOST_A_ROW: Final = 0.85
"""Expected records a row that all pass (ours); with more, decoding comes to a halt."""
SAFE_A_ROW: Final = 0.75
"""Records a row that pass of more (ours): how many do is a matter of chance."""
CLOSED: Final = -1e4
"""What a row that a record is kept from measures of it; local steps change it by far less."""


class PeelingSecret(NamedTuple):
    """What the server remembers of the layer.

    Attributes:
        block: Name of the planted module.
        weight: Name of the layer's weight parameter.
        bias: Name of its bias parameter.
    """

    block: str
    weight: str
    bias: str


class PeelingBlock(nn.Module):
    """Add the mean of thresholded measurements, times a pattern, to the image.

    Attributes:
        linear0: What clients train of the rows; zero as sent.
        directions: Weights of each measurement, and of the one that keeps records out, if any.
        ends: Lower end of each row's bin.
        reach: What records that are let in measure in that one, at most.
        pattern: What is added.
        groups: Number of rows of each measurement; within it, ends rise.
        parts: Number of parts whose energy the rows take.
    """

    def __init__(
        self, shape: tuple[int, ...], groups: tuple[int, ...], parts: int, gates: int = 0
    ) -> None:
        super().__init__()
        self.shape = shape
        self.groups = groups
        self.parts = parts
        self.linear0: nn.Linear = nn.utils.skip_init(  # type: ignore[no-untyped-call]
            nn.Linear, math.prod(shape) + parts + sum(groups), sum(groups)
        )
        nn.init.zeros_(self.linear0.weight)
        nn.init.zeros_(self.linear0.bias)
        self.directions: Tensor
        self.ends: Tensor
        self.reach: Tensor
        self.pattern: Tensor
        self.register_buffer("directions", torch.zeros(len(groups) + gates, math.prod(shape)))
        self.register_buffer("ends", torch.zeros(sum(groups)))
        self.register_buffer("reach", torch.full((gates,), math.inf))
        self.register_buffer("pattern", torch.ones(shape))

    def forward(self, images: Float[Tensor, "n channels *space"]) -> Tensor:
        """Return images of the same shape."""
        flat = images.flatten(1)
        measured, gated = (flat @ self.directions.T).tensor_split([len(self.groups)], dim=1)
        repeats = torch.tensor(self.groups, device=flat.device)
        let_in = (gated <= self.reach).all(1, keepdim=True)
        beyond = measured.repeat_interleave(repeats, dim=1) - self.ends
        beyond = beyond.masked_fill(~let_in, CLOSED)
        taken = [flat, energies(images, self.parts), occupied_bins(beyond, self.groups)]
        rows: Tensor = self.linear0(torch.cat(taken, dim=1)) + beyond
        added = rows.relu().mean(1).reshape(-1, *[1] * len(self.shape))
        return images + added * self.pattern


def energies(images: Float[Tensor, "n channels *space"], parts: int) -> Float[Tensor, "n parts"]:
    """Return the mean square of each of the parts that the voxels fall into, in order."""
    flat = images.flatten(1)
    return torch.stack([p.square().mean(1) for p in flat.tensor_split(parts, dim=1)], dim=1)


def occupied_bins(
    beyond: Float[Tensor, "n rows"], groups: tuple[int, ...]
) -> Float[Tensor, "n rows"]:
    """Return 1 for the bin of each measurement that an image lies in and 0 for the others.

    Args:
        beyond: How far beyond the lower end of each bin it measures.
        groups: Number of bins of each measurement.
    """
    passed = beyond > 0
    last = [end - 1 for end in accumulate(groups)]
    passes_next = torch.cat([passed[:, 1:], passed[:, :1]], dim=1)
    inner = torch.tensor([b not in last for b in range(sum(groups))], device=beyond.device)
    return (passed & ~(passes_next & inner)).to(beyond.dtype)


@torch.no_grad()
def peeling_block(
    chosen: Modification,
    spec: ImageSpec,
    public: Float[Tensor, "public channels *space"],
    rng: torch.Generator,
) -> tuple[PeelingBlock, Callable[[str], PeelingSecret]]:
    """Return a block whose bins are about equally likely, and what makes its secret.

    The measurements are random, of no preferred scale or place. On real images random combinations
    of public images do no better.

    Raises:
        NotApplicable: There are too few public images to estimate a distribution from.
    """
    crowded = chosen.expected_records > max(2, MOST_A_ROW * chosen.num_bins)
    check_public(public, max(LEAST_PUBLIC, chosen.measurements + crowded + 2))
    share, more = divmod(chosen.num_bins, chosen.measurements)
    groups = tuple(share + (j < more) for j in range(chosen.measurements))
    parts = min(chosen.parts, math.prod(spec.shape))
    block = PeelingBlock(spec.shape, groups, parts, gates=int(crowded))
    measured = _draw_directions(block.directions, spec, public, rng)
    if crowded:
        let_in = SAFE_A_ROW * chosen.num_bins / chosen.expected_records
        block.reach.copy_(quantiles(measured[:, -1], [let_in]))
    lowest = -4 * (measured.abs().max() + 1)  # below any record: the lowest bins are open
    ends = [
        torch.cat([lowest[None], quantiles(values, torch.arange(1, rows) / rows)])
        for values, rows in zip(measured.T, groups, strict=False)  # without the gate's
    ]
    block.ends.copy_(torch.cat(ends))
    block.pattern.copy_(chosen.gain * _pattern(spec, public, rng))
    return block, lambda name: PeelingSecret(name, f"{name}.linear0.weight", f"{name}.linear0.bias")


def _draw_directions(
    directions: Float[Tensor, "measurements voxels"],
    spec: ImageSpec,
    public: Float[Tensor, "public channels *space"],
    rng: torch.Generator,
) -> Float[Tensor, "public measurements"]:
    """Draw directions, whose measurements over people vary by 1 and with no earlier one.

    Correlated measurements put the same records into one bin again and again.

    Returns:
        The measurements of the public images.

    Raises:
        NotApplicable: The public images differ too little for so many measurements.
    """
    for row in directions:
        row.copy_(torch.randn(len(row), generator=rng))
        row -= row.mean()
    parts = [normal.flatten(1) @ directions.T for normal in normalised(spec, public)]
    measured = torch.cat(parts).double()
    for j, row in enumerate(directions):
        centred = measured - measured.mean(0)
        if j:
            shares = torch.linalg.lstsq(centred[:, :j], centred[:, j, None]).solution[:, 0]
            row -= directions[:j].T @ shares.to(row)
            measured[:, j] -= measured[:, :j] @ shares
        spread = measured[:, j].std()
        if not spread > LEAST_SPREAD * centred[:, j].std():
            raise NotApplicable(
                f"{len(public)} public images differ too little for the {len(directions)} "
                "directions of the planted rows: give more images, or lower measurements or "
                "expected_records under case.server.model_modification"
            )
        row /= spread
        measured[:, j] /= spread
    return measured


def _pattern(
    spec: ImageSpec, public: Float[Tensor, "n channels *space"], rng: torch.Generator
) -> Float[Tensor, "channels *space"]:
    """Return a random combination of centred public images, of deviation 1.

    A constant would be lost on networks that normalise each image first.
    """
    weights = torch.randn(len(public), generator=rng)
    weights -= weights.mean()  # as if the images were centred
    mixture = torch.zeros(spec.shape)
    for images, own in zip(normalised(spec, public), torch.split(weights, AT_ONCE), strict=True):
        mixture += torch.tensordot(own, images, 1)
    return (mixture - mixture.mean()) / mixture.std().clamp_min(1e-6)
