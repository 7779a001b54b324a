"""A reproduction's table as text, CSV and a page."""

import csv
import io
from collections.abc import Sequence
from importlib import resources
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from medbreach.reproductions.dkfz_setting import Setting
from medbreach.reproductions.line import Line
from medbreach.statistics import wilson

COLUMNS: Final = (
    "images", "clients", "planted", "published", "seeds", "rule", "black", "mean", "identified",
    "chance", ">= 30 dB", "false claims", "records a row", "seconds", "MiB",
)  # fmt: skip

REMARKS: Final = (
    "The published percentages cannot be reproduced: their protocol is not published, and the "
    "code that goes with them computes none. They stand beside the fork's weights, in our reading "
    "of which belongs to which setting. The notebooks' settings (16 records a client, 128 rows in "
    "2D, 500 on CT) are used throughout, with fewer records where there are too few patients.",
    "All clients' records are the truth; claims are fixed before they are compared with it.",
    "rule: the notebooks' own, which chooses by the private image and accepts a mean squared "
    "error below 0.1. black and mean: records for which it would accept a black image and the "
    "mean public image. Read the rule's column against these two.",
    "identified: nearer to the record than to every decoy, as in every audit; chance is at most "
    "one over the decoys plus one. >= 30 dB: shown by a claim of its own. false claims: below "
    "30 dB to every record. Intervals are 95 % Wilson intervals over all records and seeds.",
    "records a row: LOKI plants the rows once for every client.",
    "seconds and MiB: of reading the update, the memory of the whole process.",
)


def cells(setting: Setting, line: Line) -> list[str]:
    """Return a line as words; of one without a result, the reason stands after the seeds."""
    seeds = f"{line.seeds} of {setting.seeds}"
    head = [line.form, str(line.clients), line.method, line.published or "-", seeds]
    if not line.seeds:
        return [*head, f"no result: {line.reasons}", *[""] * (len(COLUMNS) - len(head) - 1)]
    in_a_round = line.each * line.clients
    planted = line.rows * (line.clients if line.method == "LOKI" else 1)
    return [
        *head,
        _share(line.rule, line.records),
        _share(line.rule_black, line.records),
        _share(line.rule_mean, line.records),
        _interval(line.identified, line.records),
        f"{100 / (line.decoys + 1):.1f} %",
        _interval(line.shown, line.records),
        f"{line.false} of {line.claims}",
        f"{in_a_round / planted:.2f}",
        f"{line.seconds:.2f}",
        f"{line.peak_memory_mb:.0f}",
    ]


def _share(count: int, total: int) -> str:
    return f"{100 * count / total:.0f} %"


def _interval(count: int, total: int) -> str:
    rate = wilson(count, total)
    return f"{100 * count / total:.0f} % ({100 * rate.low:.0f} to {100 * rate.high:.0f})"


def as_text(setting: Setting, lines: Sequence[Line]) -> str:
    """Return the table and its remarks as text."""
    table = [list(COLUMNS), *(cells(setting, line) for line in lines)]
    widths = [max(len(words[k]) for words in table if words[-1]) for k in range(len(COLUMNS))]
    shown = ["  ".join(c.ljust(w) for c, w in zip(words, widths, strict=True)) for words in table]
    return (
        "\n".join(
            [heading(setting, lines), "", *map(str.rstrip, shown), "", *remarks(setting, lines)]
        )
        + "\n"
    )


def as_csv(setting: Setting, lines: Sequence[Line]) -> str:
    """Return the table as CSV."""
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(COLUMNS)
    writer.writerows(cells(setting, line) for line in lines)
    return stream.getvalue()


def as_html(setting: Setting, lines: Sequence[Line]) -> str:
    """Return the table with pictures as a page that needs nothing from the network."""
    environment = Environment(
        loader=PackageLoader("medbreach", "reproductions"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("table.html.j2").render(
        title=f"medbreach reproduce {setting.name}",
        heading=heading(setting, lines),
        style=(resources.files("medbreach.report") / "report.css").read_text(),
        columns=COLUMNS,
        lines=[(line, cells(setting, line)) for line in lines],
        remarks=remarks(setting, lines),
    )


def heading(setting: Setting, lines: Sequence[Line]) -> str:
    """Return what was done, in a sentence."""
    images = setting.folder or "packaged images"
    each = ", ".join(
        f"{clients} x {n}" for clients, n in sorted({(r.clients, r.each) for r in lines})
    )
    return (
        f"{setting.name} on {images}: clients x records {each}, {setting.rows} rows, "
        f"{setting.seeds} seeds{', quick' if setting.quick else ''}"
    )


def remarks(setting: Setting, lines: Sequence[Line]) -> list[str]:
    """Return what a reader has to know, a paragraph each."""
    strange = [f"{line.title}: {line.controls}." for line in lines if line.controls]
    lost = [
        f"{line.title}: {line.seeds} of {setting.seeds} seeds gave a result; {line.reasons}."
        for line in lines
        if line.notes
    ]
    return [
        *REMARKS,
        *(
            ["Seeds without a result are left out of the percentages. " + " ".join(lost)]
            * bool(lost)
        ),
        *(["Controls that were not as they should be: " + " ".join(strange)] * bool(strange)),
    ]
