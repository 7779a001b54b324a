"""``medbreach federate``."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from medbreach.cli.audit import CASES, DEVICE, MODEL, QUIET, READING, user_network
from medbreach.cli.codes import Exit
from medbreach.cli.console import waiting
from medbreach.cli.verbosity import VERBOSE

if TYPE_CHECKING:
    from medbreach_federation.record import RoundLine
    from medbreach_federation.strategy import Played


@click.command("federate")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="[runs/federation-CASE]"
)
@click.option(
    "--capture",
    "wanted",
    metavar="ROUND[,ROUND...]|all",
    help="Keep what was sent in these rounds, to audit it: medbreach audit case=captured. No "
    "images are kept.",
)
@click.option("--processes", type=click.IntRange(1), help="Clients at a time.  [one a core]")
@click.option("--ray", metavar="ADDRESS", help="A Ray cluster that runs already, or auto.")
@click.option("--gpus", type=click.FloatRange(0), default=0.0, help="Share of a GPU a client.")
@CASES
@MODEL
@DEVICE
@QUIET
@VERBOSE
def federate_command(
    settings: tuple[str, ...],
    out: Path | None,
    wanted: str | None,
    processes: int | None,
    ray: str | None,
    gpus: float,
    cases: Path | None,
    model: str | None,
    device: str | None,
    quiet: bool,
) -> int:
    """Train a case's network over whole federated rounds, on Flower.

    Settings are those of `medbreach audit` for the case and its defenses, and federation.rounds,
    .clients, .fraction, .partition, .local_epochs, .batch_size, .learning_rate, .optimizer,
    .strategy (fedavg, fedprox, fedadam, fedyogi, fedadagrad, median, trimmed_mean, krum,
    multi_krum), .seed: case=dermoscopy_melanoma federation.clients=8 federation.strategy=krum. The
    case is dermoscopy_melanoma unless you name one.

    What is cut off goes on after its last round when the same command is given again; with a
    greater federation.rounds it is trained further.
    """
    from medbreach.devices import pick_device
    from medbreach_federation.capture import capture, check_capture, rounds_in
    from medbreach_federation.classifier import build
    from medbreach_federation.cluster import Cluster
    from medbreach_federation.prepare import prepare_federation
    from medbreach_federation.runner import run_federation
    from medbreach_federation.tables import as_text

    where = pick_device("auto" if device is None else device)
    cluster = Cluster(ray or "", processes, gpus)
    cluster.check()  # before a whole case is read
    with waiting(READING, quiet=quiet):
        made = prepare_federation(settings, where, out, cases=cases, network=user_network(model))
    setting = made.setting
    rounds = rounds_in(wanted, setting.rounds)
    made.check()
    check_capture(made, rounds)

    def keep(played: "Played") -> None:
        if played.round in rounds:
            capture(made, played)

    try:
        lines = run_federation(
            made.folder,
            build,
            made.rule(),
            setting.rounds,
            fraction=setting.fraction,
            seed=setting.seed,
            tell=_teller(setting.rounds, quiet=quiet),
            keep=keep,
            timeout=setting.timeout,
            cluster=cluster,
            learner=made.learner,
            claim=made.claim,
        )
    except KeyboardInterrupt:
        click.echo("\nstopped; give the same command again to go on", err=True)
        return Exit.STOPPED
    click.echo(as_text(made, lines))
    return 0


def _teller(rounds: int, *, quiet: bool) -> "Callable[[RoundLine], None]":
    """Return what says a line a round."""

    def tell(line: "RoundLine") -> None:
        if quiet:
            return
        told = ", ".join(f"{name} {value:.3f}" for name, value in line.evaluation.items())
        click.echo(f"round {line.round} of {rounds}: {told}, {line.seconds:.1f} s", err=True)
        for client, why in line.isolated.items():
            click.echo(f"  client {client} is left out: {why}", err=True)

    return tell
