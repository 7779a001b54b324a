"""PRECODE, a defense for medbreach."""

from medbreach import Defense, hookimpl
from medbreach_precode.precode import Precode

__all__ = ["Precode"]


@hookimpl
def medbreach_defenses() -> list[type[Defense]]:
    """Return the defense."""
    return [Precode]


@hookimpl
def medbreach_cases() -> str:
    """Return the package of YAML that names the settings of the source."""
    return "medbreach_precode.cases"
