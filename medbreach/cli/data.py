"""``medbreach data``: which images are at hand, and how to get the others."""

import click


@click.group("data")
def data_group() -> None:
    """List the data sets and whether their images are here; fetch those that can be."""


@data_group.command("list")
def list_data() -> None:
    """List the data sets, their terms, and whether their images are on this machine."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from medbreach import plugins

    table = Table(box=None, pad_edge=False)
    for title in ("data set", "licence", "here?"):
        table.add_column(title)
    for name, dataset in plugins.datasets().items():
        missing = dataset.missing()
        table.add_row(name, escape(dataset.licence), escape(missing) if missing else "yes")
    Console().print(table)


@data_group.command("fetch")
@click.argument("name")
def fetch_data(name: str) -> None:
    """Bring a data set's images to this machine and check that they are what they should be."""
    from medbreach import plugins

    dataset = plugins.pick(plugins.datasets(), name, "data set")
    click.echo(dataset.fetch())
