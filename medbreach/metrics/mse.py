"""Mean squared error, in the images' unit and in the network's."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from medbreach.components import Metric
from medbreach.types import ImageSpec

Images = Float[Tensor, "records channels *space"]


def mean_squared_error(claim: Images, truth: Images) -> Float[Tensor, " records"]:
    """Return the mean squared difference of each pair of images."""
    return (claim.double() - truth.double()).square().flatten(1).mean(1).float()


@dataclass(frozen=True)
class MSE(Metric):
    """Mean squared error in the square of the images' unit."""

    name: ClassVar[str] = "mse"
    source: ClassVar[str] = "medbreach"
    unit: ClassVar[str] = "image unit squared"
    better: ClassVar[Literal["higher", "lower"]] = "lower"

    def run(self, claim: Images, truth: Images, spec: ImageSpec) -> Float[Tensor, " records"]:
        """Return one error for each record."""
        del spec
        return mean_squared_error(claim, truth)


@dataclass(frozen=True)
class NormalisedMSE(Metric):
    """Mean squared error of normalised images: in squared standard deviations of the population."""

    name: ClassVar[str] = "mse_normalised"
    source: ClassVar[str] = "medbreach"
    unit: ClassVar[str] = "population deviations squared"
    better: ClassVar[Literal["higher", "lower"]] = "lower"

    def run(self, claim: Images, truth: Images, spec: ImageSpec) -> Float[Tensor, " records"]:
        """Return one error for each record."""
        return mean_squared_error(spec.normalise(claim), spec.normalise(truth))
