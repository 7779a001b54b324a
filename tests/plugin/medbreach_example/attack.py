"""Reading a record off a linear layer."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from medbreach import Attack, Case, Exchange, NotApplicable, Reconstruction
from medbreach_example.model import LinearLayer


@dataclass(frozen=True)
class Division(Attack):
    """Divide the weight gradient of a first linear layer by its bias gradient.

    For ``y = W x + b`` and one record ``dL/dW = (dL/db) x'``; of several records, each row gives a
    weighted mean. The rows with the largest bias gradients are claimed.

    Attributes:
        rows: Number of rows to claim.
    """

    name: ClassVar[str] = "example_division"
    source: ClassVar[str] = "Phong et al. 2017, doi:10.1007/978-981-10-5421-1_9"

    rows: int = 1

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ValueError(f"rows must be at least 1, got {self.rows}")

    def control(self, case: Case) -> Case:
        """Return one record, a linear layer, and the case's own server."""
        return replace(case.solvable(LinearLayer()), server=case.server)

    def run(self, exchange: Exchange, rng: torch.Generator) -> Reconstruction:
        """Return the inputs that the rows give.

        Raises:
            NotApplicable: The network does not begin with a linear layer that has a bias.
        """
        del rng
        weight, bias = _first_layer(exchange)
        rows = bias.abs().topk(min(self.rows, len(bias))).indices
        inputs = weight[rows] / bias[rows, None]
        images = inputs.reshape(len(rows), *exchange.spec.shape)
        return Reconstruction(exchange.spec.denormalise(images))


def _first_layer(exchange: Exchange) -> tuple[Tensor, Tensor]:
    tensors = list(exchange.update.change.values())
    pixels = math.prod(exchange.spec.shape)
    if len(tensors) < 2 or tensors[0].ndim != 2 or tensors[0].shape[1] != pixels:
        raise NotApplicable("example_division reads networks that begin with a linear layer")
    if not tensors[1].all():
        raise NotApplicable("example_division cannot divide by a bias gradient of zero")
    return tensors[0], tensors[1]
