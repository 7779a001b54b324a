"""The hooks that a plugin can implement. The how-to on plugins shows each with an example."""

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
    """Return the attacks that this plugin offers."""


@hookspec
def medbreach_servers() -> Iterable[type[Server]]:
    """Return the servers that this plugin offers."""


@hookspec
def medbreach_defenses() -> Iterable[type[Defense]]:
    """Return the defenses that this plugin offers."""


@hookspec
def medbreach_metrics() -> Iterable[type[Metric]]:
    """Return the metrics that this plugin offers."""


@hookspec
def medbreach_datasets() -> Iterable[type[Dataset]]:
    """Return the data sets that this plugin offers."""


@hookspec
def medbreach_models() -> Iterable[type[Model]]:
    """Return the models that this plugin offers."""


@hookspec
def medbreach_cases() -> str:
    """Return the package that holds this plugin's YAML, such as ``"medbreach_demo.cases"``."""


@hookspec
def medbreach_commands(cli: "click.Group") -> None:
    """Add commands to the ``medbreach`` program."""


@hookspec
def medbreach_finding(finding: Finding) -> None:
    """Take note of a finding, as soon as it is made and recorded."""
