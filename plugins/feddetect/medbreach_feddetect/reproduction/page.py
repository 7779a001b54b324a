"""The tables as text, CSV and a page."""

import base64
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from medbreach.report.phrasing import csv_of, in_columns
from medbreach.report.templates import templates
from medbreach_feddetect.measures.extractors import extractor
from medbreach_feddetect.measures.of_round import (
    FRECHET,
    KERNEL,
    SAMPLES,
    SHOWN,
    compared,
    measured,
)
from medbreach_feddetect.reproduction.claims import claims
from medbreach_feddetect.reproduction.curves import Curves, curves, verdicts
from medbreach_feddetect.reproduction.findings import Findings
from medbreach_feddetect.reproduction.numbers import (
    Spread,
    anybody,
    benign,
    flagged_runs,
    flagged_verdicts,
    last,
    late_loss,
    malicious,
    others_loss,
)
from medbreach_feddetect.reproduction.setting import (
    ARMS,
    ATTACKED,
    BENIGN,
    CLIENTS,
    DETECTIONS,
    MALICIOUS,
    PLAIN,
    PUBLICATION,
    Arm,
    Setting,
)
from medbreach_feddetect.rules import RELEASED_WARM_UP

if TYPE_CHECKING:
    from medbreach_feddetect.reproduction.run import Run

WIDTH: Final = 110
COLUMNS: Final = (
    "arm", "runs", "Frechet distance", "kernel distance", "trigger shown", "loss of client 0",
    "loss of others", "true positives", "false positives", "runs with a false flag",
    "weight of client 0",
)  # fmt: skip

REMARKS: Final = (
    "No published distance stands beside these: the tables of the publication could not be read, "
    "and its code has none. Only with Inception's own weights would a Frechet distance be a FID.",
    "As released: four clients of whom client 0 is malicious and stamps all its images; a trigger "
    "of 0.39 % of the area, in 0 to 1 on images in -1 to 1; discriminators begin alike, and they "
    "and optimisers stay with clients; whole batches of 32; images generated anew for each step; "
    "RMSprop at 0.0002 with gradient penalty; the last minibatch's absolute generator loss, "
    "isolation forest, decay 0.9, cumulative counts, fewer than half flagged.",
    "Ours: a DCGAN's generator in place of StyleGAN2's, and a DCGAN's first weights in both "
    "networks, where the release leaves torch's; the size of images; patients dealt over clients, "
    "where the release gives every client all images; the trigger's picture; the calibrated "
    "verdict, over the mean generator loss of a round, on a logarithmic scale without and on a "
    "plain one with gradient penalty; all runs without attack under detection, which the released "
    "code refuses; median and Krum, since which means the publication compares with could not be "
    "read; the measures.",
    "A difference counts as shown if its interval lies on one side of zero, and one of images only "
    "if both distances agree. Some fifteen differences are looked at and not corrected for their "
    "number.",
    "true positives: share of the verdicts on client 0, where it is malicious, that flag it. false "
    "positives: share of the verdicts on benign clients that flag one. Verdicts are those after "
    "the warm-up, one a client and round.",
    "Where a rule flags nobody, its run is the run without detection number by number, and is not "
    "played again. The released rule has no way back: who was flagged keeps the lowered weight.",
    "With gradient penalty the level of a critic is free, so that generator losses of clients "
    "differ by a constant that says nothing of their images.",
    "trigger shown: how far the mean of generated corners has moved from the real images' mean "
    "corner to the trigger; 1 is the trigger itself.",
)


class Shown(NamedTuple):
    """One arm's first run, drawn.

    Attributes:
        arm: Which.
        losses: Generator losses by round.
        weights: Weights by round; None under the plain mean.
        flags: Who was flagged when; empty if nobody was.
        grids: Rounds and pictures of samples, as data URIs.
        note: What to know about it.
    """

    arm: Arm
    losses: Curves
    weights: Curves | None
    flags: list[tuple[int, list[int]]]
    grids: list[tuple[int, str]]
    note: str


def title(setting: Setting) -> str:
    """Return what was done, in a line."""
    images = setting.data or "packaged dermoscopy patches"
    return f"A backdoored federation of GANs and FedDetect, made again on {images}"


def about(found: Findings) -> list[str]:
    """Return what was computed, in sentences."""
    setting = found.setting
    scale = setting.scale
    warm_up = "as released" if scale.warm_up == RELEASED_WARM_UP else "ours; released: 11"
    passes = "as released" if scale.local_epochs == 1 else "ours; released: 1"
    seen = compared(setting.federation(BENIGN, 0))
    note = f" On the images: {found.held.note}." if found.held.note else ""
    return [
        f"{PUBLICATION}. {CLIENTS} clients train a GAN on images of {scale.size} pixels a side "
        f"(released: 256) for {scale.rounds} rounds (released: 200) with {scale.local_epochs} "
        f"passes over their images in each ({passes}), first layer of {scale.width} channels "
        f"(released: 64), Adam's learning rate {scale.learning_rate:g} and beta {scale.beta1:g} "
        f"(released: 0.0002 and 0.9); no detection in the first {scale.warm_up} rounds "
        f"({warm_up}). "
        f"Runs of each kind: {setting.seeds} (released: 1); without gradient penalty, "
        f"{setting.seeds_of(BENIGN)} of the mean without attack and {setting.seeds_of(ATTACKED)} "
        f"with it, and as many of detection as released under it. Intervals are of 95 % over runs, "
        "by Student's t; one run has none, so that no difference to it counts as shown.",
        f"Images are seen by: {extractor(setting.measuring).title}. Distances are between {seen} "
        f"generated and as many real images that no client has. Clients' images are told from "
        f"these by {found.held.patients_are}.{note}",
    ]


