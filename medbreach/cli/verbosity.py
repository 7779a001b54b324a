"""How much the program says of what it does."""

import logging
import warnings
from typing import TextIO

import click

LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)


def be_verbose(_: click.Context, __: click.Parameter, count: int) -> None:
    """Show medbreach's log, and warnings of the libraries that it uses."""
    if count:
        logging.getLogger("medbreach").setLevel(LEVELS[min(count, 2)])
        warnings.filterwarnings("default")


def start_quietly() -> None:
    """Show warnings of medbreach itself only, one line each."""
    logging.basicConfig(format="%(levelname)s %(message)s")
    logging.getLogger("medbreach").setLevel(LEVELS[0])
    warnings.showwarning = _show_warning
    warnings.filterwarnings("ignore")
    warnings.filterwarnings("default", message="plugin ")


VERBOSE = click.option(
    "-v",
    "--verbose",
    count=True,
    expose_value=False,
    callback=be_verbose,
    help="Say more; -vv adds tracebacks of attacks that fail.",
)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    del category, filename, lineno, file, line
    click.echo(f"medbreach: {message}", err=True)
