"""Secure aggregation of clients' updates, a defense for medbreach."""

from medbreach import Defense, hookimpl
from medbreach_secure_aggregation.secure_aggregation import SecureAggregation

__all__ = ["SecureAggregation"]


@hookimpl
def medbreach_defenses() -> list[type[Defense]]:
    """Return the defense."""
    return [SecureAggregation]


@hookimpl
def medbreach_cases() -> str:
    """Return the package of YAML that names its settings."""
    return "medbreach_secure_aggregation.cases"
