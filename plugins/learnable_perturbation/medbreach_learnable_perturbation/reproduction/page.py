"""The tables as text, CSV and a page."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from markupsafe import Markup, escape

from medbreach.report.phrasing import csv_of, in_columns
from medbreach.statistics import Rate
from medbreach.tradeoff.points import Point
from medbreach.tradeoff.tables import interval
from medbreach.types import Verdict
from medbreach_learnable_perturbation.reproduction.lines import ATTACKERS, Attacked, Baseline
from medbreach_learnable_perturbation.reproduction.setting import PUBLICATION, Setting, Variant

WIDTH: Final = 110
NOTHING: Final = "-"
COLUMNS: Final = (
    "defense", "published PSNR", "attacker", "PSNR", "MSE (normalised)", "MSE", "recognised",
    "identified", "accuracy", "F1", "cost", "epsilon",
)  # fmt: skip

REMARKS: Final = (
    "Published PSNRs below about 8 dB are those of saturated images that show nothing: their order "
    "measures no privacy. The headline '12.5 % reduction in attacker accuracy' is one image of a "
    "batch of eight.",
    "Ours, as the publication does not give them: lambda (0.1), all learning rates, the means of "
    "fixed noise, DP-SGD's noise levels and clipping norm (1), the measure of BiDO (HSIC), the "
    "number of rounds and clients (it trains 150 to 400 epochs), the network's width below 64, and "
    "the attack's length.",
    "recognised: reconstructions whose class is named by the network that was trained without "
    "defense, of all records. identified: records told from their decoys among images of the same "
    "class. MSE is of normalised images, as published, and in the images' own unit.",
    "plain: the attacker knows nothing of the defense. adaptive: it has the noise layer, BiDO's "
    "loss or DP-SGD's clipping in its own model. The worse of the two is the verdict.",
)


class Row(NamedTuple):
    """One variant, attacked.

    Attributes:
        variant: What was tried.
        point: What it buys and costs.
        attacked: What each attacker made of it.
    """

    variant: Variant
    point: Point
    attacked: Mapping[str, Attacked]


def cells(row: Row) -> list[list[str]]:
    """Return a variant's lines: one an attacker."""
    found = []
    for name in ATTACKERS:
        if name not in row.attacked:
            continue
        one = row.attacked[name]
        found.append(
            [
                row.variant.stack,
                row.variant.published,
                name,
                f"{one.psnr:.1f}",
                f"{one.mse_normalised:.2f}",
                f"{one.mse:.3f}",
                rate(one.recognised),
                rate(one.identified),
                interval(row.point.utility.get("accuracy")),
                interval(row.point.utility.get("f1")),
                interval(row.point.cost.get("accuracy"), signed=True),
                "; ".join(f"{g.epsilon:.3g}" for g in row.point.guarantees) or "none",
            ]
        )
    return found or [[row.variant.stack, row.variant.published, "; ".join(row.point.problems)]]


def rate(value: Rate) -> str:
    """Return a share with its 95 % interval."""
    share = 100 * value.count / max(1, value.total)
    return f"{share:.0f} % ({100 * value.low:.0f} to {100 * value.high:.0f})"


def title(setting: Setting) -> str:
    """Return what was done, in a line."""
    images = setting.data or "packaged dermoscopy patches"
    return f"Learnable perturbation against gradient inversion, made again on {images}"


def about(setting: Setting) -> list[str]:
    """Return what was computed, in sentences."""
    scale = setting.scale
    return [
        f"{PUBLICATION}. The update of 5 local epochs over {scale.records} records (published 8) "
        f"is inverted: inverting gradients, {scale.iterations} iterations (published 24,000 in its "
        f"source), {scale.batches} batches of other records. Table I's network with a first "
        f"convolution of {scale.width} channels (published 64) is trained by 4 clients for "
        f"{scale.rounds} rounds with Adam.",
    ]


def as_text(setting: Setting, rows: Sequence[Row], guesses: Sequence[Baseline]) -> str:
    """Return everything as text."""
    table = [list(COLUMNS), *(line for row in rows for line in cells(row))]
    paragraphs = [
        title(setting),
        *(textwrap.fill(words, WIDTH) for words in about(setting)),
        in_columns(table),
        "Images that show nothing of the record, and the record itself:",
        in_columns([list(GUESS_COLUMNS), *map(_guess, guesses)]),
        *(textwrap.fill(words, WIDTH) for words in (*verdicts(rows), *REMARKS)),
    ]
    return "\n\n".join(paragraphs) + "\n"


GUESS_COLUMNS: Final = ("image", "PSNR", "MSE (normalised)", "recognised")


def _guess(one: Baseline) -> list[str]:
    psnr = "exact" if one.psnr > 200 else f"{one.psnr:.1f}"
    return [one.name, psnr, f"{one.mse_normalised:.2f}", rate(one.recognised)]


def verdicts(rows: Sequence[Row]) -> list[str]:
    """Return what each variant does against either attacker, a sentence each."""
    bare = rows[0].attacked.get("plain")
    found = []
    if bare is not None and rows[0].point.leaks[0].verdict is not Verdict.LEAK:
        found.append(
            "The update without any defense gave away no more than chance allows either "
            f"({bare.identified.count} of {bare.identified.total} identified), so the other rows "
            "say nothing of defenses: the attack needs more iterations, as in --full."
        )
    for row in rows:
        if set(row.attacked) != set(ATTACKERS):
            continue
        plain, adaptive = (row.attacked[name] for name in ATTACKERS)
        found.append(
            f"{row.variant.stack}: {plain.identified.count} of {plain.identified.total} records "
            f"identified by the plain attacker, {adaptive.identified.count} by the adaptive one; "
            f"accuracy {interval(row.point.cost.get('accuracy'), signed=True)} points."
        )
    return found


def as_csv(rows: Sequence[Row]) -> str:
    """Return the table as CSV."""
    return csv_of([COLUMNS, *(line for row in rows for line in cells(row))])


def as_html(setting: Setting, rows: Sequence[Row], guesses: Sequence[Baseline], style: str) -> str:
    """Return everything as a page that needs nothing from the network."""
    table = _html_table(COLUMNS, [line for row in rows for line in cells(row)])
    others = _html_table(GUESS_COLUMNS, list(map(_guess, guesses)))
    words = Markup("").join(
        Markup("<p>{}</p>").format(text) for text in (*verdicts(rows), *REMARKS)
    )
    intro = Markup("").join(Markup("<p>{}</p>").format(text) for text in about(setting))
    page = Markup(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        "<title>{title}</title><style>{style}\nbody {{ max-width: 90rem; }}\n"
        "td, th {{ white-space: nowrap; padding-right: .7rem; }}</style></head><body><main>"
        '<p class="kicker">medbreach <span>reproduction of a published result</span></p>'
        "<h1>{title}</h1>{intro}<h2>Results</h2>{table}"
        "<h2>Images that show nothing, and the record itself</h2>{others}"
        "<h2>Remarks</h2>{words}</main></body></html>\n"
    )
    return str(
        page.format(
            title=escape(title(setting)), style=Markup(style), intro=intro, table=table,
            others=others, words=words,
        )
    )  # fmt: skip


def _html_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(c) for c in columns)
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(Markup("<td>{}</td>").format(cell) for cell in row)
        )
        for row in rows
    )
    return Markup(
        '<div class="scroll"><table class="results"><thead><tr>{}</tr></thead>'
        "<tbody>{}</tbody></table></div>"
    ).format(head, body)
