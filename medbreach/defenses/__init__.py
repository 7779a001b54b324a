"""The defenses that come with medbreach."""

from medbreach.components import Defense
from medbreach.defenses.model_inspection import ModelInspection
from medbreach.hookspecs import hookimpl


@hookimpl
def medbreach_defenses() -> list[type[Defense]]:
    """Return the defenses in this package."""
    return [ModelInspection]
