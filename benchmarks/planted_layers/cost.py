"""Seconds and memory of planting and decoding, beside breaching's own blocks and readout."""

import ctypes
import gc
import math
import statistics
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Final, NamedTuple

import torch
from omegaconf import OmegaConf
from torch import nn

from medbreach.attacks.peeling import Peeling
from medbreach.breaching_bridge import library
from medbreach.breaching_bridge.run import imprint_secrets
from medbreach.breaching_bridge.values import Container, server_payload, shared_data
from medbreach.components import Planted
from medbreach.config import read_choice
from medbreach.measure import MIB, measured
from medbreach.models.small_cnn import SmallCNN
from medbreach.randomness import Seeds
from medbreach.recovery import recovery
from medbreach.servers.secrets import ImprintSecret
from medbreach.types import Batch, Exchange, Reconstruction, Round
from planted_layers.images import Drawn, Source
from planted_layers.quality import Load
from planted_layers.rounds import Clock, gradient, play, psnr_between, server

CPU: Final = torch.device("cpu")
OURS: Final = ("peeling", "peeling, no labels")
THEIRS: Final = ("breaching's RtF", "breaching's CAH")
REPEATS: Final = 3
SIDES: Final = (16, 32, 64, 128)
ROWS: Final = (32, 64, 128, 256, 512)


class Cost(NamedTuple):
    """What a round took.

    Attributes:
        plant: Seconds for planting.
        clients: Seconds for the clients' gradients.
        decode: Seconds for reading.
        layer: MiB of the planted layer's weights and gradient.
        decoding: MiB that decoding adds at its peak to what was held before.
        peak: MiB at the peak of planting or decoding, beyond what was held before planting.
        whole: The same, the clients' training counted in.
        shown: Share of records at 30 dB.
    """

    plant: float
    clients: float
    decode: float
    layer: float
    decoding: float
    peak: float
    whole: float
    shown: float

    @property
    def relative(self) -> float:
        """Peak of decoding with the layer's weights and gradient, relative to these."""
        return 1 + self.decoding / self.layer


def in_fresh_process(kind: str, source: Source, rows: int, records: int, side: int = 0) -> Cost:
    """Return the cost of a round, measured where nothing else was before.

    Args:
        kind: One of `OURS` or `THEIRS`.
        source: Images and network.
        rows: Number of rows.
        records: Number of records.
        side: Voxels along each axis that images are enlarged to; 0: as they are.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(cost_of, kind, source, rows, records, side).result()


def cost_of(kind: str, source: Source, rows: int, records: int, side: int) -> Cost:
    """Return the cost of a round, in this process."""
    warnings.simplefilter("ignore")  # what libraries say of their own future
    drawn = source.draw(records, 0)
    if side:
        drawn = enlarged(drawn, side)
    few = drawn._replace(records=Batch(drawn.records.images[:2], drawn.records.labels[:2]))
    _round(kind, source, few, 8)  # libraries load what they need
    return _round(kind, source, drawn, rows)


def enlarged(drawn: Drawn, side: int) -> Drawn:
    """Return the same images with more voxels, the public ones few."""
    space = (side,) * len(drawn.spec.space)

    def larger(images: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(images, space)

    records = Batch(larger(drawn.records.images), drawn.records.labels)
    public = larger(drawn.public[:64])
    return Drawn(replace(drawn.spec, space=space), drawn.classes, records, public)


def _round(kind: str, source: Source, drawn: Drawn, rows: int) -> Cost:
    honest = source.model(drawn.spec, drawn.classes, Seeds(0).stream("model"))
    planting, training, reading = Clock(), Clock(), Clock()
    before = held()
    with measured(CPU) as plant, planting.running():
        sent, secret = _plant(kind, honest, drawn, rows)
    with measured(CPU) as clients, training.running():
        update = gradient(sent.eval(), drawn)
    rounds = (Round(sent, update, False, secret),)
    exchange = Exchange(drawn.spec, drawn.classes, source.model.loss(), rounds, drawn.public)
    between = held()
    with measured(CPU) as decode, reading.running():
        claims = _decode(kind, exchange)
    change = next(g for name, g in update.change.items() if name.endswith("linear0.weight"))
    psnr = psnr_between(claims.images, drawn.records.images, drawn.spec.range)
    peak = max(plant.peak_memory_mb, decode.peak_memory_mb)
    return Cost(
        plant=planting.seconds,
        clients=training.seconds,
        decode=reading.seconds,
        layer=2 * change.numel() * change.element_size() / MIB,
        decoding=decode.peak_memory_mb - between,
        peak=peak - before,
        whole=max(peak, clients.peak_memory_mb) - before,
        shown=recovery(psnr, 30.0).shown / len(drawn.records.labels),
    )


def _plant(kind: str, honest: nn.Module, drawn: Drawn, rows: int) -> Planted:
    if kind in OURS:
        plants = server("peeling", rows, len(drawn.records.labels))
        return plants.plant(honest, drawn.spec, drawn.public, Seeds(0).stream("plant/0"))
    with library.quiet():
        if kind == "breaching's RtF":  # settings as in its own tree
            block = library.modifications.ImprintBlock(
                drawn.spec.shape, rows, connection="linear", gain=1.0, linfunc="fourier", mode=32
            )
        else:
            block = library.modifications.CuriousAbandonHonesty(
                drawn.spec.shape, rows, mu=0, sigma=0.5, scale_factor=0.95, connection="addition"
            )
    secret = ImprintSecret("0.linear0.weight", "0.linear0.bias", block.structure)
    return Planted(nn.Sequential(block, honest), secret)


def _decode(kind: str, exchange: Exchange) -> Reconstruction:
    if kind in OURS:
        return Peeling(labels=kind == "peeling")(exchange, torch.Generator())
    settings = {**read_choice("attack", "imprint"), "breach_padding": True}
    setup = {"device": CPU, "dtype": torch.float32}
    secret = imprint_secrets(exchange, *exchange.secret)
    with library.quiet():
        attacker = library.attacks.prepare_attack(
            Container(exchange.model), exchange.loss, OmegaConf.create(settings), setup
        )
        payload, shared = server_payload(exchange), shared_data(exchange)
        found, _ = attacker.reconstruct(payload, shared, secret)
    return Reconstruction(exchange.spec.denormalise(found["data"].detach()))


def held() -> float:
    """Return the MiB that this process holds, having given back what it does not need."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def report(name: str, source: Source, loads: Sequence[Load]) -> None:
    """Print what planting and decoding take, beside breaching's own."""
    print(
        f"\nCost: {name}, medians of {REPEATS} fresh processes\n"
        f"{'':20}{'rows':>6}{'records':>9}{'>= 30 dB':>10}{'plant s':>9}{'clients s':>11}"
        f"{'decode s':>10}{'/ clients':>11}{'layer MiB':>11}{'decoding':>10}{'peak MiB':>10}"
    )
    for load in loads:
        records = round(load.per_row * load.rows)
        every: dict[str, list[Cost]] = {kind: [] for kind in (*OURS, *THEIRS)}
        for _ in range(REPEATS):  # in turn, so that a busy machine is busy for all
            for kind, costs in every.items():
                costs.append(in_fresh_process(kind, source, load.rows, records))
        found = {kind: median(costs) for kind, costs in every.items()}
        for kind, cost in found.items():
            print(
                f"{kind:20}{load.rows:6d}{records:9d}{cost.shown:10.1%}{cost.plant:9.2f}"
                f"{cost.clients:11.2f}{cost.decode:10.2f}{cost.decode / cost.clients:11.2f}"
                f"{cost.layer:11.0f}{cost.relative:9.2f}x{cost.peak:10.0f}"
            )
        for ours in OURS:
            for theirs in THEIRS:
                a, b = found[ours], found[theirs]
                seconds = (a.plant + a.decode) / (b.plant + b.decode)
                print(f"{ours} / {theirs}: {seconds:.2f} of the seconds for planting and "
                      f"decoding, {a.peak / b.peak:.2f} of the memory", flush=True)  # fmt: skip


