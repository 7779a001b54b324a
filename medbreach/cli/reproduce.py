"""``medbreach reproduce``."""

from pathlib import Path

import click

from medbreach.cli.audit import DEVICE
from medbreach.cli.verbosity import VERBOSE

PUBLISHED = ("dkfz_2d", "dkfz_3d")


@click.command("reproduce")
@click.argument("name", type=click.Choice(PUBLISHED))
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="The images that were published on: the Kaggle brain-tumour folder, or MosMedData.  "
    "[packaged or fetched ones]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where to write.  [runs/NAME, with the folder's name, -quick and the seeds added]",
)
@click.option("--quick", is_flag=True, help="Six clients and small images: minutes on two cores.")
@click.option("--seeds", type=click.IntRange(1, 100), default=3, show_default=True)
@DEVICE
@VERBOSE
def reproduce_command(
    name: str, data: Path | None, out: Path | None, quick: bool, seeds: int, device: str | None
) -> None:
    """Make a published result again, beside what it is worth.

    dkfz_2d and dkfz_3d: a malicious server reads images out of an update (Parampottupadam et al.
    2024, doi:10.1007/978-3-031-79103-1_24).

    The table is written as text, CSV and HTML. A run that is cut off goes on where it was when the
    same command is given again.
    """
    from medbreach.devices import pick_device
    from medbreach.reproductions.dkfz_setting import Setting
    from medbreach.reproductions.run import reproduce

    setting = Setting(name, None if data is None else str(data), seeds, quick)
    folder = out or Path("runs") / setting.title
    where = pick_device("auto" if device is None else device)

    def tell(words: str) -> None:
        click.echo(words, err=True)

    click.echo(reproduce(setting, folder, where, tell))
    click.echo(f"report: {folder / 'table.html'}", err=True)
