"""Inversion of a vision transformer's first attention block."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from medbreach.attacks.closed_form import ClosedForm
from medbreach.models.vit_april import AprilTransformer
from medbreach.types import Reveals

if TYPE_CHECKING:
    from medbreach.case import Case


@dataclass(frozen=True)
class AprilAnalytic(ClosedForm):
    """Solve for the patches of one record from the gradients of positions and attention.

    The network's first block must have neither normalisation before its attention nor a connection
    around it. As in breaching, a batch gives one image.

    Attributes:
        solver: LAPACK driver of the least-squares problems.
    """

    name: ClassVar[str] = "april-analytic"
    source: ClassVar[str] = "Lu et al. 2022, arXiv:2112.14087"
    differs: ClassVar[str] = "One claim, where breaching adds blank images for a batch's others."
    dimensions: ClassVar[frozenset[int]] = frozenset({2})
    channels: ClassVar[frozenset[int] | None] = frozenset({3})
    needs: ClassVar[frozenset[Reveals]] = frozenset()

    solver: Literal["gels", "gelsy", "gelsd", "gelss"] = "gelsd"

    def control(self, case: "Case") -> "Case":
        """Return one record and such a transformer."""
        return case.solvable(AprilTransformer())
