"""The hooks that a plugin can implement.

A plugin is a module whose distribution names it under the entry-point group ``medbreach``; it
implements the hooks that it needs as functions marked with `hookimpl`. The how-to *Use the hooks*
shows each with an example.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

from medbreach.components import Attack, Dataset, Defense, Metric, Model, Server
from medbreach.types import Finding

if TYPE_CHECKING:
    import click

hookspec = pluggy.HookspecMarker("medbreach")
hookimpl = pluggy.HookimplMarker("medbreach")


@hookspec
def medbreach_attacks() -> Iterable[type[Attack]]:
    """Return the attacks that this plugin offers, as classes.

    Each is a choice of the group ``attack`` by its own name; YAML can name settings of it.
    """


@hookspec
def medbreach_servers() -> Iterable[type[Server]]:
    """Return the servers that this plugin offers, as classes.

    Each is a choice of the group ``case/server`` by its own name; YAML can name settings of it.
    """


@hookspec
def medbreach_defenses() -> Iterable[type[Defense]]:
    """Return the defenses that this plugin offers, as classes.

    Each is a choice of the group ``defense`` by its own name; YAML can name settings of it.
    """


@hookspec
def medbreach_metrics() -> Iterable[type[Metric]]:
    """Return the metrics that this plugin offers, as classes.

    An audit scores with those that ``audit.metrics`` names.
    """


@hookspec
def medbreach_datasets() -> Iterable[type[Dataset]]:
    """Return the data sets that this plugin offers, as classes.

    Each is a choice of the group ``case/data`` by its own name; YAML can name settings of it.
    """


@hookspec
def medbreach_models() -> Iterable[type[Model]]:
    """Return the models that this plugin offers, as classes.

    ``case.model`` names one.
    """


@hookspec
def medbreach_cases() -> str:
    """Return the name of the package that holds this plugin's YAML, such as ``"my_plugin.cases"``.

    It is laid out as medbreach's own ``cases``: ``case``, ``case/data``, ``attack``, ... It is
    searched after the user's folder and medbreach's, and before breaching's.
    """


@hookspec
def medbreach_commands(cli: "click.Group") -> None:
    """Add commands to the ``medbreach`` program.

    It is called when a command is asked for that medbreach itself does not have.

    Args:
        cli: The program; ``cli.add_command(command)`` adds one.
    """


@hookspec
def medbreach_reproductions() -> "Iterable[click.Command]":
    """Return the published results that this plugin makes again.

    Each is a command of ``medbreach reproduce``, by its own name.
    """


@hookspec
def medbreach_finding(finding: Finding) -> None:
    """Take note of a finding, as soon as it is made and recorded.

    It is called for the controls too; ``finding.role`` tells them apart.

    Args:
        finding: What one attempt showed.
    """
