"""Numbers and names in words, the same in every report."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from medbreach import statistics
from medbreach.types import Finding, Rate, Role, Verdict

NOTHING: Final = "\u2014"
TIMES: Final = "\u00d7"
_KINDS: Final = {
    Verdict.LEAK: "leak",
    Verdict.NO_LEAK: "calm",
    Verdict.SOLVED: "calm",
    Verdict.INCONCLUSIVE: "doubt",
    Verdict.FAILED: "doubt",
}
_SUPERSCRIPTS: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Measure(NamedTuple):
    """How a score of likeness is spoken of.

    Attributes:
        title: Its name.
        unit: Its unit, with a leading space; empty if it has none.
        better: Which way is closer: ``higher``, ``lower``, or empty if unknown.
    """

    title: str
    unit: str = ""
    better: str = ""


MEASURES: Final = {
    "psnr": Measure("PSNR", " dB", "higher"),
    "ssim": Measure("SSIM", "", "higher"),
    "mse": Measure("MSE, image unit squared", "", "lower"),
    "mse_normalised": Measure("MSE, normalised", "", "lower"),
    "lpips": Measure("LPIPS", "", "lower"),
}
"""The scores that medbreach itself computes; a plugin's is called by its name."""


def measure(name: str) -> Measure:
    """Return how a score is spoken of."""
    return MEASURES.get(name, Measure(name))


def middle(name: str, values: Iterable[float]) -> float:
    """Return the median of a score; of the two in the middle, the one that is less close."""
    return statistics.middle(values, measure(name).better)


def score(name: str, value: float | None) -> str:
    """Return a score with its unit.

    >>> score("psnr", 22.82), score("psnr", math.inf), score("ssim", 0.54321)
    ('22.8 dB', '∞ dB', '0.543')
    """
    if value is None:
        return NOTHING
    shown = f"{value:.1f}" if name == "psnr" and math.isfinite(value) else number(value)
    return shown + measure(name).unit


def number(value: float) -> str:
    """Return a number with three significant digits, or whole if it is large.

    >>> number(0.012345), number(223764.8), number(math.inf), number(0.0)
    ('0.0123', '223,765', '∞', '0')
    """
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "-∞"}.get(value, "not a number")
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if value == 0:
        return "0"
    if abs(value) >= 1e-4:
        return f"{value:#.3g}".rstrip(".")
    digits, _, power = f"{value:.1e}".partition("e")
    return f"{digits}{TIMES}10{str(int(power)).translate(_SUPERSCRIPTS)}"


def p_value(value: float | None) -> str:
    """Return a probability with two significant digits.

    >>> p_value(0.038835), p_value(1.0)
    ('0.039', '1')
    """
    if value is None:
        return NOTHING
    return f"{value:.2g}" if value >= 1e-4 else number(value)


def share(rate: Rate) -> str:
    """Return a count of a total.

    >>> share(Rate(1, 4, 0.05, 0.7))
    '1 of 4'
    """
    return f"{rate.count} of {rate.total}" if rate.total else NOTHING


def interval(rate: Rate) -> str:
    """Return a share's interval; one decimal where percents would hide it.

    >>> interval(Rate(1, 4, 0.0456, 0.699)), interval(Rate(7, 800, 0.0042, 0.018))
    ('5% to 70%', '0.4% to 1.8%')
    """
    if not rate.total:
        return NOTHING
    places = 1 if rate.high < 0.1 else 0
    return f"{rate.low:.{places}%} to {rate.high:.{places}%}"


def defended(defenses: tuple[str, ...]) -> str:
    """Return the names of defenses, innermost first."""
    return ", ".join(defenses) or "none"


def outcome(finding: Finding) -> str:
    """Return a finding's verdict in the words that fit its role."""
    if finding.role is Role.ATTACK:
        return str(finding.verdict)
    passed = {Verdict.SOLVED: "passed", Verdict.NO_LEAK: "passed", Verdict.INCONCLUSIVE: "failed"}
    return passed.get(finding.verdict, str(finding.verdict))


def verdict_kind(verdict: Verdict) -> str:
    """Return how the page colours a verdict: ``leak``, ``calm``, ``doubt`` or ``quiet``."""
    return _KINDS.get(verdict, "quiet")


def sentence(text: str) -> str:
    """Return a remark as a sentence: with a capital at its start and a full stop.

    >>> sentence("one subject")
    'One subject.'
    """
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def in_columns(rows: Sequence[Sequence[str]]) -> str:
    """Return a table as text. Rows shorter than the first do not widen its columns.

    >>> print(in_columns([["a", "b"], ["long", "1"], ["no number, for a reason"]]))
    a     b
    long  1
    no number, for a reason
    """
    full = [row for row in rows if len(row) == len(rows[0])]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
        for row in rows
    )


def csv_of(rows: Iterable[Iterable[object]]) -> str:
    """Return a table as CSV.

    >>> csv_of([["a", "b"], [1, "x, y"]]).splitlines()
    ['a,b', '1,"x, y"']
    """
    stream = io.StringIO()
    csv.writer(stream).writerows(rows)
    return stream.getvalue()
