"""Peeling records one by one out of the layer that `medbreach.servers.peeling` plants."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from medbreach.attacks.bin_table import LOOSEST, BinTable, first_alike
from medbreach.attacks.influence import influence
from medbreach.attacks.noisy_rows import Rows, known_noise, read_rows, restored
from medbreach.attacks.peeling_steps import peel, peel_beside
from medbreach.components import Attack
from medbreach.errors import NotApplicable
from medbreach.servers.imprint import single_record
from medbreach.servers.peeling import PeelingBlock, PeelingSecret, energies
from medbreach.types import UNKNOWN, Change, Exchange, ImageSpec, Reconstruction, Round, Update

if TYPE_CHECKING:
    from medbreach.case import Case

AGREE: Final = 0.02  # of the gradient that an image should have caused: rounding in float32

BY_LOOSE_CHECKSUM: Final = 0.5  # confidence in a claim that noise leaves in some doubt
BY_CHECKSUM: Final = 0.9  # in one whose class could not be told
BY_SIMULATION: Final = 1.0  # in one that causes, with a class, the very gradient that was seen
UNCHECKED: Final = 0.0

LOOSER: Final = 3.0  # factor of the tolerance under noise, from try to try

TYPICAL: Final = 8  # public images that the energy of a typical one is taken from


@dataclass(frozen=True)
class Peeling(Attack):
    """Read single records from a planted layer's bins, subtract them, and read on, in 2D and 3D.

    Whether a bin holds one record shows a checksum in the update itself, so neither the number of
    records nor their labels, nor how clients train, need be known. Several rounds over the same
    records add up. Labels come from simulating the client on each claim; where the clients'
    networks run in training mode, or train for several steps or in a way that is withheld, they are
    left open. Where noise or rounding blurs the checksum it is taken less exactly, with confidence
    0.5. If nothing passes it, every bin's quotient is claimed, with confidence 0.

    Attributes:
        tolerance: Doubt up to which a bin is taken to hold one record: the difference of its energy
            to the one that the update tells, relative to that of public images. Under noise it is
            raised, to 0.1 at most.
        labels: Tell each record's class. It takes about as long as the client's own training.
        adaptive: Behind defenses, attack a second time: what noise is on a claim is taken off as
            far as public images tell it apart, and where noise leaves nothing to peel, the bins of
            one measurement are read as single records.
    """

    name: ClassVar[str] = "peeling"
    source: ClassVar[str] = "medbreach"

    tolerance: float = 0.003
    labels: bool = True
    adaptive: bool = True

    def __post_init__(self) -> None:
        if self.tolerance <= 0:
            raise ValueError(f"tolerance must be positive, got {self.tolerance}")

    def control(self, case: "Case") -> "Case":
        """Return one record, with the case's own server, rows fitted to single records."""
        return single_record(case)

    def run(self, exchange: Exchange, rng: torch.Generator) -> Reconstruction:
        """Return the records that could be told apart.

        Raises:
            NotApplicable: The server did not plant this layer, or clients do not train it.
        """
        del rng
        tables = [table_of(exchange, seen) for seen in exchange.rounds]
        claims = self._peeled(exchange, tables)
        secret = exchange.secret
        noise = known_noise(exchange, exchange.rounds[0], secret.weight)
        bias_noise = known_noise(exchange, exchange.rounds[0], secret.bias)
        if not self.adaptive or noise == 0:
            return claims
        if any(table.peeled for table in tables):
            return restored(claims, exchange)
        return read_rows(first_measurement(tables[0], noise, bias_noise), exchange)

    def _peeled(self, exchange: Exchange, tables: Sequence[BinTable]) -> Reconstruction:
        peel_under_noise(tables, self.tolerance)
        told = [
            labels_of(table, exchange, seen) if self.labels else unlabelled(table)
            for table, seen in zip(tables, exchange.rounds, strict=True)
        ]
        if not any(table.peeled for table in tables):
            return unchecked(tables[0], exchange)
        images, labels, doubts = tables[0].images, told[0], [r.doubt for r in tables[0].peeled]
        if len(tables) > 1:
            images, labels, doubts = each_once(tables, told)
        checked = torch.where(
            torch.tensor(doubts) <= self.tolerance, BY_CHECKSUM, BY_LOOSE_CHECKSUM
        )
        return Reconstruction(
            shown(images, exchange.spec),
            labels if bool((labels != UNKNOWN).any()) else None,
            checked.where((labels == UNKNOWN) | (checked < BY_CHECKSUM), BY_SIMULATION),
        )


def table_of(exchange: Exchange, seen: Round) -> BinTable:
    """Return the bins of one round.

    Raises:
        NotApplicable: The server planted no such layer, or the update holds no change of it.
    """
    secret = seen.secret
    if not isinstance(secret, PeelingSecret):
        raise NotApplicable(
            "peeling reads a layer that the server planted for it: choose "
            "case/server=malicious-model-peeling"
        )
    change, block = seen.update.change, seen.model.get_submodule(secret.block)
    assert isinstance(block, PeelingBlock)
    if secret.weight not in change or secret.bias not in change:
        raise NotApplicable(f"the update holds no change of {secret.weight}")
    scale = typical_energy(exchange.public, exchange.spec)
    return BinTable.of(change[secret.weight], change[secret.bias], block, exchange.spec, scale)


def first_measurement(table: BinTable, noise: float, bias_noise: float) -> Rows:
    """Return the bins of the first measurement, in each of which a record lies once at most."""
    bins = range(table.groups[0], table.groups[1])
    content = torch.stack([table.content(b).cpu().float() for b in bins])
    totals = table.totals[list(bins)].cpu().float()
    twice = 2**0.5  # a bin is a difference of two rows
    doubt = torch.full_like(content, noise * twice)
    return Rows(content, totals, noise * twice, bias_noise * twice, doubt)


