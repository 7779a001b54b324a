"""Gradient inversion at growing resolutions."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from medbreach.attacks.gradient_matching import GradientMatching
from medbreach.errors import NotApplicable
from medbreach.models.small_cnn import SmallCNN
from medbreach.types import Exchange

if TYPE_CHECKING:
    from medbreach.case import Case


@dataclass(frozen=True)
class Multiscale(GradientMatching):
    """Descend on small images first and enlarge them stage by stage. For 2D RGB images.

    The network has to take images of every size, so it needs pooling before its linear layers.

    breaching's settings ``multiscale_ghiasi`` do not solve their control: their circular shift
    reads one quadrant of the candidate only, and their colour jitter changes what is compared.
    ``attack.augmentations=null`` solves it.

    Attributes:
        num_stages: Number of resolutions.
        scale_pyramid: How resolutions grow: ``linear``, ``log`` or ``trivial``.
        resize: ``focus``: the last stage's result fills the centre; ``upsampling``: all.
        update_augmentations: Ignored, as in breaching.
    """

    name: ClassVar[str] = "multiscale"
    source: ClassVar[str] = "Ghiasi et al. 2022, arXiv:2201.12961, as used in breaching"
    differs: ClassVar[str] = (
        "breaching 0.1.2 stops with a TypeError before its first step; this runs the stages that "
        "its code describes."
    )
    dimensions: ClassVar[frozenset[int]] = frozenset({2})
    channels: ClassVar[frozenset[int] | None] = frozenset({3})

    num_stages: int = 7
    scale_pyramid: Literal["linear", "log", "trivial"] = "linear"
    resize: Literal["focus", "upsampling"] = "focus"
    update_augmentations: str | None = None

    def control(self, case: "Case") -> "Case":
        """Return one record and a small network that takes images of every size."""
        return case.solvable(SmallCNN(pool=8))

    def check_images(self, exchange: Exchange) -> None:
        """Refuse images that are not square.

        Raises:
            NotApplicable: They are not.
        """
        super().check_images(exchange)
        height, width = exchange.spec.space
        if height != width:
            raise NotApplicable(f"multiscale needs square images, not {height} x {width}")
