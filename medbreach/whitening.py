"""The likeness that decides identification: correlation after whitening.

Medical images share brightness and smooth shape, so plain MSE, SSIM or correlation mostly tell how
well a claim matches those. Whitening with the covariance of public images takes out what the
population shares and leaves what makes a record itself.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Whitening:
    """A linear map that gives public images unit variance along their principal axes.

    Differs from exact (ZCA) whitening: directions beyond the leading axes are scaled by one common
    noise floor, because few images say nothing certain about them.

    Attributes:
        mean: Mean public image, flat.
        axes: Leading principal axes, one a row.
        gains: One over the standard deviation along each axis.
        floor_gain: One over the noise floor: the root mean variance of the other axes.
    """

    mean: Float[Tensor, " voxels"]
    axes: Float[Tensor, "axes voxels"]
    gains: Float[Tensor, " axes"]
    floor_gain: float

    @classmethod
    def fit(cls, public: Float[Tensor, "public *shape"], share: float = 0.99) -> "Whitening":
        """Fit to public images.

        Args:
            public: At least two images.
            share: Share of the variance that the leading axes hold.
        """
        flat = public.flatten(1)
        mean = flat.mean(0)
        centred = flat - mean
        exact = centred.double()
        variances, left = torch.linalg.eigh(exact @ exact.T / (len(flat) - 1))
        variances, left = variances.flip(0)[: len(flat) - 1], left.flip(1)[:, : len(flat) - 1]
        keep = variances > 1e-10 * variances[0].clamp_min(1e-30)
        variances, left = variances[keep], left[:, keep]
        if len(variances) == 0:
            nothing = flat.new_zeros(0, flat.shape[1])
            return cls(mean, nothing, flat.new_zeros(0), 1.0)
        held = variances.cumsum(0) / variances.sum()
        leading = min(int((held < share).sum()) + 1, len(variances))
        rest = variances[leading:].mean() if leading < len(variances) else variances[-1]
        axes = left[:, :leading].T @ exact
        axes = (axes / axes.norm(dim=1, keepdim=True)).to(flat.dtype)
        gains = variances[:leading].rsqrt().to(flat.dtype)
        return cls(mean, axes, gains, float(rest.rsqrt()))

    def __call__(self, images: Float[Tensor, "n *shape"]) -> Float[Tensor, "n voxels"]:
        """Return whitened images, flat."""
        centred = images.flatten(1) - self.mean
        coefficients = centred @ self.axes.T
        return (
            self.floor_gain * centred + (coefficients * (self.gains - self.floor_gain)) @ self.axes
        )


def correlation(a: Float[Tensor, "n voxels"], b: Float[Tensor, "m voxels"]) -> Float[Tensor, "n m"]:
    """Return the Pearson correlation of each row of ``a`` with each row of ``b``; 0 if constant."""
    a = torch.nn.functional.normalize(a - a.mean(1, keepdim=True), dim=1)
    b = torch.nn.functional.normalize(b - b.mean(1, keepdim=True), dim=1)
    return a @ b.T
