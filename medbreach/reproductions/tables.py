"""A reproduction's table as text, CSV and a page."""

import textwrap
from collections.abc import Sequence
from typing import Final

from medbreach.report.phrasing import csv_of, in_columns
from medbreach.report.templates import style_sheet, templates
from medbreach.reproductions.dkfz import METHODS
from medbreach.reproductions.dkfz_setting import DOI, PUBLICATION, Setting
from medbreach.reproductions.line import Line
from medbreach.reproductions.remarks import (
    MEANINGS,
    SUBJECT,
    in_short,
    measured_on,
    methods,
    remarks,
    share,
)
from medbreach.statistics import wilson

COLUMNS: Final = (
    "images", "clients", "planted", "published", "seeds", "rule", "black", "mean", "identified",
    "chance", ">= 30 dB", "false claims", "records a row", "seconds", "MiB",
)  # fmt: skip

CSV_COLUMNS: Final = (
    "data set", "image size", "network", "records a client", "rows", "about the images",
    "about the method", "remark",
)  # fmt: skip

WIDTH: Final = 110


def cells(setting: Setting, line: Line) -> list[str]:
    """Return a line as words; of one without a result, the reason stands after the seeds."""
    seeds = f"{line.seeds} of {setting.seeds}"
    head = [line.form, str(line.clients), line.method, line.published or "-", seeds]
    if not line.seeds:
        return [*head, _no_result(line), *[""] * (len(COLUMNS) - len(head) - 1)]
    return [
        *head,
        share(line.rule, line),
        share(line.rule_black, line),
        share(line.rule_mean, line),
        _interval(line.identified, line.records),
        f"{100 / (line.decoys + 1):.1f} %",
        _interval(line.shown, line.records),
        f"{line.false} of {line.claims}",
        f"{line.load:.2f}",
        f"{line.seconds:.2f}",
        f"{line.peak_memory_mb:.0f}",
    ]


def _no_result(line: Line) -> str:
    return f"no result: {line.reasons}"


def _interval(count: int, total: int) -> str:
    rate = wilson(count, total)
    return f"{100 * count / total:.0f} % ({100 * rate.low:.0f} to {100 * rate.high:.0f})"


def as_text(setting: Setting, lines: Sequence[Line]) -> str:
    """Return the table and its remarks as text."""
    rows = [[words for words in cells(setting, line) if words] for line in lines]
    measured = [
        "\n".join(_wrapped(f"{word}: {value}") for word, value in facts.items())
        for facts in measured_on(setting, lines)
    ]
    paragraphs = [
        f"{title(setting)}\n{PUBLICATION}, doi:{DOI}",
        _wrapped(SUBJECT),
        *map(_wrapped, in_short(lines)),
        "Measured on:",
        *measured,
        in_columns([COLUMNS, *rows]),
        "\n".join(_wrapped(f"{word}: {meaning}") for word, meaning in MEANINGS.items()),
        "\n".join(_wrapped(f"{name}: {words}") for name, words in methods(lines).items()),
        *map(_wrapped, remarks(setting, lines)),
    ]
    return "\n\n".join(paragraphs) + "\n"


def _wrapped(paragraph: str) -> str:
    return textwrap.fill(paragraph, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def as_csv(setting: Setting, lines: Sequence[Line]) -> str:
    """Return the table as CSV, with what each line was measured on and what is remarked on it."""
    rows = [[*COLUMNS, *CSV_COLUMNS]]
    for line in lines:
        words = cells(setting, line)
        if not line.seeds:
            words[words.index(_no_result(line))] = ""
        remark = "; ".join([*line.notes, *filter(None, [line.controls])])
        network = [line.dataset, line.size, line.network, str(line.each), str(line.rows)]
        rows.append([*words, *network, line.about, METHODS[line.method].words, remark])
    return csv_of(rows)


def as_html(setting: Setting, lines: Sequence[Line]) -> str:
    """Return the table with pictures as a page that needs nothing from the network."""
    groups: dict[str, list[tuple[Line, list[str]]]] = {}
    for line in lines:
        group = groups.setdefault(f"{line.form}, {line.clients} clients", [])
        group.append((line, [words for words in cells(setting, line)[2:] if words]))
    return (
        templates("reproductions")
        .get_template("table.html.j2")
        .render(
            title=title(setting),
            publication=PUBLICATION,
            doi=DOI,
            subject=SUBJECT,
            style=style_sheet(),
            in_short=list(in_short(lines)),
            measured=measured_on(setting, lines),
            columns=COLUMNS[2:],
            groups=groups,
            meanings=MEANINGS,
            methods=methods(lines),
            remarks=remarks(setting, lines),
        )
    )


def title(setting: Setting) -> str:
    """Return what was done, in a line."""
    images = "2D images" if setting.name == "dkfz_2d" else "3D images"
    quick = " (quick)" if setting.quick else ""
    return f"The DKFZ results on {images}, made again{quick}"
