"""breaching's planted blocks, and their calibration on public images."""

from collections.abc import Callable
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medbreach.randomness import lend_global
from medbreach.servers.modification import Modification
from medbreach.servers.quantiles import check_public, measured, quantiles
from medbreach.servers.secrets import ImprintSecret
from medbreach.types import ImageSpec

SHARED: Final = ("connection", "gain", "linfunc", "mode")


def breachings_block(
    chosen: Modification,
    spec: ImageSpec,
    public: Float[Tensor, "public channels *space"],
    rng: torch.Generator,
) -> tuple[nn.Module, Callable[[str], ImprintSecret]]:
    """Return a block of breaching's (Fowl et al. 2022, arXiv:2110.13057).

    Raises:
        NotApplicable: It is to be calibrated and there are too few public images.
    """
    from medbreach.breaching_bridge.blocks import imprint_block

    settings = {key: getattr(chosen, key) for key in SHARED}
    if chosen.type == "OneShotBlock":
        settings["target_val"] = chosen.target_val
    with lend_global(rng):
        block: nn.Module = imprint_block(chosen.type, spec.shape, chosen.num_bins, settings)
    if chosen.calibrate:
        calibrate(block, spec, public, chosen)
    return block, ImprintSecret.maker(str(block.structure))


@torch.no_grad()
def calibrate(
    block: Any,
    spec: ImageSpec,
    public: Float[Tensor, "public channels *space"],
    chosen: Modification,
) -> None:
    """Fit a block to public images.

    Its bins go to the quantiles of their measurements, with an end well below and one well above
    them all: the readout takes differences of rows, so it misses a record above the highest end.
    The block's output is kept in the images' range. Otherwise it can be so large that the network
    is sure of a record's class, whose gradient is then zero.

    Args:
        block: The block; changed in place.
        spec: What is known about the images.
        public: Public images, in the spec's unit.
        chosen: The block's settings.

    Raises:
        NotApplicable: There are too few public images.
    """
    check_public(public)
    weight, bias = block.linear0.weight, block.linear0.bias
    if chosen.type == "SparseImprintBlock":
        weight *= torch.tensor(block.bin_sizes[: len(weight)])[:, None]  # one direction again
    values = measured(spec, public, weight[:1])[:, 0]
    if chosen.type == "OneShotBlock":
        bias.copy_(-_around(values, chosen.target_val * chosen.gain, chosen.num_bins))
        return
    sparse = chosen.type == "SparseImprintBlock"
    ends = _ends(values, len(weight) + sparse)
    if sparse:
        widths = ends.diff().clamp_min(1e-6 * float(ends[-1] - ends[0]))
        weight *= chosen.gain / widths[:, None]
        bias.copy_(-ends[:-1] * chosen.gain / widths)
    else:
        bias.copy_(-ends)
    _limit_output(block, values, ends, chosen.gain)


def _ends(values: Float[Tensor, " public"], count: int) -> Float[Tensor, " count"]:
    """Return ends of bins, the outer two beyond every public image."""
    spread = max(float(values.max() - values.min()), 1e-6)
    inner = quantiles(values, torch.arange(1, count - 1) / (count - 1))
    return torch.cat([values.min()[None] - spread, inner, values.max()[None] + spread])


def _around(values: Float[Tensor, " public"], target: float, bins: int) -> Float[Tensor, "2"]:
    """Return the ends of a bin that one in ``bins`` people falls into, around a measurement."""
    below = float((values < target).double().mean())
    low = min(max(below - 0.5 / bins, 0.0), 1 - 1 / bins)
    ends = quantiles(values, [low, low + 1 / bins])
    return torch.stack([ends[0].clamp_max(target), ends[1].clamp_min(target + 1e-6 * abs(target))])


def _limit_output(
    block: Any, values: Float[Tensor, " public"], ends: Float[Tensor, " ends"], gain: float
) -> None:
    """Give the block's output deviation or mean ``gain`` over public images, if rows add up."""
    given = (values[:, None] - ends).relu().sum(1)
    deviation, mean = float(given.std().clamp_min(1e-6)), float(given.mean())
    if hasattr(block, "linear2"):
        block.linear2.weight.fill_(gain / deviation)
        block.linear2.bias.fill_(-gain * mean / deviation)
    elif not isinstance(block.nonlin, nn.Hardtanh):
        factor = gain * len(ends) / max(deviation, mean)
        block.linear0.weight.mul_(factor)
        block.linear0.bias.mul_(factor)
