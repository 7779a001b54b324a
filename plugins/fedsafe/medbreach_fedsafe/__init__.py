"""Fed-Safe: distributed noise and adversarial retraining against evasion attacks."""

from typing import TYPE_CHECKING

from medbreach import Model, hookimpl
from medbreach_fedsafe.evasion import Evasion
from medbreach_fedsafe.measures import Answers, change, estimate, rates, strongest
from medbreach_fedsafe.network import FedSafeCNN

if TYPE_CHECKING:
    import click

__all__ = ["Answers", "Evasion", "FedSafeCNN", "change", "estimate", "rates", "strongest"]


@hookimpl
def medbreach_models() -> list[type[Model]]:
    """Return the network of the source."""
    return [FedSafeCNN]


@hookimpl
def medbreach_reproductions() -> "list[click.Command]":
    """Return the experiments of the source."""
    from medbreach_fedsafe.reproduction.command import reproduce_command

    return [reproduce_command]
