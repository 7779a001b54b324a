"""``medbreach data``: which images are at hand, and how to get the others."""

from typing import TYPE_CHECKING

import click

from medbreach.cli.console import console
from medbreach.errors import NotApplicable

if TYPE_CHECKING:
    from medbreach.components import Dataset


@click.group("data")
def data_group() -> None:
    """List the data sets and whether their images are here; fetch those that can be."""


@data_group.command("list")
def list_data() -> None:
    """List the data sets, their terms, and whether their images are on this machine."""
    from rich.markup import escape
    from rich.table import Table

    from medbreach import plugins

    table = Table(box=None, pad_edge=False)
    for title in ("data set", "licence", "here?"):
        table.add_column(title)
    for name, dataset in plugins.datasets().items():
        table.add_row(name, escape(dataset.licence), escape(state(dataset)))
    console().print(table)


@data_group.command("fetch")
@click.argument("name")
def fetch_data(name: str) -> None:
    """Bring a data set's images to this machine and check that they are what they should be."""
    from medbreach import plugins

    dataset = plugins.pick(plugins.datasets(), name, "data set")
    try:
        click.echo(dataset.fetch())
    except NotApplicable:
        if reads_files(dataset) or dataset.missing():
            raise
        click.echo(f"{dataset.name} is here already: it is installed with medbreach")


def state(dataset: type["Dataset"]) -> str:
    """Return whether a data set's images are here, and if not, how to get them."""
    from medbreach.components import Dataset

    if reads_files(dataset):
        return "reads files of yours: give case.data.path"
    missing = dataset.missing()
    can_fetch = dataset.fetch.__func__ is not Dataset.fetch.__func__  # type: ignore[attr-defined]
    if missing and can_fetch:
        return f"no: medbreach data fetch {dataset.name}"
    return missing or "yes"


def reads_files(dataset: type["Dataset"]) -> bool:
    """Return whether a data set has no images of its own, only files that the user gives."""
    import dataclasses

    fields = {f.name: f for f in dataclasses.fields(dataset)}  # type: ignore[arg-type]
    return "path" in fields and fields["path"].default is dataclasses.MISSING
