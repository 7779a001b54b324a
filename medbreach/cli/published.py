"""What the commands that make a published result again have in common."""

from pathlib import Path
from typing import Final, Literal

import click

Size = Literal["quick", "normal", "full"]

OUT: Final = click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where to write.  [runs/NAME, with the images' name, -quick or -full added]",
)


def size_of(quick: bool, full: bool) -> Size:
    """Return how much is computed.

    Raises:
        UsageError: Both are asked for.
    """
    if quick and full:
        raise click.UsageError("--quick and --full contradict: give one of them")
    return "quick" if quick else "full" if full else "normal"


def folder_of(out: Path | None, name: str, data: str, size: Size) -> Path:
    """Return where a result is kept.

    Args:
        out: What the user asks for, if anything.
        name: Of the result.
        data: The user's images; empty: packaged ones.
        size: How much is computed.
    """
    images = f"-{Path(data).resolve().stem}" if data else ""
    return out or Path("runs") / f"{name}{images}{'' if size == 'normal' else f'-{size}'}"


def tell(words: str) -> None:
    """Say how far it is."""
    click.echo(words, err=True)


def show(text: str, folder: Path) -> None:
    """Print the tables, and say where the page lies."""
    click.echo(text)
    tell(f"report: {folder / 'table.html'}")
