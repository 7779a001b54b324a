"""Peak signal-to-noise ratio."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from medbreach.components import Metric
from medbreach.metrics.mse import mean_squared_error
from medbreach.types import ImageSpec


@dataclass(frozen=True)
class PSNR(Metric):
    """Peak signal-to-noise ratio over the intensity range that the spec declares.

    ``20 log10(range) - 10 log10(mean squared error)``, infinite for an exact copy. The range is
    never taken from the images: that would give each record a scale of its own.
    """

    name: ClassVar[str] = "psnr"
    source: ClassVar[str] = "ISO/IEC 29170-1:2017"
    unit: ClassVar[str] = "dB"
    better: ClassVar[Literal["higher", "lower"]] = "higher"

    def run(
        self,
        claim: Float[Tensor, "records channels *space"],
        truth: Float[Tensor, "records channels *space"],
        spec: ImageSpec,
    ) -> Float[Tensor, " records"]:
        """Return one ratio for each record, in dB."""
        return 10 * torch.log10(spec.range**2 / mean_squared_error(claim, truth))
