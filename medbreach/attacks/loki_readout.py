"""Reading records out of the layer that `medbreach.servers.loki` plants."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from medbreach.errors import NotApplicable
from medbreach.servers.loki import EXTRA, LokiSecret
from medbreach.types import Exchange, Reconstruction, Round

LACKING: Final = 0.001
"""How much less energy a claim may have than the update tells, relative to a typical one."""
EXCEEDING: Final = 0.05
"""How much more it may have: rounding errors add to it."""
HALF: Final = 0.5
"""Energy that two unlike images lack when they are mixed in equal parts, relative to one's."""
SAME: Final = 0.05
"""Root mean square difference of claims that are one record, relative to the images' deviation."""
SAMPLE: Final = 1000
"""Columns that the noise is estimated from."""


class Claims(NamedTuple):
    """What was read.

    Attributes:
        flat: Normalised images.
        noise: Deviation of the noise on each, relative to the images' deviation.
        confidence: Confidence in each: the share of its energy that is not noise, less the more the
            larger a mixture's lack of energy might be that noise hides.
    """

    flat: Float[Tensor, "claims pixels"]
    noise: Float[Tensor, " claims"]
    confidence: Float[Tensor, " claims"]

    def only(self, chosen: Tensor) -> "Claims":
        """Return some of the claims."""
        return Claims(self.flat[chosen], self.noise[chosen], self.confidence[chosen])


def read_loki(exchange: Exchange) -> Reconstruction:
    """Return the images of every client that rows' checksums tell as single records.

    Without noise they are. What noise lets pass has little confidence.

    Raises:
        NotApplicable: The clients do not train the layer.
    """
    found = []
    for k in range(exchange.secret.sets):
        rounds = [_of_set(one, k) for one in exchange.rounds]
        found.append(_distinct(_together(rounds)))
    claims = _together(found)
    images = claims.flat.reshape(-1, *exchange.spec.shape)
    return Reconstruction(exchange.spec.denormalise(images), None, claims.confidence)


def _together(parts: Sequence[Claims]) -> Claims:
    return Claims(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _of_set(one: Round, k: int) -> Claims:
    """Return the images of rows whose checksum says that there is one record in them.

    Each row's change is ``d (x, c, |x|^2 / c)``, summed over its records: ``x`` is the image, ``c``
    the constant, ``d`` the gradient at the row. A mixture of different images has less energy than
    the mixture of their energies; noise has energy of its own.
    """
    secret: LokiSecret = one.secret
    name = secret.weight(k)
    if name not in one.update.change:
        raise NotApplicable(f"the update holds no change of {name}")
    change = one.update.change[name]
    noise = _noise(change)
    change = change[change[:, -EXTRA].abs() > 6 * noise]
    relative = change / change[:, -EXTRA, None]
    flat, energy = relative[:, :-EXTRA], relative[:, -1]
    relative_noise = noise / change[:, -EXTRA].abs()
    lacking = energy - flat.square().sum(1) + flat.shape[1] * relative_noise.square()
    unsure = 10 * relative_noise  # of the quotients that energies are computed from
    single = (lacking <= LACKING + unsure) & (lacking >= -EXCEEDING - unsure)
    deviation = relative_noise * secret.constant
    doubt = (lacking.abs() + unsure) / HALF
    confidence = (1 - doubt).clamp(0, 1) / (1 + deviation.square())
    return Claims(flat * secret.constant, deviation, confidence).only(single)


def _noise(change: Float[Tensor, "rows columns"]) -> Float[Tensor, ""]:
    """Return the deviation of noise on a change: that of a row that no record came through."""
    pixels = change.shape[1] - EXTRA
    sample = change[:, : pixels : max(1, pixels // SAMPLE)]
    return sample.square().mean(1).min().sqrt()


def _distinct(claims: Claims) -> Claims:
    """Return claims without those that repeat a clearer one."""
    order = claims.noise.argsort(stable=True)
    flat, noise = claims.flat[order], claims.noise[order].square()
    kept: list[int] = []
    for i in range(len(flat)):
        apart = (flat[kept] - flat[i]).square().mean(1)
        if bool((apart > SAME**2 + 1.1 * (noise[kept] + noise[i])).all()):
            kept.append(i)
    return claims.only(order[kept])
