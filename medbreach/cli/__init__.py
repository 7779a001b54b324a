"""The ``medbreach`` program. Nothing heavy is imported before a command needs it."""

import os
import sys
import traceback
from collections.abc import Sequence

import click

from medbreach.cli.audit import audit_command, resume_command
from medbreach.cli.check_model import check_model_command
from medbreach.cli.codes import Exit
from medbreach.cli.data import data_group
from medbreach.cli.inspect import list_command, show_command
from medbreach.cli.plugin import plugin_group
from medbreach.cli.report import report_command
from medbreach.cli.reproduce import reproduce_command
from medbreach.cli.tradeoff import tradeoff_command
from medbreach.cli.verbosity import VERBOSE, start_quietly
from medbreach.errors import MedbreachError
from medbreach.text import legible


class Program(click.Group):
    """The commands, those of plugins included, which are loaded when another name is asked for."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by name."""
        command = super().get_command(ctx, cmd_name)
        if command is None:
            self._load_plugins()
            command = super().get_command(ctx, cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the arguments name, and its own arguments.

        Raises:
            UsageError: There is none of that name.
        """
        if self.get_command(ctx, args[0]) is None:
            from medbreach.settings import nearest

            raise click.UsageError(
                f"there is no command {args[0]}; {nearest(args[0], self.commands)}", ctx
            )
        return super().resolve_command(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Say which plugins might add commands."""
        del ctx
        from importlib import metadata

        names = sorted(e.name for e in metadata.entry_points(group="medbreach"))
        if names:
            formatter.write_paragraph()
            formatter.write_text(f"Installed plugins, which may add commands: {', '.join(names)}.")

    def _load_plugins(self) -> None:
        from medbreach import plugins

        plugins.call("medbreach_commands", cli=self)


@click.group(
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="medbreach")
@VERBOSE
def program() -> None:
    """Audit what a federated model's updates give away of patients' images.

    Exit codes: 0 no leak found, 1 a leak, 2 wrong input, 3 inconclusive; 70 a fault of medbreach,
    130 stopped by Ctrl-C.
    """


for command in (
    audit_command,
    resume_command,
    tradeoff_command,
    check_model_command,
    report_command,
    reproduce_command,
    list_command,
    show_command,
    data_group,
    plugin_group,
):
    program.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program; end with its exit code.

    Args:
        arguments: What follows the program's name; None for the process's own.
    """
    # Before torch is loaded: threads that spin while they wait stall each other on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    start_quietly()
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    """Return the exit code of a run; whatever goes wrong is one line on standard error."""
    try:
        code = program(arguments, prog_name="medbreach", standalone_mode=False)
    except click.Abort:
        click.echo("stopped", err=True)
        return Exit.STOPPED
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "medbreach"
        return _complain(f"{error.format_message().rstrip('.')} (see {command} --help)")
    except click.ClickException as error:
        return _complain(error.format_message())
    except MedbreachError as error:
        return _complain(str(error))
    except (BrokenPipeError, SystemExit):  # click and rich exit, with 1, when nobody reads on
        return Exit.PIPE_CLOSED
    except Exception as error:  # noqa: BLE001 - a crash must not look like a leak, which is 1
        traceback.print_exc()
        click.echo(f"medbreach: this is a fault of medbreach: {type(error).__name__}", err=True)
        return Exit.CRASHED
    return code if isinstance(code, int) else 0


def _complain(sentence: str) -> int:
    click.echo(f"medbreach: {legible(' '.join(sentence.split()))}", err=True)
    return Exit.WRONG_INPUT
