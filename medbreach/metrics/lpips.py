"""Learned perceptual similarity, where its weights are."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from medbreach.components import Metric
from medbreach.errors import NotApplicable
from medbreach.types import ImageSpec

BACKBONES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}
Images = Float[Tensor, "records channels *space"]


@dataclass(frozen=True)
class LPIPS(Metric):
    """Learned perceptual image patch similarity of 2D images, grey ones repeated over RGB.

    It is absent, with the reason, unless the backbone's weights lie in torch's hub cache: nothing
    is downloaded during an audit.

    Attributes:
        backbone: Network whose features are compared.
    """

    name: ClassVar[str] = "lpips"
    source: ClassVar[str] = "Zhang et al. 2018, arXiv:1801.03924"
    unit: ClassVar[str] = "1"
    better: ClassVar[Literal["higher", "lower"]] = "lower"

    backbone: Literal["alex", "vgg"] = "alex"

    def run(self, claim: Images, truth: Images, spec: ImageSpec) -> Float[Tensor, " records"]:
        """Return one distance for each record.

        Raises:
            NotApplicable: The images are volumes or have 2 channels, or the weights are not here.
        """
        if len(spec.space) != 2 or spec.channels not in (1, 3):
            raise NotApplicable("lpips compares grey or RGB images in 2D only")
        reason = self.missing()
        if reason:
            raise NotApplicable(reason)
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        distance = LearnedPerceptualImagePatchSimilarity(net_type=self.backbone, normalize=True)
        shape = (-1, 3, *spec.space)
        a, b = (((x - spec.bounds[0]) / spec.range).expand(shape) for x in (claim, truth))
        with torch.no_grad():
            pairs = zip(a, b, strict=True)
            return torch.stack([distance(x[None], y[None]).reshape(()) for x, y in pairs])

    def missing(self) -> str:
        """Return why the metric cannot run on this machine, or ``""``."""
        weights = Path(torch.hub.get_dir()) / "checkpoints" / BACKBONES[self.backbone]
        return "" if weights.is_file() else f"lpips weights are not at {weights}"
