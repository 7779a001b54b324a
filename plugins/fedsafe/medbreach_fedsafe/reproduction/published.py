"""What was published, and what was only found in a repository."""

from collections.abc import Mapping
from typing import Final, NamedTuple

PUBLICATION: Final = "Darzi, Sijtsema and van Ooijen 2023, arXiv:2310.08681"
REPOSITORY: Final = (
    "Read off figures (about 1 point either way) of a repository that is only attributed to the "
    "paper: nothing in it names Fed-Safe. Noise without retraining, on both ways, sigma 0.01, "
    "three clients, in normalised space, not clamped, steps of 0.002 of unknown number; evaluated "
    "on images of the retraining pool. Beside them stands the same arm here, on other images, with "
    "other networks unless --full is given, and 6 steps of a sixth of eps. The paper's own "
    "tables are not at hand."
)
REDUCTION: Final = 0.27  # of the attack success rate, at most, by the journal version
OVERHEAD: Final = (0.04, 0.05)  # of a round, by the journal version


class Read(NamedTuple):
    """Attack success rates read off a figure, in percent.

    Attributes:
        method: ``pgd`` or ``fgsm``.
        eps: In normalised space.
        of_self: On the attacked network itself, which the source calls adversary.
        others: On the other clients' networks, which it calls benign.
    """

    method: str
    eps: float
    of_self: float
    others: float


FIGURES: Final[Mapping[str, tuple[Read, ...]]] = {
    "glioma": (
        Read("pgd", 0.01, 41, 19), Read("pgd", 0.02, 47.5, 29.5), Read("pgd", 0.04, 49.5, 31),
        Read("fgsm", 0.01, 27, 14.5), Read("fgsm", 0.07, 35, 29.5),
    ),
    "meningioma": (
        Read("pgd", 0.01, 68, 37), Read("pgd", 0.02, 79, 53), Read("pgd", 0.04, 80.5, 60),
        Read("fgsm", 0.01, 48, 27), Read("fgsm", 0.07, 70.5, 60),
    ),
    "pathology": (
        Read("pgd", 0.01, 65, 27), Read("pgd", 0.02, 88, 54), Read("pgd", 0.04, 99, 74),
        Read("fgsm", 0.01, 53, 24), Read("fgsm", 0.07, 92, 81),
    ),
}  # fmt: skip
"""By set of images."""
