"""The tables as text, CSV and a page."""

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from medbreach.report.phrasing import csv_of, in_columns
from medbreach.report.templates import style_sheet, templates
from medbreach.tradeoff.predictions import Interval
from medbreach_fedsafe.measures import MEASURES, estimate
from medbreach_fedsafe.reproduction.attackers import Attacker, grid_attackers, main_attackers
from medbreach_fedsafe.reproduction.claims import (
    claims,
    percent,
    privacy,
    ratio,
    summary,
    told_epsilon,
    warnings,
)
from medbreach_fedsafe.reproduction.figure import figures, share_rows, sigma_rows
from medbreach_fedsafe.reproduction.gallery import shown
from medbreach_fedsafe.reproduction.published import FIGURES, PUBLICATION, REPOSITORY, Read
from medbreach_fedsafe.reproduction.run import PUBLISHED, Made, Row
from medbreach_fedsafe.reproduction.setting import ADVERSARIAL, ARMS, BOTH, NOISE, PLAIN, pgd

WIDTH: Final = 110
TITLES: Final = ("accuracy %", "ASR self %", "ASR others %", "AATR %")

MEANINGS: Final = {
    "ASR self": "attack success rate: of the images that a client's network has right, the share "
    "whose class changes when the adversarial image was made on that network",
    "ASR others": "the same on every other client's network",
    "AATR": "of the clients that have an image right, the share that is fooled at once, itself "
    "included, by images with which the attacker succeeds on itself; mean over images and clients",
    "networks": "those that clients are sent after the last round",
    "brackets": "95 % intervals, by a bootstrap over patients and, where there are several, over "
    "trainings, both drawn alike for all arms",
    "strongest": "white-box claims count an image if any attacker of that network succeeds; "
    "tables are of one attacker at a time",
    "APGD": "returns a random start where it fails, so what it does to others says nothing",
    "noise": "N(0, sigma^2) on each trained weight that the server sends, drawn anew for each "
    "client (downlink); uplink: on what clients send, too",
    "adversarial": "the server trains on adversarial images of its retraining pool: without noise "
    "the one global network (conventional adversarial training), with noise each client's own",
    "round": "computing time of all clients and the server together, median over rounds, and how "
    "many times that of the plain arm it is, with an interval over rounds",
}

OURS: Final = (
    "Ours, as the source does not give it: everything in pixels, within the image's bounds (eps is "
    "a share of the range); attacks of 20 steps of a quarter of eps (with the published 6 steps of "
    "a sixth, PGD is often weaker than FGSM; they are kept in normalised space); the split of "
    "patients into clients, retraining pool and evaluation; who averages over noise, and how much; "
    "the steps on past networks (each of eps over their number); clipped updates; the network, the "
    "batch size, the number of rounds and the sizes of images, unless --full is given.",
    "Not repeated: retraining on the images of the evaluation (the pool is of other patients); "
    "clients that share images; pixels out of range (except in normalised space, which is as "
    "published and says so); flags that are true whatever is written.",
    "Not made again: augmentation (flips and rotations), 15 shards sorted by label, the "
    "certificate of the journal version, of which no formula is at hand.",
)


