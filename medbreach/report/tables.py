"""The tables of the page."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from medbreach.conclusion import Cell as Together
from medbreach.conclusion import false_claims
from medbreach.record import Line
from medbreach.report import phrasing
from medbreach.report.groups import Group, baseline, metrics_of, with_role
from medbreach.report.phrasing import NOTHING, verdict_kind
from medbreach.statistics import chance, wilson
from medbreach.types import Finding, Role

LIKENESSES: Final = {"mse": "MSE", "correlation": "correlation", "ssim": "SSIM"}


class Column(NamedTuple):
    """One column of a table.

    Attributes:
        title: What it holds.
        numeric: Whether it holds numbers.
    """

    title: str
    numeric: bool = False


class Cell(NamedTuple):
    """One cell of a table.

    Attributes:
        text: What it says.
        kind: ``leak``, ``calm``, ``doubt`` or ``quiet`` for a verdict, else empty.
        note: A remark under it.
    """

    text: str
    kind: str = ""
    note: str = ""


class Table(NamedTuple):
    """A table; each row begins with its heading.

    Attributes:
        caption: What it shows.
        columns: Its columns.
        rows: Its rows.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


def attacks_table(lines: Iterable[Line]) -> Table:
    """Return every finding of an attack."""
    columns = _columns(
        "attack|defenses|#seed|#identified|#95 % interval|#chance|#p-value|#leak at or below|"
        "#false claims|verdict|#time|#memory"
    )
    found = [line.finding for line in lines if line.finding.role is Role.ATTACK]
    return Table("Attacks: what each attempt showed", columns, tuple(map(_attack_row, found)))


def together_table(cells: Iterable[Together]) -> Table:
    """Return what several seeds of an attack show together."""
    columns = _columns("attack|defenses|#seeds|#identified|#95 % interval|#p-value|verdict")
    rows = (
        _row(
            cell.attack,
            phrasing.defended(cell.defenses),
            str(len(cell.findings)),
            phrasing.share(cell.identified),
            phrasing.interval(cell.identified),
            phrasing.p_value(cell.p_value),
            Cell(str(cell.verdict), verdict_kind(cell.verdict)),
        )
        for cell in cells
        if len(cell.findings) > 1
    )
    return Table("Attacks: all seeds together", columns, tuple(rows))


def blind_table(lines: Iterable[Line]) -> Table:
    """Return the controls that must find nothing."""
    columns = _columns(
        "control|#seed|#identified|#over many draws|#share of them, 95 % interval|#chance|verdict"
    )
    found = [line.finding for line in lines if line.finding.role is Role.BLIND]
    return Table(
        "Blind controls: they ignore the update, so no more than luck explains may be identified "
        "(p at least 0.001)",
        columns,
        tuple(map(_blind_row, found)),
    )


def solvable_table(lines: Iterable[Line]) -> Table:
    """Return the controls that must succeed."""
    columns = _columns("attack|#seed|#identified|#chance|#PSNR|verdict|#time")
    found = [line.finding for line in lines if line.finding.role is Role.SOLVABLE]
    return Table(
        "Solvable controls: a case made easy, which the attack must solve",
        columns,
        tuple(map(_solvable_row, found)),
    )


def likeness_table(groups: Sequence[Group]) -> Table:
    """Return how many records other likenesses would identify."""
    names = list(dict.fromkeys(n for g in groups for f in g.findings for n in f.identified_by))
    titles = [Column(LIKENESSES.get(name, name), numeric=True) for name in names]
    decides = Column("whitened correlation (decides)", numeric=True)
    rows = []
    for group in with_role(groups, Role.ATTACK, Role.BLIND):
        rates = [group.identified_by(name) for name in names]
        others = [NOTHING if rate is None else phrasing.share(rate) for rate in rates]
        rows.append(_row(*_heads(group), phrasing.share(group.identified), *others))
    return Table(
        "Records identified by other likenesses, which decide nothing",
        (Column("attack"), Column("defenses"), decides, *titles),
        tuple(rows),
    )


