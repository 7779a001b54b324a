"""A planted layer that keeps clients apart, through secure aggregation and local steps.

A convolution copies the image into one set of channels a client, and a dense layer of thresholded
measurements takes all sets together. Each client is sent kernels that are zero for every set but
its own, so it changes the dense layer's weights for its own channels only: the mean over all
clients still holds each client's change by itself.

A row is open between two thresholds and closed below and above. If the kernels' scaling is large,
the first local step in which a record comes through a row moves the row so far that it is closed in
later steps: records of different steps do not mix. A large scaling also makes the weights small
against their change, which would drown in their rounding errors otherwise.
"""

import copy
import math
from collections.abc import Callable
from typing import Final, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medbreach.components import Planted
from medbreach.servers.modification import Modification
from medbreach.servers.quantiles import check_public, measured, normalised, quantiles
from medbreach.servers.room import WIDTH, check_room
from medbreach.types import ImageSpec

CONVOLVE: Final = {2: nn.functional.conv2d, 3: nn.functional.conv3d}
EXTRA: Final = 2
"""Columns of a set after the image's: a constant ``c``, and ``|x|^2 / c`` for an image ``x``."""


class LokiSecret(NamedTuple):
    """What the server remembers of the layer.

    Attributes:
        block: Name of the planted module.
        sets: Number of kernel sets.
        constant: Value of the constant column, before scaling.
    """

    block: str
    sets: int
    constant: float

    def weight(self, k: int) -> str:
        """Return the name of the rows' weights for a set."""
        return f"{self.block}.weights.{k}"

    def set_of(self, client: int) -> int:
        """Return the set of a client; those beyond the sets share one with another client."""
        return client % self.sets


class LokiBlock(nn.Module):
    """Add the share of open and passed rows to the image.

    The dense layer on all sets' channels is stored as one matrix a set, so that sets whose kernels
    are zero cost no computation.

    Attributes:
        kernels: Kernels of each set; not trained.
        weights: The rows' weights for each set.
        bias: Minus the rows' lower thresholds, in units of their widths.
        constant: Value of the constant column, before scaling.
        scaling: Factor of all columns.
        gain: Greatest addition to the image; the image has deviation 1.
    """

    def __init__(
        self, spec: ImageSpec, rows: int, sets: int, scaling: float, gain: float, constant: float
    ) -> None:
        super().__init__()
        self.constant, self.scaling, self.gain = constant, scaling, gain
        columns = math.prod(spec.shape) + EXTRA
        self.weights = nn.ParameterList(torch.zeros(rows, columns) for _ in range(sets))
        self.bias = nn.Parameter(torch.zeros(rows))
        self.kernels: Tensor
        ones = (1,) * len(spec.space)
        self.register_buffer("kernels", torch.zeros(sets, spec.channels, spec.channels, *ones))
        self.open_for(0)

    def open_for(self, k: int) -> None:
        """Let one set copy the image, and the others nothing."""
        self.kernels.zero_()
        self.kernels[k].flatten(1).fill_diagonal_(self.scaling)

    def forward(self, images: Float[Tensor, "n channels *space"]) -> Tensor:
        """Return images of the same shape."""
        rows = self.bias.expand(len(images), -1)
        for k, used in enumerate(self.kernels.flatten(1).any(1).tolist()):
            if used:
                rows = rows + self._columns(images, k) @ self.weights[k].T
        passed = rows.clamp(0, 1).mean(1)
        shown: Tensor = images + self.gain * passed.reshape(-1, *[1] * (images.ndim - 1))
        return shown

    def _columns(self, images: Tensor, k: int) -> Float[Tensor, "n columns"]:
        copies = CONVOLVE[images.ndim - 2](images, self.kernels[k]).flatten(1)
        energy = self.scaling * images.flatten(1).square().sum(1, keepdim=True)
        constant = torch.full_like(energy, self.scaling * self.constant)
        return torch.cat([copies, constant, energy / self.constant], dim=1)


@torch.no_grad()
def loki_block(
    modification: Modification,
    spec: ImageSpec,
    public: Float[Tensor, "public channels *space"],
    rng: torch.Generator,
) -> tuple[LokiBlock, Callable[[str], LokiSecret]]:
    """Return a block whose rows are open about equally often, and what makes its secret.

    Args:
        modification: Its settings.
        spec: What is known about the images.
        public: Public images, in the spec's unit.
        rng: The server's randomness.

    Returns:
        The block, open for the first set, and a function from its name in the network to the
        secret.

    Raises:
        NotApplicable: There are too few public images, or the block and its updates would not fit
            into memory.
    """
    rows, sets = modification.num_bins, modification.num_clients
    check_public(public)
    columns = math.prod(spec.shape) + EXTRA
    size = WIDTH * rows * sets * columns
    check_room(f"LOKI with {rows} rows for {sets} clients", size, copies=sets + 4)
    energies = [images.flatten(1).square().sum(1) for images in normalised(spec, public)]
    constant = max(float(torch.cat(energies).mean().sqrt()), 1e-6)
    block = LokiBlock(spec, rows, sets, modification.scaling, modification.gain, constant)
    start, drawn = 0, _measurements(modification, math.prod(spec.shape), rng)
    values = measured(spec, public, torch.stack([direction for direction, _ in drawn]))
    for (direction, count), own in zip(drawn, values.T, strict=True):
        ends = thresholds(own, count)
        widths = ends.diff()
        chosen = slice(start, start + count)
        for weight in block.weights:
            torch.outer(1 / (modification.scaling * widths), direction, out=weight[chosen, :-EXTRA])
        block.bias[chosen] = -ends[:-1] / widths
        start += count
    return block, lambda name: LokiSecret(name, sets, constant)


def open_for_client(planted: Planted, client: int) -> nn.Module:
    """Return the network as one client receives it; parameters are shared with the planted one.

    Args:
        planted: The network and its `LokiSecret`.
        client: The client's place in the round, from 0.
    """
    secret: LokiSecret = planted.secret
    k = secret.set_of(client)
    if k == 0:
        return planted.model
    shared = {id(p): p for p in planted.model.parameters()}
    network = copy.deepcopy(planted.model, shared)
    block = network.get_submodule(secret.block)
    assert isinstance(block, LokiBlock)
    block.open_for(k)
    return network


def thresholds(values: Float[Tensor, " public"], rows: int) -> Float[Tensor, " ends"]:
    """Return the ends of rows, rising, between which new records fall about equally often.

    The outermost rows reach well beyond all public images.

    Args:
        values: Measurements of public images.
        rows: Number of rows.
    """
    inner = quantiles(values, torch.arange(1, rows) / rows).double()
    reach = float(values.max() - values.min())
    ends = torch.cat([inner[:1] - 2 * reach, inner, inner[-1:] + 2 * reach])
    least = 1e-6 * max(reach, float(values.abs().max()), 1e-6)  # for images that are all the same
    rising: Tensor = (ends + least * torch.arange(rows + 1)).to(values)
    return rising


def _measurements(
    modification: Modification, pixels: int, rng: torch.Generator
) -> list[tuple[Float[Tensor, " pixels"], int]]:
    """Return the weights of each measurement and its number of rows: mean intensity, then noise."""
    count, rows = modification.measurements, modification.num_bins
    found = []
    for j in range(count):
        noise = torch.randn(pixels, generator=rng)
        direction = torch.ones(pixels) if j == 0 else noise - noise.mean()
        found.append((direction / direction.norm(), rows // count + (j < rows % count)))
    return found
