"""What public images say of private ones, to restore claims that are noisy or have gaps.

An attacker who knows that clients add noise, or send a part of their update only, need not take a
claim as it stands. Public images of the same kind give a Gaussian prior: their mean, their leading
principal axes and a noise floor for the rest (probabilistic principal component analysis, Tipping
and Bishop 1999). The restored claim is the mean of the posterior; where nothing was seen that is
the mean public image.
"""

from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

AXES: Final = 128  # leading principal axes, at most; a quarter of the public images, at most
LEAST: Final = 0.05  # of the usual floor, that the smoothest image has
FEWEST: Final = 8  # public images that a prior can be fitted to


@dataclass(frozen=True)
class Prior:
    """A Gaussian over images, in whatever unit they were given.

    Attributes:
        mean: Mean public image, flat.
        axes: Leading principal axes, orthonormal, one a row.
        variances: Variance along each of them.
        floor: Variance of each pixel beside the axes.
    """

    mean: Float[Tensor, " voxels"]
    axes: Float[Tensor, "axes voxels"]
    variances: Float[Tensor, " axes"]
    floor: float

    @classmethod
    def fit(cls, public: Float[Tensor, "public *shape"]) -> "Prior":
        """Fit the axes to half of the public images, and variances to the other half.

        Args:
            public: At least `FEWEST` images.
        """
        flat = public.flatten(1).double()
        mean = flat.mean(0)
        first, second = flat[::2] - mean, flat[1::2] - mean
        variances, left = torch.linalg.eigh(first @ first.T)
        count = min(AXES, len(first) // 2, max(1, flat.shape[1] // 4))
        held = variances.flip(0)[:count] > 1e-10 * variances[-1].clamp_min(1e-30)
        axes = torch.nn.functional.normalize(left.flip(1)[:, :count][:, held].T @ first, dim=1)
        coefficients = second @ axes.T
        beside = second - coefficients @ axes
        floor = float(beside.square().mean().clamp_min(1e-12))
        spread = coefficients.square().mean(0).clamp_min(floor)
        return cls(mean.float(), axes.float(), spread.float(), floor)

    def noise_of(self, images: Float[Tensor, "n *shape"]) -> Float[Tensor, " n"]:
        """Return the deviation of the noise on images: what they have too much beside the axes."""
        centred = images.flatten(1) - self.mean
        beside = centred - (centred @ self.axes.T) @ self.axes
        return (beside.square().mean(1) - self.floor).clamp_min(0).sqrt()

    def restore(
        self,
        images: Float[Tensor, "n *shape"],
        noise: Float[Tensor, "n *noisy"] | None = None,
    ) -> Float[Tensor, "n *shape"]:
        """Return the mean of the posterior of each image.

        Args:
            images: Noisy images.
            noise: Standard deviation of the noise, in their unit: of each image, or of each pixel,
                infinite where nothing was seen. None to estimate it.
        """
        noise = self.noise_of(images) if noise is None else noise
        flat = images.flatten(1)
        spread = noise.flatten(1) if noise.dim() > 1 else noise[:, None].expand_as(flat)
        rows = [self._restored(y, s) for y, s in zip(flat, spread, strict=True)]
        return torch.stack(rows).reshape(images.shape) if rows else images

    def _restored(self, image: Tensor, noise: Tensor) -> Tensor:
        known = noise.isfinite()
        if not bool(known.any()):
            return self.mean.to(image)
        if not bool(noise.any()):  # nothing to take off, in images that may be large
            return image
        centred = torch.where(known, image - self.mean, 0.0).double()
        variance = torch.where(known, noise.double().square(), torch.inf)
        beside = centred - self._along(centred, variance, self.floor)
        trust = (variance + self.floor).reciprocal().square()
        surplus = (trust * (beside.square() - variance.where(known, 0.0))).sum() / trust.sum()
        floor = max(float(surplus), LEAST * self.floor)  # some images have more texture
        along = self._along(centred, variance, floor)
        restored: Tensor = along + (centred - along) * (floor / (variance + floor))
        return self.mean + restored.to(image)

    def _along(self, centred: Tensor, variance: Tensor, floor: float) -> Tensor:
        """Return the posterior mean of the part along the axes, if the rest has this variance."""
        axes, trust = self.axes.double(), (variance + floor).reciprocal()
        precision = (axes * trust) @ axes.T + torch.diag(1 / self.variances.double())
        coefficients: Tensor = torch.linalg.solve(precision, axes @ (trust * centred))
        return coefficients @ axes

    def evidence(
        self, rows: Float[Tensor, "n voxels"], amounts: Float[Tensor, "n amounts"], noise: float
    ) -> Float[Tensor, "n amounts"]:
        """Return the log-likelihood of noisy multiples of an image of the prior.

        Args:
            rows: An unknown image each, times an amount, with noise.
            amounts: The amounts to judge each row by; 0 for noise alone.
            noise: Standard deviation of the noise.
        """
        rows, amounts = rows.double(), amounts.double()
        mean, axes = self.mean.double(), self.axes.double()
        along = (rows @ axes.T)[:, None, :] - amounts[..., None] * (axes @ mean)
        energy = (
            rows.square().sum(1)[:, None]
            - 2 * amounts * (rows @ mean)[:, None]
            + amounts.square() * mean.square().sum()
        )
        beside = (energy - along.square().sum(2)).clamp_min(0)
        inner = amounts.square()[..., None] * self.variances.double() + noise**2
        outer = amounts.square() * self.floor + noise**2
        others = rows.shape[1] - len(axes)
        terms = (inner.log() + along.square() / inner).sum(2)
        return -(terms + others * outer.log() + beside / outer) / 2
