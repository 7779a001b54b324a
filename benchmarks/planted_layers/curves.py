"""Recovery against records for each row: alone, with a second round, and under defenses."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import torch
from torch import nn

from medbreach.protocol import LocalNoise
from medbreach.randomness import Seeds
from medbreach.round import mean_update
from medbreach.training import LocalTrainer
from medbreach.types import Batch, Recipe, Update
from planted_layers.images import Drawn, Source
from planted_layers.rounds import (
    UNDEFENDED,
    Clients,
    Score,
    gradient,
    judge,
    mean,
    play,
    read,
    server,
    task,
)

ROWS: Final = 128
CLIENTS: Final = 12
KEPT: Final = 0.1  # of each tensor's entries, by pruning
NOISE: Final = (1e-6, 1e-5, 1e-4, 1e-3)  # norm, relative to the gradient's
PLANTED: Final = {
    "peeling": ("peeling", None),
    "peeling, gain 1": ("peeling", 1.0),
    "Robbing the Fed": ("Robbing the Fed", None),
}
"""What is planted, and its gain if that is not the default."""
STEPS: Final = 4
RATE: Final = 0.01
CLIPPED: Final = 0.5  # norm that a record's gradient is cut to, relative to the median

Curves = Mapping[str, Sequence[float]]


def one_measurement(records: int) -> float:
    """Return the expected share of records that are alone in a bin, by balls in bins."""
    return float((1 - 1 / ROWS) ** (records - 1))


def ceiling(records: int, rounds: int = 1) -> float:
    """Return the greatest share of records if each row of each round gives one away."""
    return min(1.0, rounds * ROWS / records)


def recovery_curve(name: str, source: Source, loads: Sequence[float], seeds: int) -> Curves:
    """Print and return the share of records at 30 dB for each load."""
    print(
        f"\nRecords at >= 30 dB against records a row: {name}, {ROWS} rows, mean of {seeds} seeds\n"
        f"{'a row':>6}{'records':>9}{'peeling':>9}{'wrong':>8}{'2 rounds':>10}{'wrong':>8}"
        f"{'RtF':>8}{'wrong':>8}{'balls in bins':>15}{'ceiling':>9}{'of 2':>7}"
    )
    curves: dict[str, list[float]] = {"peeling": [], "peeling, 2 rounds": [], "Robbing the Fed": []}
    for load in loads:
        records = round(load * ROWS)
        found: dict[str, list[Score]] = {key: [] for key in curves}
        for seed in range(seeds):
            drawn = source.draw(records, seed)
            plants = server("peeling", ROWS, records)
            both = play(drawn, source.model, plants, seed, queries=2).exchange
            alone = replace(both, rounds=both.rounds[:1])
            fed = play(drawn, source.model, server("Robbing the Fed", ROWS, records), seed).exchange
            for key, exchange in zip(curves, (alone, both, fed), strict=True):
                found[key].append(judge(read(key, exchange)[0], drawn))
        means = {key: mean(scores) for key, scores in found.items()}
        for key, score in means.items():
            curves[key].append(score.shown)
        measured = "".join(
            f"{score.shown:{width}.1%}{score.wrong:8.1%}"
            for score, width in zip(means.values(), (9, 10, 8), strict=True)
        )
        print(
            f"{load:6.2f}{records:9d}{measured}{one_measurement(records):15.1%}"
            f"{ceiling(records):9.1%}{ceiling(records, 2):7.1%}",
            flush=True,
        )
    return curves


def defended_curves(
    name: str, source: Source, loads: Sequence[float], seeds: int
) -> Mapping[str, Curves]:
    """Print and return the same under defenses, and where clients train otherwise."""
    heads = "".join(f"{load:>18.2f}" for load in loads)
    print(
        f"\nRecords at >= 30 dB, and claims below it, under defenses: {name}, {ROWS} rows, mean of "
        f"{seeds} seeds\n{'records a row':48}{heads}"
    )
    curves: dict[str, Curves] = {}
    for key, clients in circumstances().items():
        found = {}
        for planted in PLANTED:
            points = [_point(planted, source, clients, load, seeds) for load in loads]
            found[planted] = [point.shown for point in points]
            cells = "".join(_cell(point) for point in points)
            print(f"{planted + ', ' + key:48}{cells}", flush=True)
        curves[key] = found
    print("?: claimed without confidence, since nothing passed the checksum")
    return curves


def _cell(point: Score) -> str:
    unsure = "?" if point.checked == 0 and point.claims else " "
    return f"{point.shown:8.1%} /{point.wrong:6.1%}{unsure} "


def _point(planted: str, source: Source, clients: Clients, load: float, seeds: int) -> Score:
    scores = []
    for seed in range(seeds):
        drawn = source.draw(round(load * ROWS), seed)
        choice, gain = PLANTED[planted]
        plants = server(choice, ROWS, len(drawn.records.labels), gain)
        exchange = play(drawn, source.model, plants, seed, clients).exchange
        scores.append(judge(read(choice, exchange)[0], drawn))
    return mean(scores)


def circumstances() -> dict[str, Clients]:
    """Return what clients and their aggregation do to the update."""
    return {
        "no defense": UNDEFENDED,
        **{f"noise {scale:g}": Clients(partial(noisy, scale=scale)) for scale in NOISE},
        f"clipping at {CLIPPED:g} of the median": Clients(clipped),
        f"pruning to {KEPT:.0%}": Clients(pruned),
        f"secure aggregation of {CLIENTS}": Clients(aggregated),
        "training mode": Clients(in_training_mode, training=True),
        f"{STEPS} local steps": Clients(after_local_steps),
    }


def noisy(model: nn.Module, drawn: Drawn, scale: float) -> Update:
    """Add Gaussian noise to the whole gradient."""
    update, rng = gradient(model, drawn), Seeds(0).stream("noise")
    size = sum(g.numel() for g in update.change.values())
    deviation = scale * norm(update) / size**0.5
    for g in update.change.values():
        g.add_(deviation * torch.randn(g.shape, generator=rng))
    return update


def clipped(model: nn.Module, drawn: Drawn) -> Update:
    """Clip each record's gradient."""
    some = drawn.records.images[:15], drawn.records.labels[:15]
    alone = (Batch(x[None], y[None]) for x, y in zip(*some, strict=True))
    norms = [norm(LocalTrainer()(task(model, batch, drawn))) for batch in alone]
    bound = CLIPPED * float(torch.tensor(norms).median())
    return gradient(model, drawn, LocalTrainer(LocalNoise(per_example_clipping=bound)))


