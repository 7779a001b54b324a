"""One round: what a server plants, what clients send, what an attack reads, and how good it is."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final, NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from medbreach.attacks.imprint_readout import ImprintReadout
from medbreach.attacks.peeling import Peeling
from medbreach.components import Attack, ClientTask, LocalTraining, Model
from medbreach.config import read_choice
from medbreach.randomness import Seeds
from medbreach.recovery import recovery
from medbreach.servers.imprint import MaliciousModelServer
from medbreach.servers.modification import Modification
from medbreach.training import LocalTrainer
from medbreach.types import UNKNOWN, Batch, Exchange, Reconstruction, Round, Update
from planted_layers.images import Drawn

AT_ONCE: Final = 16  # records in a client's network at a time, at most
VOXELS: Final = 2**22  # of them together
CHOICES: Final = {
    "peeling": "peeling",
    "Robbing the Fed": "rtf",
    "trap weights (CAH)": "cah",
    "QBI": "qbi",
}
"""The server's choice by what it plants."""

PLAIN: Final = LocalTrainer()


class Clock:
    """Seconds of the processor, which other programs on the machine take little part in.

    Attributes:
        seconds: What has been counted.
    """

    seconds: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count what runs inside."""
        start = time.process_time()
        try:
            yield
        finally:
            self.seconds += time.process_time() - start


class Played(NamedTuple):
    """A round.

    Attributes:
        exchange: What the server saw.
        plant: Seconds for planting.
        clients: Seconds for the clients' gradients.
    """

    exchange: Exchange
    plant: float
    clients: float


class Score(NamedTuple):
    """How good claims are.

    Attributes:
        exact: Share of records with a claim of their own of at least 40 dB.
        shown: Share with one of at least 30 dB.
        false: Share of claims below 40 dB to every record.
        wrong: Share of claims below 30 dB to every record.
        claims: Number of claims.
        labels: Share of records shown at 30 dB whose label is told.
        checked: Share of claims that the attack has confidence in, where it says.
    """

    exact: float
    shown: float
    false: float
    wrong: float
    claims: float
    labels: float
    checked: float


def gradient(model: nn.Module, drawn: Drawn, train: LocalTraining = PLAIN) -> Update:
    """Return the update of one client with all records, computed a few records at a time.

    It is that of one batch: no record counts in another's gradient as long as networks normalise
    with the statistics that they were sent.
    """
    whole, update = drawn.records, None
    at_once = max(1, min(AT_ONCE, VOXELS // whole.images[0].numel()))
    for start in range(0, len(whole.labels), at_once):
        part = slice(start, start + at_once)
        batch = Batch(whole.images[part], whole.labels[part])
        own = train(task(model, batch, drawn))
        for g in own.change.values():
            g.mul_(len(batch.labels) / len(whole.labels))
        if update is None:
            update = replace(own, count=len(whole.labels), labels=None, buffers=None)
        else:
            for name, g in own.change.items():
                update.change[name].add_(g)
    assert update is not None
    return update


class Clients(NamedTuple):
    """What clients do with the model that they are sent.

    Attributes:
        collect: Returns what the server sees.
        training: They run it in training mode.
    """

    collect: Callable[[nn.Module, Drawn], Update] = gradient
    training: bool = False


UNDEFENDED: Final = Clients()


def task(model: nn.Module, batch: Batch, drawn: Drawn) -> ClientTask:
    """Return what a client has to do for the gradient of a batch."""
    return ClientTask(
        model, batch, drawn.spec, drawn.classes, nn.CrossEntropyLoss(), None, False,
        Seeds(0).stream("client"),
    )  # fmt: skip


def server(name: str, rows: int, records: int, gain: float | None = None) -> MaliciousModelServer:
    """Return a server of `CHOICES`, as it comes, with so many rows, and perhaps another gain."""
    chosen = read_choice("case/server", f"malicious-model-{CHOICES[name]}")
    settings = {**chosen["model_modification"], "num_bins": rows}
    if gain is not None:
        settings["gain"] = gain
    if "expected_records" in settings:
        settings["expected_records"] = max(2, records)
    return MaliciousModelServer(model_modification=Modification(**settings))


def attack(name: str) -> Attack:
    """Return what reads the layer."""
    return Peeling() if name.startswith("peeling") else ImprintReadout()


def play(
    drawn: Drawn,
    model: Model,
    plants: MaliciousModelServer,
    seed: int = 0,
    clients: Clients = UNDEFENDED,
    queries: int = 1,
) -> Played:
    """Play rounds over the same records."""
    seeds, rounds = Seeds(seed), []
    planting, training = Clock(), Clock()
    for query in range(queries):
        honest = model(drawn.spec, drawn.classes, seeds.stream("model"))
        with planting.running():
            sent, secret = plants.plant(
                honest, drawn.spec, drawn.public, seeds.stream(f"plant/{query}")
            )
        with training.running():
            update = clients.collect(sent, drawn)
        rounds.append(Round(sent, update, clients.training, secret))
    exchange = Exchange(drawn.spec, drawn.classes, model.loss(), tuple(rounds), drawn.public)
    return Played(exchange, planting.seconds, training.seconds)


def read(name: str, exchange: Exchange) -> tuple[Reconstruction, float]:
    """Return an attack's claims, and the seconds that it took."""
    clock = Clock()
    with clock.running():
        claims = attack(name)(exchange, torch.Generator().manual_seed(0))
    return claims, clock.seconds


def judge(claims: Reconstruction, drawn: Drawn) -> Score:
    """Match claims to records one to one and count."""
    psnr = psnr_between(claims.images, drawn.records.images, drawn.spec.range)
    exact, shown = recovery(psnr, 40.0), recovery(psnr, 30.0)
    rows, columns = linear_sum_assignment(psnr.clamp_max(60).numpy(), maximize=True)
    hits = [(r, c) for r, c in zip(rows, columns, strict=True) if psnr[r, c] >= 30]
    labels = torch.full((len(psnr),), UNKNOWN) if claims.labels is None else claims.labels
    right = sum(int(labels[r] == drawn.records.labels[c]) for r, c in hits)
    sure = claims.confidence
    return Score(
        exact=exact.shown / exact.records,
        shown=shown.shown / shown.records,
        false=exact.false / max(1, exact.claims),
        wrong=shown.false / max(1, shown.claims),
        claims=exact.claims,
        labels=right / max(1, len(hits)),
        checked=float((sure > 0).double().mean()) if sure is not None and len(sure) else 0.0,
    )


def psnr_between(claims: Tensor, records: Tensor, peak: float) -> Tensor:
    """Return the PSNR of every claim to every record, in dB, at most about 100."""
    b = records.flatten(1)
    rows = []
    for part in claims.flatten(1).split(32):
        a = part.double()
        cross = torch.cat([a @ some.double().T for some in b.split(32)], dim=1)
        squares = a.square().sum(1)[:, None] + torch.stack([r.double().square().sum() for r in b])
        rows.append((squares - 2 * cross) / b.shape[1])
    mse = torch.cat(rows) if rows else torch.zeros(0, len(b), dtype=torch.double)
    return 10 * torch.log10(peak**2 / mse.clamp_min(1e-10 * peak**2))


def mean(scores: Sequence[Score]) -> Score:
    """Return the means."""
    return Score(*(sum(column) / len(scores) for column in zip(*scores, strict=True)))
