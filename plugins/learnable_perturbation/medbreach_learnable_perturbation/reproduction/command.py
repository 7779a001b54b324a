"""``medbreach reproduce learnable_perturbation``."""

from pathlib import Path

import click


@click.command("learnable_perturbation")
@click.option(
    "--data",
    default="",
    metavar="cifar10|bloodmnist|PATH",
    help="The images: a folder of pictures with a subfolder a class, or an .npz file.  "
    "[packaged dermoscopy patches]",
)
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Where to write.")
@click.option("--quick", is_flag=True, help="A small network, few variants: half an hour.")
@click.option(
    "--full",
    is_flag=True,
    help="The published sizes: days, on a GPU too. The default takes hours without one.",
)
@click.option("--device", metavar="auto|cpu|cuda:N", help="Where to compute.  [auto]")
def reproduce_command(
    data: str, out: Path | None, quick: bool, full: bool, device: str | None
) -> None:
    """Noise on a network's latent against gradient inversion.

    Jiang, Firouzi and Chakrabarty 2025, arXiv:2503.16542: fixed and learned noise beside DP-SGD
    and BiDO, with a plain and an adaptive attacker.
    """
    from medbreach.devices import pick_device
    from medbreach_learnable_perturbation.reproduction.run import reproduce
    from medbreach_learnable_perturbation.reproduction.setting import FULL, NORMAL, QUICK, Setting

    if quick and full:
        raise click.UsageError("--quick and --full contradict: give one of them")
    setting = Setting(data, QUICK if quick else FULL if full else NORMAL)
    name = "-quick" if quick else "-full" if full else ""
    folder = out or Path("runs") / f"learnable_perturbation{name}"
    where = pick_device("auto" if device is None else device)

    def tell(words: str) -> None:
        click.echo(words, err=True)

    click.echo(reproduce(setting, folder, where, tell))
    click.echo(f"report: {folder / 'table.html'}", err=True)
