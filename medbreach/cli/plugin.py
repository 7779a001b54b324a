"""``medbreach plugin``: a start for plugin authors."""

import shlex
from pathlib import Path

import click

KINDS = ("defense", "attack", "metric", "dataset", "model")


@click.group("plugin")
def plugin_group() -> None:
    """Write plugins."""


@plugin_group.command("new")
@click.argument("name")
@click.option("--kind", type=click.Choice(KINDS), default="defense", show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder to make.  [medbreach-NAME]",
)
def new_plugin(name: str, kind: str, out: Path | None) -> None:
    """Make a working plugin distribution with its tests, to be filled with your own idea.

    NAME is the component's name, such as my_defense.
    """
    from medbreach.scaffold import write_plugin

    folder = write_plugin(name, kind, out)
    shown = shlex.quote(str(folder))
    click.echo(f"{folder} is ready: pip install -e {shown} && python -m pytest {shown}")
