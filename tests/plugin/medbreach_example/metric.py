"""How alike edges are."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from medbreach import ImageSpec, Metric


@dataclass(frozen=True)
class Edges(Metric):
    """Mean absolute error of the differences between neighbours, along every axis."""

    name: ClassVar[str] = "example_edges"
    source: ClassVar[str] = "medbreach-example"
    unit: ClassVar[str] = "image unit"
    better: ClassVar[Literal["higher", "lower"]] = "lower"

    def run(self, claim: Tensor, truth: Tensor, spec: ImageSpec) -> Tensor:
        """Return one error for each record."""
        error = claim - truth
        axes = range(2, 2 + len(spec.space))
        errors = [error.diff(dim=axis).abs().flatten(1).mean(1) for axis in axes]
        return torch.stack(errors).mean(0)
