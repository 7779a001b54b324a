"""Gradient inversion with fixed labels."""

from dataclasses import dataclass
from typing import ClassVar

from medbreach.attacks.gradient_matching import GradientMatching


@dataclass(frozen=True)
class Optimization(GradientMatching):
    """Descend on images whose labels are known or inferred first.

    breaching's settings ``invertinggradients``, ``modern``, ``legacy``, ``seethroughgradients``,
    ``wei`` and ``beyondinfering`` are kinds of it.

    ``seethroughgradients`` is made for trained networks with BatchNorm. It does not solve its
    control, whose network has neither: there its noise is greater than the gradient of its
    objective, which it scales by 1e-4. ``attack.optim.langevin_noise=0`` solves it.
    """

    name: ClassVar[str] = "optimization"
    source: ClassVar[str] = (
        "Geiping et al. 2020, arXiv:2003.14053; Yin et al. 2021, arXiv:2104.07586"
    )
