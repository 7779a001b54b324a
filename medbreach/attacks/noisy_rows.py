"""Reading planted rows that a defense has blurred or thinned out, by who knows the defense."""

import math
from typing import Final, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from medbreach.attacks.prior import FEWEST, Prior
from medbreach.errors import NotApplicable
from medbreach.servers.secrets import ImprintSecret
from medbreach.types import Exchange, Reconstruction, Round

AMOUNTS: Final = 48  # that each row is judged by, of either sign
SURE: Final = 6.0  # log-likelihood by which a row has to be more than noise


class Rows(NamedTuple):
    """What the planted rows took of records, one by one.

    Attributes:
        weight: Change of each row's weight: a record, normalised, times its amount.
        bias: Change of its bias: the amount.
        sent: Which entries of the weight were sent.
        noise: Standard deviation of the noise on each entry.
    """

    weight: Float[Tensor, "rows voxels"]
    bias: Float[Tensor, " rows"]
    sent: Bool[Tensor, "rows voxels"]
    noise: float


def known_noise(exchange: Exchange, seen: Round) -> float:
    """Return the deviation of the noise that all known defenses together leave on an update."""
    return math.hypot(*(defense.noise(seen.update) for defense in exchange.defenses))


def restored(claims: Reconstruction, exchange: Exchange) -> Reconstruction:
    """Return claims with the noise taken off that they show beside public images."""
    prior, spec = prior_of(exchange), exchange.spec
    if prior is None or not len(claims.images):
        return claims
    images = spec.denormalise(prior.restore(spec.normalise(claims.images.cpu())))
    return Reconstruction(images, claims.labels, claims.confidence)


def prior_of(exchange: Exchange) -> Prior | None:
    """Return what public images say of normalised ones, if there are enough."""
    if len(exchange.public) < FEWEST:
        return None
    return Prior.fit(exchange.spec.normalise(exchange.public.cpu().float()))


def read_noisy_rows(exchange: Exchange, played: Round, secret: ImprintSecret) -> Reconstruction:
    """Return a claim for each planted row that holds more than noise.

    Entries that are exactly zero were not sent. What the noise blurs and what is missing is
    restored from public images, if there are enough; they tell too how much of a record a row took.

    Raises:
        NotApplicable: The update holds no change of the rows.
    """
    return read_rows(rows_of(exchange, played, secret), exchange)


def read_rows(rows: Rows, exchange: Exchange) -> Reconstruction:
    """Return a claim for each row that holds more than noise, restored from public images."""
    prior, spec = prior_of(exchange), exchange.spec
    if rows.noise > 0 and prior is not None:
        amounts, kept = _amounts(rows, prior)
    else:
        amounts, kept = rows.bias, rows.bias != 0
    weight, amounts, sent = rows.weight[kept], amounts[kept], rows.sent[kept]
    inputs = (weight / amounts[:, None]).reshape(-1, *spec.shape)
    if prior is not None:
        blur = rows.noise / amounts.abs()
        inputs = prior.restore(inputs, blur, sent.reshape(inputs.shape))
    return Reconstruction(spec.denormalise(inputs))


def rows_of(exchange: Exchange, played: Round, secret: ImprintSecret) -> Rows:
    """Return what each planted row alone took.

    Raises:
        NotApplicable: The update holds no change of the rows.
    """
    change = played.update.change
    if secret.weight not in change or secret.bias not in change:
        raise NotApplicable(f"the update holds no change of {secret.weight}")
    weight = change[secret.weight].detach().cpu().float().flatten(1)
    bias = change[secret.bias].detach().cpu().float()
    sent, noise = weight != 0, known_noise(exchange, played)
    if secret.structure != "cumulative":
        return Rows(weight, bias, sent, noise)
    silent = torch.cat([torch.ones(1, dtype=torch.bool), bias[:-1] == 0])
    sent[1:] &= sent[:-1] | silent[1:, None]  # a row that nothing went through has nothing to send
    return Rows(_differences(weight), _differences(bias), sent, noise * math.sqrt(2))


def _differences(rows: Tensor) -> Tensor:
    return rows - torch.cat([torch.zeros_like(rows[:1]), rows[:-1]])


def _amounts(rows: Rows, prior: Prior) -> tuple[Float[Tensor, " rows"], Bool[Tensor, " rows"]]:
    """Return the likeliest amount of each row, and which rows are more than noise.

    The weight has far more entries than the bias, and public images say how large they should be.
    """
    share = rows.sent.float().mean(1).clamp_min(1e-6)
    energy = (rows.weight.square().sum(1) / share).sqrt()
    typical = (prior.variances.sum() + prior.floor * len(prior.mean)).sqrt()
    most = 4 * float(torch.maximum(energy / typical, rows.bias.abs()).max())
    ladder = torch.logspace(-3, 0, AMOUNTS, dtype=torch.float64) * most
    steps = torch.cat([ladder, -ladder]).expand(len(rows.bias), -1)
    coarse, _ = _likeliest(rows, prior, steps)
    near = torch.linspace(-1, 1, AMOUNTS, dtype=torch.float64) * 3 / AMOUNTS
    amounts, likely = _likeliest(rows, prior, coarse[:, None] * 10**near)
    kept = likely - _likeliest(rows, prior, torch.zeros(len(coarse), 1).double())[1] > SURE
    if not bool(kept.any()):
        kept[int(likely.argmax())] = True
    return amounts.float(), kept


def _likeliest(
    rows: Rows, prior: Prior, amounts: Float[Tensor, "rows amounts"]
) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Return the likeliest of some amounts for each row, and its log-likelihood."""
    likely = prior.evidence(rows.weight, amounts, rows.noise)
    likely = likely - ((rows.bias.double()[:, None] - amounts) / rows.noise).square() / 2
    best = likely.max(1)
    return amounts.gather(1, best.indices[:, None])[:, 0], best.values
