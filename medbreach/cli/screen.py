"""What a run looks like in a terminal, and what it prints where there is none."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from medbreach.cli.console import console
from medbreach.conclusion import Conclusion
from medbreach.plan import Attempt
from medbreach.session import Follower
from medbreach.text import legible
from medbreach.types import Finding, Verdict

COLOURS = {Verdict.LEAK: "bold red", Verdict.NO_LEAK: "bold green", Verdict.SOLVED: "green"}
UPDATES = 200  # of a progress bar, at most


class Opening(Follower):
    """Says what is begun, as soon as its first attempt begins."""

    def __init__(self, console: Console, opening: str) -> None:
        self._console = console
        self._opening = opening

    def begins(self, attempt: Attempt) -> None:
        """Print the opening before the first attempt."""
        del attempt
        if self._opening:
            self._console.print(escape(legible(self._opening)), soft_wrap=True, highlight=False)
            self._opening = ""


class Bars(Opening):
    """Progress bars: all attempts, and the steps of the one that is under way."""

    def __init__(self, progress: Progress, total: int, opening: str) -> None:
        super().__init__(progress.console, opening)
        self._progress = progress
        self._all = progress.add_task("attempts", total=total)
        self._one: TaskID | None = None
        self._shown = 0

    def begins(self, attempt: Attempt) -> None:
        """Add a bar for the attempt."""
        super().begins(attempt)
        words = f"{attempt.attack} ({attempt.role})" if attempt.role != "attack" else attempt.attack
        self._one = self._progress.add_task(f"{words}, seed {attempt.seed}", total=None)
        self._shown = 0

    def steps(self, done: int, total: int) -> None:
        """Move the attempt's bar."""
        if self._one is not None and (done - self._shown) * UPDATES >= total:
            self._progress.update(self._one, completed=done, total=total)
            self._shown = done

    def ends(self, finding: Finding) -> None:
        """Print the finding and drop its bar."""
        if self._one is not None:
            self._progress.remove_task(self._one)
        self._progress.advance(self._all)
        self._progress.console.print(line_of(finding))


class Lines(Opening):
    """One line a finding, for logs."""

    def ends(self, finding: Finding) -> None:
        """Print the finding."""
        self._console.print(line_of(finding), soft_wrap=True)


@contextlib.contextmanager
def follower(attempts: Sequence[str], opening: str, *, quiet: bool) -> Iterator[Follower]:
    """Show what begins, then bars in a terminal, lines elsewhere, nothing if quiet."""
    errors = console(stderr=True)
    if quiet:
        yield Follower()
    elif not errors.is_terminal:
        yield Lines(errors, opening)
    else:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=errors, transient=True) as progress:
            yield Bars(progress, len(attempts), opening)


def line_of(finding: Finding) -> str:
    """Return a finding in one line, marked up."""
    colour = COLOURS.get(finding.verdict, "yellow")
    name = f"{finding.attack}{' + ' + ', '.join(finding.defenses) if finding.defenses else ''}"
    found = (
        f"{sum(finding.identified)} of {finding.records} identified, " if finding.records else ""
    )
    note = f": {finding.note}" if finding.note else ""
    role = "" if finding.role == "attack" else f" ({finding.role})"
    return escape(legible(f"{name}{role}, seed {finding.seed}: {found}")) + (
        f"[{colour}]{finding.verdict}[/]{escape(legible(note))}"
    )


def show_conclusion(conclusion: Conclusion, reports: Sequence[Path], *, quiet: bool) -> None:
    """Print the verdict, and where the reports lie."""
    screen = console()
    colour = COLOURS.get(conclusion.verdict, "bold yellow")
    if not quiet:
        screen.print(table_of(conclusion))
    screen.print(f"[{colour}]{escape(legible(conclusion.sentence))}[/]", soft_wrap=True)
    for reason in conclusion.reasons:
        screen.print(f"- {escape(legible(reason))}", soft_wrap=True)
    for file in reports:
        screen.print(f"report: {escape(str(file))}", soft_wrap=True, highlight=False)


def table_of(conclusion: Conclusion) -> Table:
    """Return what each attack showed, as a table."""
    table = Table(box=None, pad_edge=False)
    for title in ("attack", "defenses", "identified", "95 % interval", "p", "verdict"):
        table.add_column(title)
    for cell in conclusion.cells:
        rate, colour = cell.identified, COLOURS.get(cell.verdict, "yellow")
        table.add_row(
            escape(cell.attack),
            escape(", ".join(cell.defenses) or "none"),
            f"{rate.count} of {rate.total}",
            f"{rate.low:.0%} to {rate.high:.0%}",
            "" if cell.p_value is None else f"{cell.p_value:.2g}",
            f"[{colour}]{cell.verdict}[/]",
        )
    return table