def rows(found: Findings) -> list[list[str]]:
    """Return the table's lines."""
    return [_row(found, arm) for arm in ARMS if found.setting.seeds_of(arm)]


def _row(found: Findings, arm: Arm) -> list[str]:
    warm_up = found.setting.scale.warm_up
    lines = [run.lines for run in found.runs[arm]]
    distances = [
        Spread.of([last(one, name) for one in lines]).words() for name in (FRECHET, KERNEL, SHOWN)
    ]
    own = found.spread(arm, lambda run: late_loss(run.lines, warm_up, MALICIOUS)).words()
    rest = found.spread(arm, lambda run: others_loss(run.lines, warm_up)).words()
    cells = [arm.title, str(len(lines)), *distances, own, rest]
    if arm.rule not in DETECTIONS:
        return [*cells, "-", "-", "-", f"{1 / CLIENTS:g}" if arm.rule == PLAIN else "-"]
    whom = benign if arm.attack else anybody
    right = flagged_verdicts(lines, warm_up, malicious).share.percent() if arm.attack else "-"
    wrong = flagged_verdicts(lines, warm_up, whom).share.percent()
    alarmed = flagged_runs(lines, whom)
    weight = Spread.of([one[-1].clients[MALICIOUS]["weight"] for one in lines]).words()
    return [*cells, right, wrong, f"{alarmed.count} of {alarmed.total}", weight]


def as_text(found: Findings) -> str:
    """Return everything as text."""
    parts = [
        title(found.setting),
        *(textwrap.fill(words, WIDTH) for words in about(found)),
        in_columns([list(COLUMNS), *rows(found)]),
    ]
    for question, answers in claims(found):
        parts.append("\n".join([question, *(textwrap.fill(a, WIDTH) for a in answers)]))
    parts.append(
        in_columns([["world without attack", "flagged by the calibrated rule"], *worlds(found)])
    )
    parts += [textwrap.fill(words, WIDTH) for words in REMARKS]
    return "\n\n".join(parts) + "\n"


def worlds(found: Findings) -> list[list[str]]:
    """Return how often the calibrated rule flags anybody in each simulated world."""
    return [
        [name, f"{rate.count / rate.total:.1%} ({rate.low:.1%} to {rate.high:.1%})"]
        for name, rate in found.alarms.items()
    ]


def as_csv(found: Findings) -> str:
    """Return the table as CSV."""
    return csv_of([COLUMNS, *rows(found)])


def as_html(found: Findings, style: str) -> str:
    """Return everything as a page that needs nothing from the network."""
    setting = found.setting
    pages = templates("reproduction", "medbreach_feddetect")
    return pages.get_template("table.html.j2").render(
        title=title(setting), about=about(found), style=style, columns=COLUMNS, rows=rows(found),
        claims=claims(found), worlds=worlds(found), remarks=REMARKS, malicious=MALICIOUS,
        rounds=setting.scale.rounds, warm_up=setting.scale.warm_up,
        shown=[_shown(found.runs[arm][0]) for arm in ARMS if found.runs[arm]],
    )  # fmt: skip


def _shown(run: "Run") -> Shown:
    detection = run.arm.rule in DETECTIONS
    return Shown(
        run.arm,
        curves(run.lines, "generator_loss"),
        curves(run.lines, "weight", (0.0, 1.0)) if detection else None,
        verdicts(run.lines) if detection else [],
        _grids(run),
        "Nobody is flagged: the same run as without detection." if run.same_as_mean else "",
    )


def _grids(run: "Run") -> list[tuple[int, str]]:
    found = []
    for number in _ends([line.round for line in run.lines if measured(line.evaluation)]):
        file = run.folder / SAMPLES / f"round-{number}.png"
        if file.is_file():
            coded = base64.b64encode(file.read_bytes()).decode()
            found.append((number, f"data:image/png;base64,{coded}"))
    return found


def _ends(numbers: Sequence[int]) -> list[int]:
    """Return the first, a middle and the last number.

    >>> _ends([0, 12, 24, 36, 48]), _ends([0, 2])
    ([0, 24, 48], [0, 2])
    """
    return sorted({numbers[0], numbers[len(numbers) // 2], numbers[-1]}) if numbers else []
