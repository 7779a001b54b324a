"""Bilateral dependency optimisation (BiDO), a defense for medbreach."""

from medbreach import Defense, hookimpl
from medbreach_bido.bido import BiDO

__all__ = ["BiDO"]


@hookimpl
def medbreach_defenses() -> list[type[Defense]]:
    """Return the defense."""
    return [BiDO]


@hookimpl
def medbreach_cases() -> str:
    """Return the package of YAML that names the settings of the source."""
    return "medbreach_bido.cases"
