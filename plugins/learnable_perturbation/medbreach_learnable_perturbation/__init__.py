"""Learnable perturbation of a network's latent, a defense for medbreach, and its network."""

from typing import TYPE_CHECKING

from medbreach import Defense, Model, hookimpl
from medbreach_learnable_perturbation.convnet import PerturbationConvNet
from medbreach_learnable_perturbation.learnable_perturbation import LearnablePerturbation
from medbreach_learnable_perturbation.mismatch import Mismatch, mismatch

if TYPE_CHECKING:
    import click

__all__ = ["LearnablePerturbation", "Mismatch", "PerturbationConvNet", "mismatch"]


@hookimpl
def medbreach_defenses() -> list[type[Defense]]:
    """Return the defense."""
    return [LearnablePerturbation]


@hookimpl
def medbreach_models() -> list[type[Model]]:
    """Return the network of the source."""
    return [PerturbationConvNet]


@hookimpl
def medbreach_reproductions() -> "list[click.Command]":
    """Return the tables of the source."""
    from medbreach_learnable_perturbation.reproduction.command import reproduce_command

    return [reproduce_command]


@hookimpl
def medbreach_cases() -> str:
    """Return the package of YAML that names the settings of the source."""
    return "medbreach_learnable_perturbation.cases"
