"""Reading records off the first linear layer."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from medbreach.attacks.image_layer import Gradient, ImageLayer, find_image_layer
from medbreach.attacks.patch_embedding import find_patch_layer, invert_patches
from medbreach.attacks.row_readout import records_in_rows
from medbreach.attacks.simulation import check
from medbreach.attacks.span import Span, records_of, span_of
from medbreach.components import Attack
from medbreach.errors import NotApplicable
from medbreach.models.mlp import MLP
from medbreach.types import Change, Exchange, Reconstruction

if TYPE_CHECKING:
    from medbreach.case import Case


@dataclass(frozen=True)
class Analytic(Attack):
    """Divide a first linear layer's weight gradient by its bias gradient.

    For ``y = W x + b`` and one record ``dL/dW = (dL/db) x'``, so any row of ``dL/dW`` over its
    entry of ``dL/db`` is the input. With more records a row is a weighted mean of those that
    activate it, so before a ReLU it is one record where one alone does. Such rows are told by the
    network itself: the gradient that it gives for the image has to fit the update's. What fits
    without a trace is taken off all rows, which frees others.

    The layer may come anywhere in the network and behind anything that moves or scales pixels, in
    2D and 3D. A patch embedding with learned positions gives one record's patches: the positions'
    gradient is that of the embedding's outputs, so the weight's is a linear system in the patches.

    A mixture can fit too, in a narrow network or with two classes. An image is confirmed, and its
    class claimed, if its share of the gradient is that of one record as well, or if all images
    together leave nothing of the update.

    A batch gives at most as many claims as records. Confidence: 1 if confirmed; 0.5 if it fits, or
    several rows agree; 0.1 if an image is within bounds and no more; of one record, the share of
    the gradient that it explains.
    """

    name: ClassVar[str] = "analytic"
    source: ClassVar[str] = "Phong et al. 2017, doi:10.1007/978-981-10-5421-1_9"
    differs: ClassVar[str] = (
        "For any network with such a layer, where breaching's is for linear layers in turn; one "
        "record is the least-squares fit to all rows and rounds, where breaching averages "
        "quotients; of a batch, rows are chosen, confirmed and taken off as above (ours), where "
        "breaching's takes those numbered like the labels. Patch embeddings are ours."
    )

    def run(self, exchange: Exchange, rng: torch.Generator) -> Reconstruction:
        """Return the records that rows of the layer give away.

        Raises:
            NotApplicable: No linear layer takes the image, or it has no bias, or the number of
                records is withheld and cannot be told.
        """
        del rng
        try:
            layer = find_image_layer(exchange)
        except NotApplicable:
            patches = find_patch_layer(exchange)
            if patches is None:
                raise
            return invert_patches(exchange, patches)
        gradient = layer.gradient(exchange)
        if gradient.bias is None:
            raise NotApplicable(
                f"{layer.name} has no bias that clients train, so its rows are images up to a "
                "factor each: try attack=cpa, which needs none"
            )
        if not gradient.bias.any():
            return Reconstruction(torch.zeros(0, *exchange.spec.shape))
        span = span_of(gradient.weight)
        count = records_of(exchange, span, self.name)
        if count == 1:
            return _one_record(exchange, layer, gradient, span)
        return records_in_rows(exchange, layer, gradient, span, count)

    def control(self, case: "Case") -> "Case":
        """Return one record and a fully connected network."""
        return case.solvable(MLP())


def _one_record(
    exchange: Exchange, layer: ImageLayer, gradient: Gradient, span: Span
) -> Reconstruction:
    """Return the image that explains all rows best."""
    weight, bias = gradient
    assert bias is not None
    product, square = bias @ weight, bias.square().sum()
    image = layer.code.images((product / square)[None], exchange.spec)
    explained = product.square().sum() / (square * weight.square().sum()).clamp_min(1e-30)
    labels = _label(exchange, layer, image.clamp(*exchange.spec.bounds), bias, span)
    return Reconstruction(image, labels, explained.clamp(0, 1)[None])


def _label(
    exchange: Exchange, layer: ImageLayer, image: Tensor, bias: Tensor, span: Span
) -> Tensor | None:
    known = exchange.update.labels
    if known is not None and len(known) == 1:
        return known
    row = bias.abs().argmax()[None]
    sign = -1 if exchange.update.kind is Change.DIFFERENCE else 1
    found = check(exchange, layer.name, image, span.leading(1).left, (row, sign * bias[row]))
    return found.labels if bool(found.residual < 1) else None
