"""Differential privacy, and what goes by its name: defenses for medbreach."""

from medbreach import Defense, hookimpl
from medbreach_differential_privacy.dp_sgd import DPSGD
from medbreach_differential_privacy.flower_local_dp import FlowerLocalDP
from medbreach_differential_privacy.gaussian_noise import GaussianNoise
from medbreach_differential_privacy.laplace_noise import LaplaceNoise
from medbreach_differential_privacy.nvflare_percentile import NVFlarePercentile
from medbreach_differential_privacy.nvflare_svt import NVFlareSVT
from medbreach_differential_privacy.update_clipping import UpdateClipping

__all__ = [
    "DPSGD",
    "FlowerLocalDP",
    "GaussianNoise",
    "LaplaceNoise",
    "NVFlarePercentile",
    "NVFlareSVT",
    "UpdateClipping",
]


@hookimpl
def medbreach_defenses() -> list[type[Defense]]:
    """Return the defenses."""
    return [
        DPSGD,
        UpdateClipping,
        GaussianNoise,
        LaplaceNoise,
        FlowerLocalDP,
        NVFlarePercentile,
        NVFlareSVT,
    ]


@hookimpl
def medbreach_cases() -> str:
    """Return the package of YAML that names settings of the sources."""
    return "medbreach_differential_privacy.cases"
