"""Layer-by-layer inversion."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from medbreach.attacks.closed_form import ClosedForm
from medbreach.attacks.gradient_matching import LabelStrategy
from medbreach.models.rgap_cnn import RGAPNetwork

if TYPE_CHECKING:
    from medbreach.case import Case


@dataclass(frozen=True)
class Inversion:
    """How the last layer's output is found where that layer has no bias; not used here.

    Attributes:
        step_size: Step size of the descent.
        steps: Number of steps.
    """

    step_size: float = 0.01
    steps: int = 30_000


@dataclass(frozen=True)
class Recursive(ClosedForm):
    """Go back through a chain of convolutions, solving one dense linear system a layer (R-GAP).

    The last layer needs a bias: breaching's way without one is for two classes with one output.

    Attributes:
        inversion: Not used: how the last layer's output is found where that layer has no bias.
    """

    name: ClassVar[str] = "recursive"
    source: ClassVar[str] = "Zhu and Blaschko 2021, arXiv:2010.07733"
    dimensions: ClassVar[frozenset[int]] = frozenset({2})

    label_strategy: LabelStrategy | None = "wainakh-simple"
    inversion: Inversion = Inversion()

    def control(self, case: "Case") -> "Case":
        """Return one record and a chain of two convolutions; six take minutes."""
        return case.solvable(RGAPNetwork(depth=2))
