"""Compression of a client's update, three defenses for medbreach."""

from medbreach import Defense, hookimpl
from medbreach_compression.gradient_pruning import GradientPruning
from medbreach_compression.quantisation import Quantisation
from medbreach_compression.top_k import TopK

__all__ = ["GradientPruning", "Quantisation", "TopK"]


@hookimpl
def medbreach_defenses() -> list[type[Defense]]:
    """Return the defenses."""
    return [GradientPruning, TopK, Quantisation]


@hookimpl
def medbreach_cases() -> str:
    """Return the package of YAML that names their settings."""
    return "medbreach_compression.cases"
