"""Inversion of fully connected networks."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from medbreach.attacks.closed_form import ClosedForm
from medbreach.attacks.gradient_matching import LabelStrategy
from medbreach.models.mlp import MLP

if TYPE_CHECKING:
    from medbreach.case import Case


@dataclass(frozen=True)
class Analytic(ClosedForm):
    """Divide a linear layer's weight gradient by its bias gradient.

    For ``y = W x + b`` and one record ``dL/dW = (dL/db) x'``, so any row of ``dL/dW`` over its
    entry of ``dL/db`` is the input. With more records each row is a weighted mean of them.
    """

    name: ClassVar[str] = "analytic"
    source: ClassVar[str] = "Phong et al. 2017, doi:10.1007/978-981-10-5421-1_9"
    differs: ClassVar[str] = (
        "As in breaching, for networks of linear layers only; of several rounds it "
        "takes the median, where breaching returns the last."
    )

    label_strategy: LabelStrategy | None = "analytic"

    def control(self, case: "Case") -> "Case":
        """Return one record and a fully connected network."""
        return case.solvable(MLP())