def pruned(model: nn.Module, drawn: Drawn) -> Update:
    """Send the largest entries of each tensor only."""
    update = gradient(model, drawn)
    for g in update.change.values():
        count = g.numel() - max(1, round(KEPT * g.numel()))
        if count:
            least = g.abs().flatten().kthvalue(count).values
            g.mul_(g.abs() > least)
    return update


def aggregated(model: nn.Module, drawn: Drawn) -> Update:
    """Send the exact mean of the updates of clients that hold the records among them."""
    images = drawn.records.images.tensor_split(CLIENTS)
    labels = drawn.records.labels.tensor_split(CLIENTS)
    shares = [Batch(x, y) for x, y in zip(images, labels, strict=True)]
    return mean_update(
        [gradient(model, drawn._replace(records=own)) for own in shares if len(own.labels)]
    )


def in_training_mode(model: nn.Module, drawn: Drawn) -> Update:
    """Normalise with the batch's own statistics: all records have to be in one batch."""
    whole = replace(task(copy.deepcopy(model), drawn.records, drawn), training=True)
    return replace(LocalTrainer()(whole), buffers=None, labels=None)


def after_local_steps(model: nn.Module, drawn: Drawn) -> Update:
    """Send the change of weights after a few steps."""
    recipe = Recipe(STEPS, -(-len(drawn.records.labels) // STEPS), RATE)
    whole = replace(task(copy.deepcopy(model), drawn.records, drawn), recipe=recipe)
    return replace(LocalTrainer()(whole), buffers=None, labels=None)


def norm(update: Update) -> float:
    """Return an update's Euclidean norm."""
    return float(torch.stack([g.norm() for g in update.change.values()]).norm())
