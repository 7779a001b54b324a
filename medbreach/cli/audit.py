"""``medbreach audit`` and ``medbreach resume``."""

import datetime
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medbreach.errors import ConfigError, RecordError

if TYPE_CHECKING:
    from medbreach.conclusion import Conclusion
    from medbreach.models.user_network import UserNetwork
    from medbreach.record import RunRecord
    from medbreach.session import Session

NO_LEAK, LEAK, INCONCLUSIVE, STOPPED = 0, 1, 3, 130


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


OUT = click.Path(file_okay=True, path_type=Path)
MODEL = click.option(
    "--model",
    metavar="FILE.py:FUNCTION",
    help="Your own network. The file is run: it is the one place where code of yours is.",
)
DEVICE = click.option("--device", metavar="auto|cpu|cuda:N", help="Where to compute.  [auto]")
FAIL_ON = click.option(
    "--fail-on",
    default="any",
    callback=fail_on,
    metavar="any|never|N%",
    help="Leak that ends with exit code 1: any record identified above chance, or a share.  [any]",
)
QUIET = click.option("-q", "--quiet", is_flag=True, help="Print the verdict only.")


@click.command("audit")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--out", type=OUT, metavar="DIR", help="Run folder.  [runs/CASE-TIME]")
@click.option("--overwrite", is_flag=True, help="Replace a run that is in the folder.")
@click.option(
    "--cases",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="A config tree of your own, searched first.",
)
@MODEL
@DEVICE
@FAIL_ON
@QUIET
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
    `medbreach list` names the choices.
    """
    from medbreach import config
    from medbreach.assembly import refuse_inert
    from medbreach.devices import pick_device
    from medbreach.record import RunRecord
    from medbreach.session import header, prepare

    refuse_inert(list(settings))
    network = _network(model)
    chosen = config.load(settings, cases)
    session = prepare(chosen, pick_device(device or "auto"), network)
    if out is None:
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
        out = Path("runs") / f"{session.plan.case.name}-{stamp}"
    head = header(session, chosen, settings, network)
    record = RunRecord.create(out, head, overwrite=overwrite)
    return _carry_out(session, record, fail_on, quiet)


@click.command("resume")
@click.argument("folder", type=click.Path(path_type=Path))
@MODEL
@DEVICE
@FAIL_ON
@QUIET
def resume_command(
    folder: Path, model: str | None, device: str | None, fail_on: float, quiet: bool
) -> int:
    """Go on with a run that was cut off; nothing is repeated."""
    from medbreach.devices import pick_device
    from medbreach.record import RunRecord
    from medbreach.session import prepare

    record = RunRecord.open(folder)
    head = record.header()
    network = _network(model)
    _check_same_network(head.get("user_network"), network)
    wanted = device or str(head.get("device", "auto"))
    session = prepare(head["settings"], pick_device(wanted), network)
    return _carry_out(session, record, fail_on, quiet)


def _network(reference: str | None) -> "UserNetwork | None":
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


def _carry_out(session: "Session", record: "RunRecord", fail_on: float, quiet: bool) -> int:
    from medbreach.cli.screen import follower, show_conclusion
    from medbreach.conclusion import conclude
    from medbreach.report import write_reports
    from medbreach.session import carry_out

    missing = record.missing()
    try:
        with follower(missing, quiet=quiet) as screen:
            for _ in carry_out(session, record, screen):
                pass
    except KeyboardInterrupt:
        click.echo(
            f"\nstopped; what is done is recorded. Go on with: medbreach resume {record.folder}",
            err=True,
        )
        return STOPPED
    alpha = session.plan.options.alpha
    conclusion = conclude(record.findings().values(), len(record.missing()), alpha)
    written = write_reports(record)
    show_conclusion(conclusion, written, quiet=quiet)
    return exit_code(conclusion, fail_on)


def exit_code(conclusion: "Conclusion", fail_on: float) -> int:
    """Return the program's exit code for a conclusion."""
    from medbreach.conclusion import share_leaked
    from medbreach.types import Verdict

    if conclusion.verdict is Verdict.LEAK:
        return LEAK if share_leaked(conclusion) >= fail_on else NO_LEAK
    return NO_LEAK if conclusion.verdict is Verdict.NO_LEAK else INCONCLUSIVE