def typical_energy(public: Float[Tensor, "public channels *space"], spec: ImageSpec) -> float:
    """Return the mean energy of some public images; 1, as of normalised voxels, without any."""
    some = public[:: 1 + len(public) // TYPICAL]
    energy = [float(energies(spec.normalise(image[None]), 1)) for image in some]
    return sum(energy) / len(energy) if energy else 1.0


def peel_under_noise(tables: Sequence[BinTable], tolerance: float) -> None:
    """Peel every round, and under noise with ever more tolerance as long as that adds records.

    Without noise nothing lies between records and mixtures: most records lie far within the
    tolerance, and more of it would only let mixtures pass. With noise, doubts are of all sizes.
    """
    peel_all(tables, tolerance)
    noise, before = tolerance, -1
    while any(table.noisy for table in tables) and (noise := LOOSER * noise) <= LOOSEST:
        read = sum(len(table.peeled) for table in tables)
        if 0 < read <= before:
            break
        before = read
        peel_all(tables, tolerance, noise)


def peel_all(tables: Sequence[BinTable], tolerance: float, noise: float = 0.0) -> None:
    """Peel every round, then each with what the others gave away, until nothing is added."""
    for table in tables:
        peel(table, tolerance, noise)
    before = 0
    while len(tables) > 1 and before < (now := sum(len(table.peeled) for table in tables)):
        before = now
        for table in tables:
            known = [r.image for other in tables if other is not table for r in other.peeled]
            peel_beside(table, known, tolerance, noise)


def each_once(
    tables: Sequence[BinTable], told: Sequence[Int[Tensor, " _peeled"]]
) -> tuple[Float[Tensor, "records voxels"], Int[Tensor, " records"], list[float]]:
    """Return records, labels and doubts of all rounds without what an earlier one gave away too."""
    records, labels = [r for table in tables for r in table.peeled], torch.cat(list(told))
    noise = [table.noise(record.delta) for table in tables for record in table.peeled]
    places = first_alike([record.image for record in records], noise)
    for k, place in enumerate(places):
        if labels[place] == UNKNOWN:
            labels[place] = labels[k]
    kept = [k for k, place in enumerate(places) if k == place]
    images = torch.stack([records[k].image for k in kept])
    return images, labels[kept], [records[k].doubt for k in kept]


def labels_of(table: BinTable, exchange: Exchange, seen: Round) -> Int[Tensor, " peeled"]:
    """Return the class with which each record causes the gradient that it caused; -1 if none does.

    An update counts every record's gradient with one factor (one over their number, say), which the
    records agree on. They do not where a client's network runs in training mode or trains for
    several steps, or where clients have different numbers of records.
    """
    if seen.training or not table.peeled or not _is_gradient(seen.update):
        return unlabelled(table)
    block = seen.model.get_submodule(seen.secret.block)
    assert isinstance(block, PeelingBlock)
    pattern = block.pattern / sum(block.groups)
    images = table.images.reshape(-1, *exchange.spec.shape)
    caused = influence(
        seen.model, seen.secret.block, pattern, exchange.loss, images, exchange.classes
    )
    sign = -1 if seen.update.kind is Change.DIFFERENCE else 1
    deltas = sign * torch.tensor([r.delta for r in table.peeled]).to(caused)
    factors = deltas[:, None] / caused
    agreeing = (factors / _common(factors, seen.update) - 1).abs().cpu() <= AGREE
    return torch.where(agreeing.sum(1) == 1, agreeing.int().argmax(1), UNKNOWN)


def _is_gradient(update: Update) -> bool:
    """Return whether an update is a gradient, or the change of weights by a single one."""
    one_step = update.recipe is not None and update.recipe.steps == 1
    return update.kind is Change.GRADIENT or one_step


def unlabelled(table: BinTable) -> Int[Tensor, " peeled"]:
    """Return that no record's class is told."""
    return torch.full((len(table.peeled),), UNKNOWN)


def _common(factors: Float[Tensor, "claims classes"], update: Update) -> float:
    """Return the factor that more than half of the records agree on; NaN if there is none.

    Where it is not told, two records at least have to agree: one alone agrees with any.
    """
    told = [1 / update.count] if update.count and update.kind is Change.GRADIENT else []
    guesses = factors[factors.isfinite() & (factors > 0)].flatten().tolist()
    for needed, candidates in ((1, told), (2, guesses)):
        agreeing = [int(((factors / c - 1).abs() <= AGREE).any(1).sum()) for c in candidates]
        most = max(agreeing, default=0)
        if most >= needed and 2 * most > len(factors):
            return float(candidates[agreeing.index(most)])
    return float("nan")


def unchecked(table: BinTable, exchange: Exchange) -> Reconstruction:
    """Return the quotient of every bin that is not empty, as an attacker who cannot check would."""
    bins = [b for b in range(len(table.totals)) if abs(table.totals[b]) > table.floor]
    for k, b in enumerate(bins):
        table.shelf[k] = table.content(b) / table.totals[b]
    images = shown(table.shelf[: len(bins)], exchange.spec)
    return Reconstruction(images, confidence=torch.full((len(bins),), UNCHECKED))


def shown(
    flat: Float[Tensor, "claims voxels"], spec: ImageSpec
) -> Float[Tensor, "claims channels *space"]:
    """Turn normalised images into images in the spec's unit, in place: copies would be large."""
    images = flat.reshape(-1, *spec.shape)
    for image in images:
        image.copy_(spec.denormalise(image[None])[0].clamp_(*spec.bounds))
    return images
