"""The ``medbreach`` program. Nothing heavy is imported before a command needs it."""

import logging
import os
import sys
import warnings
from typing import Any

import click

from medbreach.cli.audit import audit_command, resume_command
from medbreach.cli.data import data_group
from medbreach.cli.inspect import list_command, show_command
from medbreach.cli.plugin import plugin_group
from medbreach.cli.report import report_command
from medbreach.errors import InputError, MedbreachError

WRONG_INPUT = 2
INTERRUPTED = 130


class Program(click.Group):
    """The commands, those of plugins included, which are loaded when another name is asked for."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by name."""
        command = super().get_command(ctx, cmd_name)
        if command is None:
            self._load_plugins()
            command = super().get_command(ctx, cmd_name)
        return command

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Say which plugins might add commands."""
        from importlib import metadata

        names = sorted(e.name for e in metadata.entry_points(group="medbreach"))
        if names:
            formatter.write_paragraph()
            formatter.write_text(f"Installed plugins, which may add commands: {', '.join(names)}.")

    def _load_plugins(self) -> None:
        from medbreach import plugins

        plugins.manager().hook.medbreach_commands(cli=self)


@click.group(
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="medbreach")
@click.option("-v", "--verbose", count=True, help="Say more; -vv for everything.")
def program(verbose: int) -> None:
    """Audit what a federated model's updates give away of patients' images.

    Exit codes: 0 no leak found, 1 a leak, 2 wrong input, 3 inconclusive.
    """
    levels = (logging.WARNING, logging.INFO, logging.DEBUG)
    logging.basicConfig(level=levels[min(verbose, 2)], format="%(levelname)s %(message)s")
    warnings.showwarning = _show_warning
    if not verbose:
        warnings.filterwarnings("ignore")
        warnings.filterwarnings("default", message="plugin .* is left out")


for command in (
    audit_command,
    resume_command,
    report_command,
    list_command,
    show_command,
    data_group,
    plugin_group,
):
    program.add_command(command)


def main() -> None:
    """Run the program; end with its exit code."""
    # Before torch is loaded: threads that spin while they wait stall each other on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        code = program(standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("stopped", err=True)
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except InputError as error:
        click.echo(f"medbreach: {error}", err=True)
        sys.exit(WRONG_INPUT)
    except MedbreachError as error:
        click.echo(f"medbreach: {error}", err=True)
        sys.exit(WRONG_INPUT)
    except BrokenPipeError:
        sys.exit(0)
    sys.exit(code if isinstance(code, int) else 0)


def _show_warning(message: Any, category: type, *rest: Any) -> None:
    del category, rest
    click.echo(f"medbreach: {message}", err=True)
