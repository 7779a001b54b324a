"""Gaussian noise on a client's update, a defense for medbreach."""

from medbreach import Defense, hookimpl
from medbreach_gaussian_noise.gaussian_noise import GaussianNoise

__all__ = ["GaussianNoise"]


@hookimpl
def medbreach_defenses() -> list[type[Defense]]:
    """Return the defense."""
    return [GaussianNoise]


@hookimpl
def medbreach_cases() -> str:
    """Return the package of YAML that names the settings of the source."""
    return "medbreach_gaussian_noise.cases"