def baseline_table(groups: Sequence[Group]) -> Table:
    """Return the scores of claims beside those of images that show nothing of a record."""
    columns = _columns(
        "attack|defenses|score|closer is|#claims|#black image|#mean image|#likest decoy"
    )
    shown = with_role(groups, Role.ATTACK, Role.BLIND)
    rows = [
        _score_row(group, metric)
        for metric in metrics_of(shown)
        for group in shown
        if group.scores(metric)
    ]
    return Table(
        "Scores of the claims beside images that show nothing of a record (medians)",
        columns,
        tuple(rows),
    )


def settings_table(caption: str, settings: Mapping[str, Any]) -> Table:
    """Return settings, nested ones with dotted names."""
    rows = tuple(_row(key, value) for key, value in _flat(settings))
    return Table(caption, _columns("setting|value"), rows)


def _attack_row(finding: Finding) -> tuple[Cell, ...]:
    heads = finding.attack, phrasing.defended(finding.defenses), str(finding.seed)
    verdict = Cell(
        phrasing.outcome(finding),
        verdict_kind(finding.verdict),
        finding.note,
    )
    if finding.p_value is None:
        return _row(*heads, *[NOTHING] * 6, verdict, NOTHING, NOTHING)
    rate = wilson(sum(finding.identified), finding.records)
    return _row(
        *heads,
        phrasing.share(rate),
        phrasing.interval(rate),
        _chance(finding),
        phrasing.p_value(finding.p_value),
        phrasing.p_value(finding.level),
        f"{false_claims(finding)} of {finding.claims}",
        verdict,
        f"{finding.seconds:.1f} s",
        f"{finding.peak_memory_mb:,.0f} MiB",
    )


def _blind_row(finding: Finding) -> tuple[Cell, ...]:
    null = finding.null
    return _row(
        finding.attack,
        str(finding.seed),
        phrasing.share(wilson(sum(finding.identified), finding.records)),
        NOTHING if null is None else phrasing.share(null),
        NOTHING if null is None else phrasing.interval(null),
        _chance(finding),
        _control_verdict(finding),
    )


def _solvable_row(finding: Finding) -> tuple[Cell, ...]:
    scores = [s for s in finding.scores.get("psnr", ()) if s is not None]
    return _row(
        finding.attack,
        str(finding.seed),
        phrasing.share(wilson(sum(finding.identified), finding.records)),
        _chance(finding),
        phrasing.score("psnr", phrasing.middle("psnr", scores) if scores else None),
        _control_verdict(finding),
        f"{finding.seconds:.1f} s" if finding.p_value is not None else NOTHING,
    )


def _control_verdict(finding: Finding) -> Cell:
    return Cell(phrasing.outcome(finding), verdict_kind(finding.verdict), finding.note)


def _score_row(group: Group, metric: str) -> tuple[Cell, ...]:
    known = phrasing.measure(metric)
    median = phrasing.middle(metric, group.scores(metric))
    images = [
        phrasing.score(metric, baseline([group], metric, image))
        for image in ("black", "mean", "nearest_decoy")
    ]
    return _row(
        *_heads(group),
        known.title,
        known.better or NOTHING,
        phrasing.score(metric, median),
        *images,
    )


def _heads(group: Group) -> tuple[str, str]:
    role = " (blind control)" if group.role is Role.BLIND else ""
    return f"{group.attack}{role}", phrasing.defended(group.defenses)


def _chance(finding: Finding) -> str:
    return f"{chance(finding.decoys):.1%}" if finding.decoys else NOTHING


def _columns(titles: str) -> tuple[Column, ...]:
    """Return columns from their titles; those of numbers are marked by #."""
    return tuple(Column(t.removeprefix("#"), t.startswith("#")) for t in titles.split("|"))


def _row(*cells: str | Cell) -> tuple[Cell, ...]:
    return tuple(Cell(cell) if isinstance(cell, str) else cell for cell in cells)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield f"{prefix}{key}", shown
