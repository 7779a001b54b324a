"""``medbreach reproduce fedsafe``."""

from pathlib import Path

import click


@click.command("fedsafe")
@click.option(
    "--data",
    default="",
    metavar="PATH",
    help="The images: a folder of pictures or NIfTI volumes with a subfolder a class, or an .npz "
    "file in MedMNIST's layout.  [packaged dermoscopy patches]",
)
@click.option(
    "--patients",
    default="",
    metavar="REGEX",
    help="Searched for in each file's path; its one group is the patient.  [each file is one]",
)
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Where to write.")
@click.option("--quick", is_flag=True, help="A small network and few rounds: minutes.")
@click.option("--full", is_flag=True, help="The released sizes: days without a GPU.")
@click.option("--seeds", type=click.IntRange(1, 100), help="Trainings of each arm.  [by size]")
@click.option("--device", metavar="auto|cpu|cuda:N", help="Where to compute.  [auto]")
def reproduce_command(
    data: str,
    patients: str,
    out: Path | None,
    quick: bool,
    full: bool,
    seeds: int | None,
    device: str | None,
) -> None:
    """Distributed noise against adversarial images.

    Darzi, Sijtsema and van Ooijen 2023, arXiv:2310.08681 (Fed-Safe): noise on what is sent, and
    adversarial retraining, against evasion attacks on oneself and on others.
    """
    from medbreach.devices import pick_device
    from medbreach_fedsafe.reproduction.page import as_csv, as_html, as_text
    from medbreach_fedsafe.reproduction.run import compute, write
    from medbreach_fedsafe.reproduction.setting import FULL, NORMAL, QUICK, Setting

    if quick and full:
        raise click.UsageError("--quick and --full contradict: give one of them")
    scale = QUICK if quick else FULL if full else NORMAL
    setting = Setting(data, patients, scale._replace(seeds=seeds or scale.seeds))
    name = "-quick" if quick else "-full" if full else ""
    images = f"-{Path(data).resolve().name}" if data else ""
    folder = out or Path("runs") / f"fedsafe{images}{name}"
    where = pick_device("auto" if device is None else device)

    def tell(words: str) -> None:
        click.echo(words, err=True)

    made = compute(setting, folder, where, tell)
    text = as_text(made)
    write(folder, {"table.txt": text, "table.csv": as_csv(made), "table.html": as_html(made)})
    click.echo(text)
    click.echo(f"report: {folder / 'table.html'}", err=True)
