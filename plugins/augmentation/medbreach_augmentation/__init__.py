"""Augmentation of a client's records, two defenses for medbreach."""

from medbreach import Defense, hookimpl
from medbreach_augmentation.mixup import Mixup
from medbreach_augmentation.oasis import Oasis

__all__ = ["Mixup", "Oasis"]


@hookimpl
def medbreach_defenses() -> list[type[Defense]]:
    """Return the defenses."""
    return [Oasis, Mixup]


@hookimpl
def medbreach_cases() -> str:
    """Return the package of YAML that names their settings."""
    return "medbreach_augmentation.cases"
