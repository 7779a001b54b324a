"""``medbreach reproduce``."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from medbreach.cli.audit import DEVICE
from medbreach.cli.published import show, tell
from medbreach.cli.verbosity import VERBOSE
from medbreach.errors import PluginError


class Published(click.Group):
    """Published results by name: medbreach's own, and those that plugins bring."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a published result by name."""
        if cmd_name not in self.commands:
            self._load_plugins()
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all published results."""
        self._load_plugins()
        return super().list_commands(ctx)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the result that the arguments name, and its own arguments.

        Raises:
            UsageError: There is none of that name.
        """
        if self.get_command(ctx, args[0]) is None:
            known = ", ".join(sorted(self.commands))
            raise click.UsageError(f"{args[0]!r} is no published result: choose {known}", ctx)
        return super().resolve_command(ctx, args)

    def _load_plugins(self) -> None:
        from medbreach import plugins

        for offered in plugins.call("medbreach_reproductions"):
            for name, command in _named(offered):
                self.commands.setdefault(name, command)


def _named(offered: Any) -> Iterator[tuple[str, click.Command]]:
    """Yield the commands that a plugin offers, by name.

    Raises:
        PluginError: It offers something else.
    """
    for command in offered if isinstance(offered, Iterable) else [offered]:
        if not (isinstance(command, click.Command) and command.name):
            raise PluginError(
                f"{command!r} was offered as a command of medbreach reproduce, which it is not"
            )
        yield command.name, command


@click.group("reproduce", cls=Published)
@VERBOSE
def reproduce_command() -> None:
    """Make a published result again, beside what it is worth.

    The table is written as text, CSV and HTML. A run that is cut off goes on where it was when the
    same command is given again.
    """


@click.command()
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
@click.pass_context
def dkfz(
    context: click.Context,
    data: Path | None,
    out: Path | None,
    quick: bool,
    seeds: int,
    device: str | None,
) -> None:
    """A malicious server reads images out of an update.

    Parampottupadam et al. 2024, doi:10.1007/978-3-031-79103-1_24.
    """
    from medbreach.devices import pick_device
    from medbreach.reproductions.dkfz_setting import Setting
    from medbreach.reproductions.run import reproduce

    assert context.info_name is not None
    setting = Setting(context.info_name, None if data is None else str(data), seeds, quick)
    folder = out or Path("runs") / setting.title
    where = pick_device("auto" if device is None else device)

    show(reproduce(setting, folder, where, tell), folder)


reproduce_command.add_command(dkfz, "dkfz_2d")
reproduce_command.add_command(dkfz, "dkfz_3d")