def median(costs: Sequence[Cost]) -> Cost:
    """Return the median of each number."""
    return Cost(*(statistics.median(column) for column in zip(*costs, strict=True)))


def large_volumes(name: str, source: Source) -> None:
    """Print what volumes of 128 x 128 x 128 take with 32 rows."""
    cost = in_fresh_process("peeling", source, 32, 16, side=128)
    print(
        f"\n16 volumes of 128 x 128 x 128 (enlarged: {name}) with 32 rows: {cost.shown:.1%} at "
        f">= 30 dB, planting {cost.plant:.1f} s, clients {cost.clients:.1f} s, decoding "
        f"{cost.decode:.1f} s; {cost.whole:.0f} MiB at the peak of the whole round, "
        f"{cost.peak:.0f} MiB of planting and decoding",
        flush=True,
    )


def growth(name: str, source: Source) -> None:
    """Print how seconds grow with voxels and rows."""
    print(
        f"\nGrowth: {name}, enlarged, half a record a row, labels left open, least of {REPEATS}\n"
        f"{'voxels':>10}{'rows':>6}{'plant s':>9}{'ns a row and voxel':>20}{'decode s':>10}"
        f"{'ns a row and voxel':>20}"
    )
    by_voxels = [_seconds(source, side, 32) for side in SIDES]
    print(f"{'':5}decoding grows with voxels to the power {_power(by_voxels, SIDES):.2f}")
    by_rows = [_seconds(source, 32, rows) for rows in ROWS]
    print(f"{'':5}decoding grows with rows to the power {_power(by_rows, ROWS):.2f}", flush=True)


def _seconds(source: Source, side: int, rows: int) -> float:
    drawn = enlarged(source.draw(rows // 2, 0), side)
    voxels, best = drawn.records.images[0].numel(), [math.inf, math.inf]
    for seed in range(REPEATS):
        plants = server("peeling", rows, rows // 2)
        played = play(drawn, SmallCNN(), plants, seed)
        clock = Clock()
        with clock.running():
            Peeling(labels=False)(played.exchange, torch.Generator())
        best = [min(a, b) for a, b in zip(best, (played.plant, clock.seconds), strict=True)]
    each = [1e9 * seconds / rows / voxels for seconds in best]
    print(f"{voxels:10d}{rows:6d}{best[0]:9.3f}{each[0]:20.2f}{best[1]:10.3f}{each[1]:20.2f}")
    return best[1]


def _power(seconds: Sequence[float], sizes: Sequence[int]) -> float:
    """Return the exponent of the growth over the last two steps; that of sides is of voxels."""
    ratio = sizes[-1] / sizes[-3]
    return math.log(seconds[-1] / seconds[-3]) / math.log(ratio**3 if sizes is SIDES else ratio)
