"""``medbreach reproduce feddetect``."""

from pathlib import Path

import click

from medbreach.cli.published import OUT, folder_of, show, size_of, tell


@click.command("feddetect")
@click.option(
    "--data",
    default="",
    metavar="PATH",
    help="The images: a folder of pictures, with a subfolder a class if they have labels, or an "
    ".npz file.  [packaged dermoscopy patches]",
)
@OUT
@click.option("--quick", is_flag=True, help="Tiny networks and few rounds: minutes.")
@click.option("--full", is_flag=True, help="The released numbers: days without a GPU.")
@click.option("--seeds", type=click.IntRange(1, 100), help="Runs of each kind.  [by size]")
@click.option(
    "--inception",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Weights of torchvision's Inception v3, to see the images with.  [a stand-in]",
)
@click.option("--device", metavar="auto|cpu|cuda", help="Where to compute.  [auto]")
def reproduce_command(
    data: str,
    out: Path | None,
    quick: bool,
    full: bool,
    seeds: int | None,
    inception: Path | None,
    device: str | None,
) -> None:
    """A backdoored federation of GANs, and FedDetect.

    Jin and Li 2023, arXiv:2210.10886: a client poisons its images with a small trigger, and the
    server looks for it in the losses of the generators.
    """
    from medbreach.devices import pick_device
    from medbreach_feddetect.reproduction.run import reproduce
    from medbreach_feddetect.reproduction.setting import FULL, NORMAL, QUICK, Setting

    size = size_of(quick, full)
    scale = {"quick": QUICK, "normal": NORMAL, "full": FULL}[size]
    where = pick_device("auto" if device is None else device)
    setting = Setting(data, scale, seeds or scale.seeds, inception, where.type)
    folder = folder_of(out, "feddetect", data, size)
    show(reproduce(setting, folder, tell), folder)
