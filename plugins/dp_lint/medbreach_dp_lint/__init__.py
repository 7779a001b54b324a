"""Reads differential-privacy configurations, and says what they give and what is wrong."""

from typing import TYPE_CHECKING

from medbreach import hookimpl

if TYPE_CHECKING:
    import click


@hookimpl
def medbreach_commands(cli: "click.Group") -> None:
    """Add ``medbreach dp-lint``."""
    from medbreach_dp_lint.command import dp_lint_command

    cli.add_command(dp_lint_command)
