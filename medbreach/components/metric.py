"""A score of how well a reconstruction shows a record."""

from abc import abstractmethod
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from medbreach.components.component import Component
from medbreach.errors import ContractError
from medbreach.types import ImageSpec


class Metric(Component):
    """A score of how well a reconstruction shows a record. Subclasses write `run`.

    Attributes:
        unit: Unit of the score.
        better: Whether a higher or a lower score means a closer likeness.
    """

    unit: ClassVar[str]
    better: ClassVar[Literal["higher", "lower"]]

    @abstractmethod
    def run(
        self,
        claim: Float[Tensor, "records channels *space"],
        truth: Float[Tensor, "records channels *space"],
        spec: ImageSpec,
    ) -> Float[Tensor, " records"]:
        """Return one score for each record, in `unit`.

        Raises:
            NotApplicable: The metric does not work on such images.
        """

    @final
    def __call__(
        self,
        claim: Float[Tensor, "records channels *space"],
        truth: Float[Tensor, "records channels *space"],
        spec: ImageSpec,
    ) -> Float[Tensor, " records"]:
        """Score each claim against its record, and check the scores.

        Raises:
            NotApplicable: The metric does not work on such images.
            ContractError: There is not one score a record, or one is not a number.
        """
        if not len(truth):
            return torch.empty(0)
        scores = self.run(claim, truth, spec)
        if tuple(scores.shape) != (len(truth),) or scores.isnan().any():
            raise ContractError(f"{self.name} returned no number for each of {len(truth)} records")
        return scores
