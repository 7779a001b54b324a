"""How many records are read at a few loads, beside what other planted layers give."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from planted_layers.images import Source
from planted_layers.rounds import CHOICES, Score, judge, mean, play, read, server

HEADER: Final = (
    f"{'':22}{'rows':>6}{'records':>9}{'>= 40 dB':>10}{'>= 30 dB':>10}{'claims':>8}{'false':>8}"
    f"{'labels':>8}{'plant s':>9}{'clients s':>11}{'read s':>8}"
)


class Load(NamedTuple):
    """How much a layer has to hold.

    Attributes:
        rows: Number of rows.
        per_row: Records for each row.
        wanted: Share of the records that peeling shall read at 40 dB.
    """

    rows: int
    per_row: float
    wanted: float


LOADS: Final = (Load(128, 0.5, 0.99), Load(128, 0.7, 0.95), Load(512, 0.75, 0.97))


def report(name: str, source: Source, loads: Sequence[Load], seeds: int) -> None:
    """Print a table for one kind of images."""
    print(f"\nQuality: {name}, mean of {seeds} seeds\n{HEADER}")
    for load in loads:
        records = round(load.per_row * load.rows)
        for planted in CHOICES:
            scores, seconds = [], [0.0, 0.0, 0.0]
            for seed in range(seeds):
                drawn = source.draw(records, seed)
                exchange, *spent = play(
                    drawn, source.model, server(planted, load.rows, records), seed
                )
                claims, reading = read(planted, exchange)
                scores.append(judge(claims, drawn))
                seconds = [a + b / seeds for a, b in zip(seconds, (*spent, reading), strict=True)]
                del exchange, claims
            found = mean(scores)
            verdict = _verdict(found, load) if planted == "peeling" else ""
            print(_line(planted, load.rows, records, found, seconds) + verdict, flush=True)


def _line(name: str, rows: int, records: int, found: Score, seconds: Sequence[float]) -> str:
    plant, clients, reading = seconds
    return (
        f"{name:22}{rows:6d}{records:9d}{found.exact:10.1%}{found.shown:10.1%}{found.claims:8.0f}"
        f"{found.false:8.1%}{found.labels:8.1%}{plant:9.2f}{clients:11.2f}{reading:8.2f}"
    )


def _verdict(found: Score, load: Load) -> str:
    reached = found.exact >= load.wanted and found.false <= 0.01
    return f"  {'reached' if reached else 'MISSED'}: {load.wanted:.0%}, at most 1% false"
