"""``medbreach reproduce feddetect``."""

from pathlib import Path

import click


@click.command("feddetect")
@click.option(
    "--data",
    default="",
    metavar="PATH",
    help="The images: a folder of pictures with a subfolder a class, or an .npz file.  "
    "[packaged dermoscopy patches]",
)
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Where to write.")
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

    if quick and full:
        raise click.UsageError("--quick and --full contradict: give one of them")
    scale = QUICK if quick else FULL if full else NORMAL
    where = pick_device("auto" if device is None else device)
    setting = Setting(data, scale, seeds or scale.seeds, inception, where.type)
    name = "-quick" if quick else "-full" if full else ""
    folder = out or Path("runs") / f"feddetect{name}"

    def tell(words: str) -> None:
        click.echo(words, err=True)

    click.echo(reproduce(setting, folder, tell))
    click.echo(f"report: {folder / 'table.html'}", err=True)
