"""The attacks that come with medbreach."""

from medbreach.attacks.analytic import Analytic
from medbreach.attacks.april_analytic import AprilAnalytic
from medbreach.attacks.blind_guess import BlindGuess
from medbreach.attacks.cocktail_party import CocktailParty
from medbreach.attacks.feature_recovery import FeatureRecovery
from medbreach.attacks.fishing import Fishing
from medbreach.attacks.imprint_readout import ImprintReadout
from medbreach.attacks.joint_optimization import JointOptimization
from medbreach.attacks.multiscale import Multiscale
from medbreach.attacks.optimization import Optimization
from medbreach.attacks.peeling import Peeling
from medbreach.attacks.random_public_image import RandomPublicImage
from medbreach.attacks.recursive import Recursive
from medbreach.components import Attack
from medbreach.hookspecs import hookimpl


@hookimpl
def medbreach_attacks() -> list[type[Attack]]:
    """Return the attacks in this package."""
    return [
        Analytic,
        AprilAnalytic,
        BlindGuess,
        CocktailParty,
        FeatureRecovery,
        Fishing,
        ImprintReadout,
        JointOptimization,
        Multiscale,
        Optimization,
        Peeling,
        RandomPublicImage,
        Recursive,
    ]
