"""``medbreach check-model``."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from medbreach.cli.codes import Exit
from medbreach.cli.console import console, waiting
from medbreach.cli.verbosity import VERBOSE

if TYPE_CHECKING:
    from medbreach.components import Model
    from medbreach.inspection import Agreed, Inspection


def image_shape(_: click.Context, __: click.Parameter, value: str) -> tuple[int, ...]:
    """Return channels, then height and width or depth, height and width."""
    parts = value.lower().replace("x", ",").split(",")
    if len(parts) not in (3, 4) or not all(p.isdigit() and int(p) > 0 for p in parts):
        raise click.BadParameter(
            "write channels, height and width, such as 3,224,224, or channels, depth, height and "
            "width, such as 1,64,64,64"
        )
    return tuple(map(int, parts))


@click.command("check-model")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--architecture",
    required=True,
    metavar="NAME|FILE.py:FUNCTION",
    help="What was agreed on: a name in `medbreach list models`, or a function of yours that "
    "returns the network. Your file is run.",
)
@click.option(
    "--shape",
    required=True,
    callback=image_shape,
    metavar="C,H,W|C,D,H,W",
    help="Shape of one image, channels first.",
)
@click.option(
    "--classes", required=True, type=click.IntRange(min=1), help="Number of classes agreed on."
)
@click.option(
    "--previous",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="What the server sent one round before.",
)
@click.option(
    "--public",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Images that need no protection, to try the model on; never your patients'.",
)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text")
@VERBOSE
def check_model_command(
    file: Path,
    architecture: str,
    shape: tuple[int, ...],
    classes: int,
    previous: Path | None,
    public: Path | None,
    form: str,
) -> int:
    """Check a model that a server sent, before you train it.

    FILE is a state dict, saved by torch.save(network.state_dict(), FILE); nothing in it is run. It
    is compared with the agreed architecture and tried on random images, in search of what a server
    needs to read single records out of your update.

    Exit codes: 0 nothing found, 1 something found, 2 wrong input.
    """
    from medbreach.inspection import inspect_sent
    from medbreach.inspection.public import read_public
    from medbreach.models.weights import read_weights

    sent = read_weights(file)
    before = None if previous is None else read_weights(previous)
    agreed = _agreed(architecture, shape, classes)
    images = None
    if public is not None:
        images, spec = read_public(public, agreed.spec)
        agreed = replace(agreed, spec=spec)
    with waiting("looking at the model", quiet=False):
        found = inspect_sent(sent, agreed, before, images)
    if form == "json":
        click.echo(_json(file, agreed, found))
    else:
        _show(file, agreed, found)
    return Exit.FOUND if found.signs else Exit.NOTHING_FOUND


def _agreed(architecture: str, shape: tuple[int, ...], classes: int) -> "Agreed":
    """Return the agreed architecture.

    Raises:
        MedbreachError: It is unknown, or cannot be built for such images.
    """
    import torch

    from medbreach.inspection import Agreed
    from medbreach.types import ImageSpec

    spec = ImageSpec(shape[0], shape[1:])
    network = _model(architecture)(spec, classes, torch.Generator().manual_seed(0))
    return Agreed(network, architecture, spec)


def _model(architecture: str) -> "Model":
    from medbreach import plugins
    from medbreach.models.user_network import UserNetwork
    from medbreach.settings import build

    if ".py" in architecture:
        return UserNetwork.parse(architecture, "--architecture")
    return build(plugins.pick(plugins.models(), architecture, "model"), {}, architecture)


def _json(file: Path, agreed: "Agreed", found: "Inspection") -> str:
    signs = [
        {"kind": s.kind, "where": list(s.where), "sure": s.sure, "words": s.words}
        for s in found.signs
    ]
    told = {
        "file": str(file),
        "architecture": agreed.name,
        "signs": signs,
        "notes": list(found.notes),
    }
    return json.dumps(told, indent=2)


def _show(file: Path, agreed: "Agreed", found: "Inspection") -> None:
    from rich.markup import escape

    from medbreach.text import legible

    screen = console()
    name = escape(legible(f"{file.name}, compared with {agreed.name}"))
    if found.signs:
        screen.print(f"[bold red]{name}: do not train this model[/]")
    else:
        screen.print(f"[bold green]{name}: nothing found[/]")
    for sign in found.signs:
        where = ", ".join(sign.where[:4]) + (", ..." if len(sign.where) > 4 else "")
        place = f" ({where})" if where else ""
        text = f"- {sign.kind}, {sign.sure} confidence{place}: {sign.words}."
        screen.print(escape(legible(text)), soft_wrap=True, highlight=False)
    for note in found.notes:
        screen.print(escape(legible(f"note: {note}.")), soft_wrap=True, highlight=False)
