"""``medbreach tradeoff``."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medbreach.cli.audit import CASES, DEVICE, MODEL, QUIET, READING, user_network
from medbreach.cli.codes import Exit
from medbreach.cli.console import console, waiting
from medbreach.cli.verbosity import VERBOSE
from medbreach.errors import ConfigError

if TYPE_CHECKING:
    from medbreach.tradeoff.run import Tradeoff


@click.command("tradeoff")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--grid",
    multiple=True,
    metavar="DEFENSE.KEY=[V1,V2,...]",
    help="Try a defense at each of these strengths; may be given several times.",
)
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="[runs/tradeoff-CASE]")
@CASES
@MODEL
@DEVICE
@QUIET
@VERBOSE
def tradeoff_command(
    settings: tuple[str, ...],
    grid: tuple[str, ...],
    out: Path | None,
    cases: Path | None,
    model: str | None,
    device: str | None,
    quiet: bool,
) -> int:
    """Weigh what defenses buy against the accuracy that they cost.

    Every stack of defenses is audited, and trained with over whole federated rounds; the network is
    tested on images of other patients. Settings are those of `medbreach audit`, and training.rounds
    and the like: defense=[none,gaussian_noise] attack=[invertinggradients] training.rounds=50. The
    case is dermoscopy_melanoma unless you name one.

    What is cut off goes on where it was when the same command is given again.
    """
    from medbreach.devices import pick_device
    from medbreach.tradeoff.prepare import prepare_tradeoff
    from medbreach.tradeoff.report import write

    where = pick_device("auto" if device is None else device)
    with waiting(READING, quiet=quiet):
        made = prepare_tradeoff(
            settings, where, out, cases=cases, grid=_grid(grid), network=user_network(model)
        )
    made.open()
    try:
        _trained(made, quiet=quiet)
        _audited(made, quiet=quiet)
    except KeyboardInterrupt:
        click.echo("\nstopped; give the same command again to go on", err=True)
        return Exit.STOPPED
    click.echo(write(made))
    click.echo(f"report: {made.folder / 'tradeoff.html'}", err=True)
    return 0


def _grid(given: tuple[str, ...]) -> dict[str, list[Any]]:
    """Return the values of each setting that is varied.

    Raises:
        ConfigError: One is not written as it should be.
    """
    from medbreach.config import value_of

    found: dict[str, list[Any]] = {}
    for text in given:
        place, equals, written = text.partition("=")
        _, dot, key = place.partition(".")
        if not (equals and dot and key):
            raise ConfigError(f"--grid {text!r}: write DEFENSE.KEY=[V1,V2,...]")
        if place in found:
            raise ConfigError(f"--grid {place} is given twice: write all values in one list")
        values = value_of(f"defense.{key}={written}")
        found[place] = values if isinstance(values, list) else [values]
    return found


def _trained(made: "Tradeoff", *, quiet: bool) -> None:
    stacks, seeds = made.session.plan.stacks, made.trained_seeds
    total = len(stacks) * len(seeds) * made.training.rounds
    before = len(made.lines()) * made.training.rounds
    with _progress(total, before, quiet=quiet) as tell:
        for line in made.train(tell):
            end = line.problem or f"accuracy {line.curve[-1][1]:.1%}, {line.seconds:.0f} s"
            if not quiet:
                click.echo(f"trained {line.stack}, seed {line.seed}: {end}", err=True)


@contextlib.contextmanager
def _progress(total: int, before: int, *, quiet: bool) -> Iterator[Any]:
    """Show how far all trainings are, where there is a terminal."""
    from rich.progress import Progress

    errors = console(stderr=True)
    if quiet or not errors.is_terminal:
        yield lambda *_: None
        return
    with Progress(console=errors, transient=True) as bars:
        bar = bars.add_task("training", total=total, completed=before)
        last: dict[tuple[str, int], int] = {}

        def tell(stack: str, seed: int, done: int) -> None:
            bars.update(bar, description=f"training {stack}, seed {seed}")
            bars.advance(bar, done - last.get((stack, seed), 0))
            last[stack, seed] = done

        yield tell


def _audited(made: "Tradeoff", *, quiet: bool) -> None:
    from medbreach.cli.screen import follower
    from medbreach.record import RunRecord
    from medbreach.report import write_reports
    from medbreach.session import carry_out

    record = made.run_record()
    missing = record.missing()
    if missing:
        opening = f"auditing: {len(missing)} attempts"
        with follower(missing, opening, quiet=quiet) as screen:
            for _ in carry_out(made.session, record, screen):
                pass
    write_reports(RunRecord.open(record.folder))
