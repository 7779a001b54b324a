"""Whole federations on Flower."""

import os
from typing import TYPE_CHECKING, Final

from medbreach import hookimpl
from medbreach.lazy import lazily

TELEMETRY: Final = "FLWR_TELEMETRY_ENABLED"
os.environ.setdefault(TELEMETRY, "0")  # Flower looks at it when it is imported, and sends without

if TYPE_CHECKING:
    import click

    from medbreach_federation.average import Mean as Mean
    from medbreach_federation.average import weighted_mean as weighted_mean
    from medbreach_federation.cluster import Cluster as Cluster
    from medbreach_federation.engine import ray_kept as ray_kept
    from medbreach_federation.flower_mod import DefendedStrategy as DefendedStrategy
    from medbreach_federation.flower_mod import DefenseMod as DefenseMod
    from medbreach_federation.flower_rule import FlowerRule as FlowerRule
    from medbreach_federation.flower_rule import Strength as Strength
    from medbreach_federation.learner import Instruction as Instruction
    from medbreach_federation.learner import Learner as Learner
    from medbreach_federation.learner import Result as Result
    from medbreach_federation.learner import Weights as Weights
    from medbreach_federation.record import RoundLine as RoundLine
    from medbreach_federation.rule import Aggregate as Aggregate
    from medbreach_federation.rule import Rule as Rule
    from medbreach_federation.runner import run_federation as run_federation
    from medbreach_federation.strategy import Played as Played

_HOMES = {
    "Mean": "average",
    "weighted_mean": "average",
    "Cluster": "cluster",
    "ray_kept": "engine",
    "DefendedStrategy": "flower_mod",
    "DefenseMod": "flower_mod",
    "FlowerRule": "flower_rule",
    "Strength": "flower_rule",
    "Instruction": "learner",
    "Learner": "learner",
    "Result": "learner",
    "Weights": "learner",
    "Aggregate": "rule",
    "Rule": "rule",
    "RoundLine": "record",
    "run_federation": "runner",
    "Played": "strategy",
}

__all__ = list(_HOMES)


__getattr__ = lazily("medbreach_federation", _HOMES)  # Flower takes seconds


@hookimpl
def medbreach_commands(cli: "click.Group") -> None:
    """Add ``medbreach federate``."""
    from medbreach_federation.command import federate_command

    cli.add_command(federate_command)
