"""A plugin that uses every hook of medbreach."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from medbreach import Attack, Dataset, Defense, Finding, Metric, Model, Server, hookimpl
from medbreach_example.attack import Division
from medbreach_example.dataset import Pairs
from medbreach_example.defense import Sign
from medbreach_example.metric import Edges
from medbreach_example.model import LinearLayer
from medbreach_example.server import BlankServer

if TYPE_CHECKING:
    import click


@hookimpl
def medbreach_attacks() -> list[type[Attack]]:
    """Return the attack."""
    return [Division]


@hookimpl
def medbreach_servers() -> list[type[Server]]:
    """Return the server."""
    return [BlankServer]


@hookimpl
def medbreach_defenses() -> list[type[Defense]]:
    """Return the defense."""
    return [Sign]


@hookimpl
def medbreach_metrics() -> list[type[Metric]]:
    """Return the metric."""
    return [Edges]


@hookimpl
def medbreach_datasets() -> list[type[Dataset]]:
    """Return the data set."""
    return [Pairs]


@hookimpl
def medbreach_models() -> list[type[Model]]:
    """Return the model."""
    return [LinearLayer]


@hookimpl
def medbreach_cases() -> str:
    """Return the package of YAML."""
    return "medbreach_example.cases"


@hookimpl
def medbreach_commands(cli: "click.Group") -> None:
    """Add a command, which is imported only when commands are."""
    from medbreach_example.command import patients_command

    cli.add_command(patients_command)


@hookimpl
def medbreach_reproductions() -> "list[click.Command]":
    """Return a result."""
    from medbreach_example.command import result_command

    return [result_command]


@hookimpl
def medbreach_finding(finding: Finding) -> None:
    """Append the finding to the file that ``MEDBREACH_EXAMPLE_LOG`` names, if it does."""
    file = os.environ.get("MEDBREACH_EXAMPLE_LOG")
    if file:
        line = {"attack": finding.attack, "role": finding.role, "verdict": finding.verdict}
        with Path(file).open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
