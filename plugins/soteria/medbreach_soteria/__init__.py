"""Soteria, a defense for medbreach."""

from medbreach import Defense, hookimpl
from medbreach_soteria.soteria import Soteria

__all__ = ["Soteria"]


@hookimpl
def medbreach_defenses() -> list[type[Defense]]:
    """Return the defense."""
    return [Soteria]


@hookimpl
def medbreach_cases() -> str:
    """Return the package of YAML that names the settings of the source."""
    return "medbreach_soteria.cases"
