"""``medbreach audit`` and ``medbreach resume``."""

import re
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medbreach.cli.codes import Exit
from medbreach.cli.console import waiting
from medbreach.cli.verbosity import VERBOSE
from medbreach.errors import ConfigError, RecordError

if TYPE_CHECKING:
    from medbreach.conclusion import Conclusion
    from medbreach.models.user_network import UserNetwork
    from medbreach.record import RunRecord
    from medbreach.session import Session


def fail_on(_: click.Context, __: click.Parameter, value: str) -> float:
    """Return the least share of identified records that ends with exit code 1."""
    if value == "any":
        return 0.0
    if value == "never":
        return float("inf")
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", value)
    if not match or float(match[1]) > 100:
        raise click.BadParameter("write any, never, or a share of records such as 25%")
    return float(match[1]) / 100


READING = "reading the images and building the network"
OUT = click.Path(file_okay=True, path_type=Path)
MODEL = click.option(
    "--model",
    metavar="FILE.py:FUNCTION",
    help="Your own network. The file is run: it is the one place where code of yours is.",
)
CASES = click.option(
    "--cases",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="A config tree of your own, searched first.",
)
DEVICE = click.option("--device", metavar="auto|cpu|cuda:N", help="Where to compute.  [auto]")
FAIL_ON = click.option(
    "--fail-on",
    default="any",
    callback=fail_on,
    metavar="any|never|N%",
    help="Leak that ends with exit code 1: any record identified above chance, or a share.  [any]",
)
QUIET = click.option(
    "-q", "--quiet", is_flag=True, help="Print the verdict and where the report lies, only."
)


@click.command("audit")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--out", type=OUT, metavar="DIR", help="Run folder.  [runs/CASE-TIME]")
@click.option("--overwrite", is_flag=True, help="Replace a run that is in the folder.")
@CASES
@MODEL
@DEVICE
@FAIL_ON
@QUIET
@VERBOSE
def audit_command(
    settings: tuple[str, ...],
    out: Path | None,
    overwrite: bool,
    cases: Path | None,
    model: str | None,
    device: str | None,
    fail_on: float,
    quiet: bool,
) -> int:
    """Audit a case: play a round, attack it, and say what leaked.

    Settings are breaching's and ours: case=dermoscopy_2d, case/server=malicious-model-rtf,
    attack=[blind_guess,invertinggradients], case.user.num_data_points=8, audit.seeds=3.
    `medbreach list` names the choices; settings that are not
    given are those of `medbreach show case dermoscopy_2d` and attack=invertinggradients.
    """
    from medbreach import config
    from medbreach.assembly import refuse_inert
    from medbreach.devices import pick_device
    from medbreach.record import RunRecord, refuse_taken
    from medbreach.session import header, prepare

    if out is not None:
        refuse_taken(out, overwrite=overwrite)
    network = user_network(model)
    chosen = config.load(settings, cases)
    where = pick_device("auto" if device is None else device)
    with waiting(READING, quiet=quiet):
        session = prepare(chosen, where, network)
    refuse_inert(settings, session.plan, chosen)
    head = header(session, chosen, settings)
    folder = out or Path("runs") / _folder_name(session.plan.case.name)
    record = RunRecord.create(folder, head, overwrite=overwrite)
    return _carry_out(session, record, fail_on, quiet, model)


@click.command("resume")
@click.argument("folder", type=click.Path(path_type=Path))
@MODEL
@DEVICE
@FAIL_ON
@QUIET
@VERBOSE
def resume_command(
    folder: Path, model: str | None, device: str | None, fail_on: float, quiet: bool
) -> int:
    """Go on with a run that was cut off; nothing is repeated."""
    from medbreach.devices import pick_device
    from medbreach.record import RunRecord
    from medbreach.session import prepare

    record = RunRecord.open(folder)
    head = record.header()
    network = user_network(model)
    _check_same_network(head.get("user_network"), network)
    where = pick_device(str(head.get("device", "auto")) if device is None else device)
    with waiting(READING, quiet=quiet):
        session = prepare(head["settings"], where, network)
    return _carry_out(session, record, fail_on, quiet, model)


def _folder_name(case: str) -> str:
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return re.sub(r"[^\w-]", "_", f"{case}-{stamp}")


def user_network(reference: str | None) -> "UserNetwork | None":
    """Return the network that ``--model`` names, or None."""
    from medbreach.models.user_network import UserNetwork

    return None if reference is None else UserNetwork.parse(reference)


def _check_same_network(used: Any, given: "UserNetwork | None") -> None:
    """Check that a resumed run is given the network that it began with.

    Raises:
        RecordError: It is given none or another.
        ConfigError: It is given one that it did not begin with.
    """
    if used is None:
        if given is not None:
            raise ConfigError("this run did not use a network of yours: leave --model out")
        return
    if given is None:
        raise RecordError(
            f"this run uses {used['file']}:{used['factory']}, which only you can let it run: "
            f"repeat --model path/to/{used['file']}:{used['factory']}"
        )
    if (given.digest, given.factory) != (used["sha256"], used["factory"]):
        raise RecordError(f"{given.path.name}:{given.factory} is not what this run began with")


def _carry_out(
    session: "Session", record: "RunRecord", fail_on: float, quiet: bool, model: str | None
) -> int:
    """Run what the record lacks, say what came out, and return the exit code.

    Raises:
        RecordError: The record cannot be written.
    """
    from medbreach.cli.screen import follower, show_conclusion
    from medbreach.conclusion import conclude
    from medbreach.report import write_reports
    from medbreach.session import carry_out

    missing = record.missing()
    opening = (
        f"{session.plan.case.name}: {len(missing)} attempt{'s' * (len(missing) != 1)} on "
        f"{session.device}, "
        f"recorded in {record.folder}"
    )
    try:
        with follower(missing, opening, quiet=quiet) as screen:
            for _ in carry_out(session, record, screen):
                pass
        alpha = session.plan.options.alpha
        conclusion = conclude(record.findings().values(), record.header()["attempts"], alpha)
        written = write_reports(record)
    except KeyboardInterrupt:
        click.echo(f"\nstopped; {_how_to_go_on(record, model)}", err=True)
        return Exit.STOPPED
    except RecordError as error:
        raise RecordError(f"{error}; {_how_to_go_on(record, model)}") from error
    show_conclusion(conclusion, written, quiet=quiet)
    return exit_code(conclusion, fail_on)


def _how_to_go_on(record: "RunRecord", model: str | None) -> str:
    options = "" if model is None else f" --model {shlex.quote(model)}"
    folder = shlex.quote(str(record.folder))
    return f"what is done is recorded, go on with: medbreach resume {folder}{options}"


def exit_code(conclusion: "Conclusion", fail_on: float) -> int:
    """Return the program's exit code for a conclusion."""
    from medbreach.conclusion import share_leaked
    from medbreach.types import Verdict

    if conclusion.verdict is Verdict.LEAK and share_leaked(conclusion) >= fail_on:
        return Exit.LEAK
    settled = (Verdict.LEAK, Verdict.NO_LEAK, Verdict.REFUSED)
    open_question = conclusion.verdict not in settled or any(
        cell.verdict not in settled for cell in conclusion.cells
    )
    return Exit.INCONCLUSIVE if open_question else Exit.NO_LEAK
