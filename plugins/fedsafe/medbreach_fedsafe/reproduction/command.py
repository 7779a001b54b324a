"""``medbreach reproduce fedsafe``."""

from pathlib import Path

import click

from medbreach.cli.audit import DEVICE
from medbreach.cli.published import OUT, folder_of, show, size_of, tell


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
@OUT
@click.option("--quick", is_flag=True, help="A small network and few rounds: minutes.")
@click.option("--full", is_flag=True, help="The released sizes: days without a GPU.")
@click.option("--seeds", type=click.IntRange(1, 100), help="Trainings of each arm.  [by size]")
@DEVICE
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

    size = size_of(quick, full)
    scale = {"quick": QUICK, "normal": NORMAL, "full": FULL}[size]
    setting = Setting(data, patients, scale._replace(seeds=seeds or scale.seeds))
    folder = folder_of(out, "fedsafe", data, size)
    where = pick_device("auto" if device is None else device)
    made = compute(setting, folder, where, tell)
    text = as_text(made)
    write(folder, {"table.txt": text, "table.csv": as_csv(made), "table.html": as_html(made)})
    show(text, folder)
