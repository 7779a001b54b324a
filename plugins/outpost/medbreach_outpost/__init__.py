"""Outpost, a defense for medbreach."""

from medbreach import Defense, hookimpl
from medbreach_outpost.outpost import Outpost

__all__ = ["Outpost"]


@hookimpl
def medbreach_defenses() -> list[type[Defense]]:
    """Return the defense."""
    return [Outpost]


@hookimpl
def medbreach_cases() -> str:
    """Return the package of YAML that names the settings of the source."""
    return "medbreach_outpost.cases"
