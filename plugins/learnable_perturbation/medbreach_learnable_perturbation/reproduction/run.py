"""Carrying the reproduction out; the same command goes on where it was."""

from collections.abc import Callable
from pathlib import Path

import torch

from medbreach.report.templates import style_sheet
from medbreach.session import carry_out
from medbreach.storage import speaking_of, write_whole
from medbreach.tradeoff.prepare import prepare_tradeoff
from medbreach.tradeoff.report import points_of
from medbreach_learnable_perturbation.reproduction.lines import Classifier, attacked, baselines
from medbreach_learnable_perturbation.reproduction.page import Row, as_csv, as_html, as_text
from medbreach_learnable_perturbation.reproduction.setting import Setting


def reproduce(
    setting: Setting, folder: Path, device: torch.device, tell: Callable[[str], None]
) -> str:
    """Train and attack every variant that a folder lacks, write the tables, return them as text.

    Args:
        setting: What to reproduce, and on what.
        folder: Where everything is kept.
        device: Where to compute.
        tell: Is told how far it is.

    Raises:
        InputError: The images do not fit, or the folder holds something else.
    """
    variants = setting.variants
    stacks = {variant.stack: variant.members for variant in variants}
    made = prepare_tradeoff(setting.overrides, device, folder, stacks=stacks)
    made.open()
    for line in made.train(lambda *_: None):
        end = line.problem or f"accuracy {line.curve[-1][1]:.1%}, {line.seconds:.0f} s"
        tell(f"trained {line.stack}, seed {line.seed}: {end}")
    record = made.run_record()
    missing = len(record.missing())
    for k, finding in enumerate(carry_out(made.session, record), start=1):
        stack = " + ".join(finding.defenses) or "no defense"
        count = f"{sum(finding.identified)} of {finding.records} identified"
        tell(f"{k} of {missing}: {finding.attack}, {stack}, seed {finding.seed}: {count}")
    classifier = Classifier(made)
    points = {point.stack: point for point in points_of(made)}
    rows = [
        Row(variant, points[variant.stack], attacked(made, points[variant.stack], classifier))
        for variant in variants
    ]
    guesses = baselines(made, classifier)
    text = as_text(setting, rows, guesses)
    with speaking_of(folder):
        write_whole(folder / "table.txt", text.encode())
        write_whole(folder / "table.csv", as_csv(rows).encode())
        write_whole(folder / "table.html", as_html(setting, rows, guesses, style_sheet()).encode())
    return text
