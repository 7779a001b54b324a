"""``medbreach report``."""

from pathlib import Path

import click

FORMATS = ("html", "json", "text", "junit")


@click.command("report")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(FORMATS), default="html", show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where to write the report.  [the run folder]",
)
@click.option("--redact", is_flag=True, help="Leave images and paths out.")
def report_command(folder: Path, form: str, out: Path | None, redact: bool) -> None:
    """Render a run's report again: its verdict, its images, its controls.

    The report is written to a file; text, json and junit are printed too.
    """
    from medbreach.record import RunRecord
    from medbreach.report import render, write

    record = RunRecord.open(folder)
    text = render(record, form, redact=redact)
    file = write(text, form, out or folder, redact=redact)
    if form != "html":
        click.echo(text)
    click.echo(f"report: {file}", err=form != "html")