class Table(NamedTuple):
    """A table.

    Attributes:
        title: Its heading.
        columns: Their names.
        rows: Their cells.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def title(made: Made) -> str:
    """Return what was done, in a line."""
    data = made.setting.data
    images = Path(data).resolve().name if data else "packaged dermoscopy patches"
    return f"Fed-Safe against adversarial images, made again on {images}"


def about(made: Made) -> list[str]:
    """Return what was computed, in sentences."""
    scale, shares = made.setting.scale, made.shares
    trained = made.trained[PLAIN]
    safe, attack = made.row(PLAIN).arm.fedsafe, pgd(made.setting.eps)
    several = " (numbers of images are those of the first)" if scale.seeds > 1 else ""
    size = " x ".join(map(str, shares.spec.space))
    own = ", ".join(str(len(one)) for one in shares.roles.clients)
    test = trained.test
    people = len(set(test.patients.tolist()))
    return [
        f"{PUBLICATION}. Classes: {', '.join(shares.classes)}; images of {size} with "
        f"{shares.spec.channels} channel{'s' * (shares.spec.channels > 1)}. "
        f"{len(shares.roles.clients)} clients with {own} images train for {scale.rounds} rounds of "
        f"{safe.local_epochs} epochs of SGD ({safe.learning_rate:g}, gradients clipped to "
        f"{safe.max_grad_norm:g}, batches of {safe.batch_size}); network "
        f"{scale.network[0].partition('=')[2]}; {scale.seeds} "
        f"training{'s' * (scale.seeds > 1)} of each arm{several}. The server's retraining pool has "
        f"{len(shares.roles.pool)} images; {len(test)} images of {people} other "
        f"{shares.collection.patients_are} are for evaluation. The attack of the main tables is "
        f"PGD with eps {attack.eps:g} of the image's range, {attack.iterations} steps of "
        f"{attack.step:g}.",
    ]


def tables(made: Made) -> list[Table]:
    """Return every table."""
    return [
        _arms(made), _attackers(made), _sigmas(made), _shares(made), _grid(made), published(made)
    ]  # fmt: skip


def _measured(row: Row) -> list[str]:
    found = estimate(row.main)
    return [percent(found.get(name)) for name in MEASURES]


def _cost(made: Made, row: Row) -> list[str]:
    times = ratio(row, made.row(PLAIN))
    told = f"{times.value:.2f} ({times.low:.2f} to {times.high:.2f})"
    return [f"{row.seconds:.2f} s", told, f"{row.server:.3f} s"]


def _arms(made: Made) -> Table:
    rows = [row for row in made.rows if row.arm.group in ("arms", "clipped")]
    return Table(
        "Arms",
        ("arm", *TITLES, "round", "of plain", "of it server", "epsilon"),
        [
            [row.arm.name, *_measured(row), *_cost(made, row), told_epsilon(made, row)]
            for row in rows
        ],
    )


def _attackers(made: Made) -> Table:
    rows = []
    for name in ARMS:
        for attacker in main_attackers(made.setting.eps, made.setting.scale):
            found = _told(attacker, made.row(name))
            rows.append([name, attacker.name, *(percent(found.get(m)) for m in MEASURES[1:])])
    return Table("Attackers", ("arm", "attacker", *TITLES[1:]), rows)


def _told(attacker: Attacker, row: Row) -> dict[str, Interval]:
    """Return what is told of an attacker of an arm."""
    found = estimate(row.answers[attacker.name])
    return {name: v for name, v in found.items() if name in ("accuracy", *attacker.measures)}


def _sigmas(made: Made) -> Table:
    rows = [[f"{sigma:g}", *_measured(row)] for sigma, row in sigma_rows(made)]
    return Table("Downlink noise over sigma", ("sigma", *TITLES), rows)


def _shares(made: Made) -> Table:
    pool = len(made.shares.roles.pool)
    rows = [
        [name, f"{p:g}", f"{round(p * pool)}", *_measured(row), *_cost(made, row)]
        for name in (ADVERSARIAL, BOTH)
        for p, row in share_rows(made, name)
    ]
    columns = ("arm", "p", "images", *TITLES, "round", "of plain", "of it server")
    return Table("Retraining over the share p of the pool", columns, rows)


def _grid(made: Made) -> Table:
    rows = []
    for attacker in grid_attackers(made.setting.eps, made.setting.scale):
        how = attacker.evasion
        cells = []
        for name in ARMS:
            found = estimate(made.row(name).answers[attacker.name])
            cells.append(percent(found["asr_self"]))
            if name in (NOISE, BOTH):
                cells.append(percent(found["asr_others"]))
        where = "pixels" if how.space == "pixels" else "normalised, as published"
        rows.append([how.method, where, f"{how.eps:g}", *cells])
    columns = ("attack", "space", "eps", *_grid_columns())
    return Table("Attack success rates over eps, in percent", columns, rows)


def _grid_columns() -> Iterator[str]:
    for name in ARMS:
        if name in (NOISE, BOTH):
            yield from (f"{name}: self", f"{name}: others")
        else:
            yield f"{name}: all"


def published(made: Made) -> Table:
    """Return numbers that were read off figures, and what was measured of the same arm here."""
    rows = [
        [name, one.method, f"{one.eps:g}", f"{one.of_self:g}", f"{one.others:g}", *_here(made, one)]
        for name, read in FIGURES.items()
        for one in read
    ]
    columns = (
        "their images", "attack", "eps, normalised", "read off: self %", "read off: others %",
        "here: self %", "here: others %",
    )  # fmt: skip
    return Table("Read off figures, and the same arm on the images here", columns, rows)


def _here(made: Made, read: Read) -> list[str]:
    """Return what was measured of the arm that published numbers are of."""
    wanted = (read.method, "normalised", read.eps)
    for one in grid_attackers(made.setting.eps, made.setting.scale):
        if (one.evasion.method, one.evasion.space, one.evasion.eps) == wanted:
            found = estimate(made.row(PUBLISHED).answers[one.name])
            return [percent(found[name]) for name in ("asr_self", "asr_others")]
    return ["-", "-"]


def remarks(made: Made) -> list[str]:
    """Return what a reader should know, in sentences."""
    return [*privacy(made), *OURS, REPOSITORY]


def _first(made: Made) -> list[str]:
    return [*about(made), summary(made), *warnings(made)]


def as_text(made: Made) -> str:
    """Return everything as text."""
    told = claims(made)
    return (
        "\n\n".join(
            [
                title(made),
                *(_filled(words) for words in _first(made)),
                *(_filled(f"{one.claimed}: {one.shows}. {one.found}") for one in told),
                *(f"{t.title}\n{in_columns([list(t.columns), *t.rows])}" for t in tables(made)),
                *(_filled(f"{word}: {meaning}.") for word, meaning in MEANINGS.items()),
                *(_filled(words) for words in remarks(made)),
            ]
        )
        + "\n"
    )


def _filled(words: str) -> str:
    return textwrap.fill(words, WIDTH)


def as_csv(made: Made) -> str:
    """Return every measured number, a line each."""
    rows: list[list[object]] = [
        ["arm", "sigma", "downlink", "uplink", "p", "attacker", "method", "space", "eps", "measure",
         "value", "low", "high"]
    ]  # fmt: skip
    eps, scale = made.setting.eps, made.setting.scale
    known = {a.name: a for a in (*main_attackers(eps, scale), *grid_attackers(eps, scale))}
    for row in made.rows:
        safe = row.arm.fedsafe
        arm = [row.arm.name, safe.sigma, safe.downlink, safe.uplink, safe.retraining.share]
        for name in row.answers:
            how = known[name].evasion
            attack = [name, how.method, how.space, how.eps]
            for measure, value in _told(known[name], row).items():
                rows.append([*arm, *attack, measure, *(f"{v:.6f}" for v in value)])
        for measure, seconds in (("round_seconds", row.seconds), ("server_seconds", row.server)):
            rows.append([*arm, "", "", "", "", measure, f"{seconds:.6f}", "", ""])
    return csv_of(rows)


def as_html(made: Made) -> str:
    """Return everything as a page that needs nothing from the network."""
    environment = templates("reproduction", "medbreach_fedsafe")
    return environment.get_template("page.html.j2").render(
        title=title(made),
        about=_first(made),
        style=style_sheet(),
        claims=claims(made),
        figures=figures(made),
        tables=tables(made),
        galleries={name: shown(made, name) for name in (PLAIN, NOISE)},
        amplified=f"{0.5 / made.setting.eps:.0f}",
        meanings=MEANINGS,
        remarks=remarks(made),
    )
