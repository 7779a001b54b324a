"""``medbreach reproduce learnable_perturbation``."""

from pathlib import Path

import click

from medbreach.cli.audit import DEVICE
from medbreach.cli.published import OUT, folder_of, show, size_of, tell


@click.command("learnable_perturbation")
@click.option(
    "--data",
    default="",
    metavar="cifar10|bloodmnist|PATH",
    help="The images: a folder of pictures with a subfolder a class, or an .npz file.  "
    "[packaged dermoscopy patches]",
)
@OUT
@click.option("--quick", is_flag=True, help="A small network, few variants: half an hour.")
@click.option(
    "--full",
    is_flag=True,
    help="The published sizes: days, on a GPU too. The default takes hours without one.",
)
@DEVICE
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

    size = size_of(quick, full)
    setting = Setting(data, {"quick": QUICK, "normal": NORMAL, "full": FULL}[size])
    folder = folder_of(out, "learnable_perturbation", data, size)
    where = pick_device("auto" if device is None else device)

    show(reproduce(setting, folder, where, tell), folder)
