"""The metrics that come with medbreach."""

from medbreach.components import Metric
from medbreach.hookspecs import hookimpl
from medbreach.metrics.lpips import LPIPS
from medbreach.metrics.mse import MSE, NormalisedMSE
from medbreach.metrics.psnr import PSNR
from medbreach.metrics.ssim import SSIM

__all__ = ["LPIPS", "MSE", "PSNR", "SSIM", "NormalisedMSE"]


@hookimpl
def medbreach_metrics() -> list[type[Metric]]:
    """Return the metrics in this package."""
    return [PSNR, SSIM, MSE, NormalisedMSE, LPIPS]
