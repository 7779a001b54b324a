"""Reading planted rows that a defense has blurred or thinned out, by who knows the defense."""

import math
from collections.abc import Mapping
from typing import Final, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from medbreach.attacks.prior import FEWEST, Prior
from medbreach.errors import NotApplicable
from medbreach.servers.secrets import ImprintSecret
from medbreach.types import Exchange, Reconstruction, Round

STEPS: Final = 64  # of the sizes that each row is judged by, over three decades
SURE: Final = 6.0  # log-likelihood by which a row has to be more than noise
BY_SIZE: Final = 0.05  # of the median: if less was sent, entries were not left out by size
CONTRAST: Final = 0.5  # deviation of the logarithm of an image's contrast (ours)


class Rows(NamedTuple):
    """What the planted rows took of records, one by one.

    Attributes:
        weight: Change of each row's weight: a record, normalised, times its amount.
        bias: Change of its bias: the amount.
        noise: Standard deviation of the noise on each entry of the weight.
        bias_noise: The same of the bias.
        doubt: For each entry of the weight, its noise with the doubt about those not sent.
    """

    weight: Float[Tensor, "rows voxels"]
    bias: Float[Tensor, " rows"]
    noise: float
    bias_noise: float
    doubt: Float[Tensor, "rows voxels"]


def known_noise(exchange: Exchange, seen: Round, name: str) -> float:
    """Return the deviation of the noise that all known defenses together leave on a tensor."""
    told = [defense.noise(seen.update) for defense in exchange.defenses]
    return math.hypot(*(n.get(name, 0.0) if isinstance(n, Mapping) else n for n in told))


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
    inputs = rows.weight[kept] / amounts[kept, None]
    if prior is not None:
        inputs = prior.restore(inputs, rows.doubt[kept] / amounts[kept, None].abs())
    inputs = inputs.reshape(-1, *spec.shape)
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
    noise = known_noise(exchange, played, secret.weight)
    bias_noise = known_noise(exchange, played, secret.bias)
    unsent = _doubt_of_unsent(weight, bias).square()
    if secret.structure != "cumulative":
        return Rows(weight, bias, noise, bias_noise, (noise**2 + unsent).sqrt())
    before = torch.cat([torch.zeros_like(unsent[:1]), unsent[:-1]])
    doubt = (2 * noise**2 + unsent + before).sqrt()
    twice = math.sqrt(2)  # a row's own part is a difference of two
    return Rows(_differences(weight), _differences(bias), noise * twice, bias_noise * twice, doubt)


def _doubt_of_unsent(
    weight: Float[Tensor, "rows voxels"], bias: Float[Tensor, " rows"]
) -> Float[Tensor, "rows voxels"]:
    """Return how far entries may be from zero that were not sent: a deviation, 0 where sent.

    If the smallest entries were left out they are below the least that was sent, else they may be
    anything, as they may if nothing was sent at all. A row whose bias was not moved either had
    nothing to send.
    """
    unsent = (weight == 0) & (bias != 0)[:, None]
    if not bool(unsent.any()):
        return torch.zeros_like(weight)
    there = weight[weight != 0].abs()
    if not len(there):
        return torch.where(unsent, math.inf, 0.0)
    least, usual = float(there.min()), float(there.median())
    doubt = least / math.sqrt(3) if least > BY_SIZE * usual else math.inf
    return torch.where(unsent, doubt, 0.0)


def _differences(rows: Tensor) -> Tensor:
    return rows - torch.cat([torch.zeros_like(rows[:1]), rows[:-1]])


def _amounts(rows: Rows, prior: Prior) -> tuple[Float[Tensor, " rows"], Bool[Tensor, " rows"]]:
    """Return the likeliest amount of each row, and which rows are more than noise.

    The weight has far more entries than the bias, and public images say how large they should be;
    but contrast differs from image to image, so where the bias is clear of the noise it decides.
    """
    sizes, surplus = _sizes(rows, prior)
    kept = surplus > SURE
    if not bool(kept.any()):
        kept[int(surplus.argmax())] = True
    if rows.bias_noise == 0:
        return rows.bias, kept & (rows.bias != 0)
    ladder = sizes[:, None] * torch.logspace(-1, 1, 8 * STEPS, dtype=torch.float64)
    amounts = torch.cat([ladder, -ladder], dim=1)
    by_contrast = ((amounts.abs() / sizes[:, None]).log() / CONTRAST).square()
    by_bias = ((rows.bias.double()[:, None] - amounts) / rows.bias_noise).square()
    best = (by_contrast + by_bias).argmin(1)
    return amounts.gather(1, best[:, None])[:, 0].float(), kept


def _sizes(rows: Rows, prior: Prior) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Return the likeliest size of each row's amount by its weight alone.

    Returns:
        The sizes, and the log-likelihood by which each row is more than noise.
    """
    typical = float((prior.variances.sum() + prior.floor * len(prior.mean)).sqrt())
    most = 4 * float(rows.weight.norm(dim=1).max()) / typical
    ladder = torch.logspace(-3, 0, STEPS, dtype=torch.float64).expand(len(rows.bias), -1) * most
    likely = prior.evidence(rows.weight, ladder, rows.noise)
    best = likely.max(1)
    coarse = ladder.gather(1, best.indices[:, None])
    nothing = prior.evidence(rows.weight, torch.zeros_like(coarse), rows.noise)[:, 0]
    return coarse[:, 0], best.values - nothing
