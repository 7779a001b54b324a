"""Whether the records of one class drown those of all others in the gradient."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from medbreach.inspection.signs import Sign
from medbreach.inspection.trace import LAYERS, watch
from medbreach.inspection.view import View

RECORDS: Final = 4
CLASSES: Final = 8
OTHERS: Final = 7  # records of other classes in the batch that is thought of
LIMIT: Final = 20.0  # honest networks stay below 4, fishing ones are beyond 1000


class Dominance(NamedTuple):
    """The greatest disaggregation signal-to-noise ratio of a model.

    Attributes:
        ratio: The ratio.
        layer: Name of the weight that shows it.
        label: The class.
    """

    ratio: float = 0.0
    layer: str = ""
    label: int = 0


def dominant_class(view: View) -> Iterator[Sign]:
    """Find layers that only the records of one class send a gradient to."""
    found = disaggregation_ratio(view)
    if found.ratio > LIMIT:
        yield Sign(
            "dominant class",
            (found.layer,),
            "high",
            f"in a batch with one record of class {found.label} and {OTHERS} of others, that "
            f"record's gradient is {min(found.ratio, 1e6):.3g} times the others' together",
        )


def disaggregation_ratio(view: View) -> Dominance:
    """Return the greatest disaggregation signal-to-noise ratio.

    It is SEER's measure (arXiv:2306.03013): the norm of one record's gradient over the sum of the
    others', here of the gradient that reaches a layer, for a batch with one record of a class among
    seven of other classes. Each record is compared with itself under other labels, since random
    images differ in how far they are from anything learnt; and labels that the network is sure of
    are left out, since what is learnt has no gradient in any network. A network that is sure of all
    but one class shows nothing.
    """
    labels = _outstanding(view)
    if len(labels) < 2:
        return Dominance()
    layers, norms, unsure = _norms(view, labels)
    if not layers:
        return Dominance()
    counted = unsure[:, :, None]
    others = (norms * counted).sum(1, keepdim=True) - norms * counted
    count = (counted.sum(1, keepdim=True) - counted.long()).clamp_min(1)
    ratios = norms / (OTHERS * (others / count)).clamp_min(1e-30)
    comparable = counted & (unsure.sum(1)[:, None, None] > 1) & (norms > 1e-12)
    typical = ratios.where(comparable, torch.nan).nanmedian(0).values.nan_to_num(0.0)
    label, layer = divmod(int(typical.argmax()), typical.shape[1])
    return Dominance(float(typical.max()), layers[layer], int(labels[label]))


def _outstanding(view: View) -> Tensor:
    """Return some classes, among them those whose row of the last layer is least like others'."""
    head = view.head()
    if head is None or view.classes <= CLASSES:
        return torch.arange(min(view.classes, CLASSES))
    norm = head.weight.norm(dim=1)
    apart = (norm - norm.median()).abs()
    return torch.sort(torch.topk(apart, CLASSES).indices).values


def _norms(
    view: View, labels: Tensor
) -> tuple[Sequence[str], Float[Tensor, "records labels layers"], Bool[Tensor, "records labels"]]:
    """Return the norm of each record's gradient at each layer's input, for each label.

    Also return the layers' names, and which labels the network is not sure of.
    """
    names: list[str] = []
    inputs: list[Tensor] = []

    def look(number: int, name: str, seen: Tensor, _: Any) -> None:
        if name in LAYERS and view.calls[number].weight and seen.requires_grad:
            names.append(view.calls[number].weight)
            inputs.append(seen)

    outputs = watch(view.model, view.images[:RECORDS], look)
    assert outputs is not None
    unsure = outputs.detach().softmax(1)[:, labels] <= 0.5
    norms = torch.zeros(RECORDS, len(labels), len(names))
    for k, label in enumerate(labels.tolist() if inputs else []):
        wrong = torch.full((RECORDS,), label)
        loss = nn.functional.cross_entropy(outputs, wrong, reduction="sum")
        gradients = torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)
        for layer, gradient in enumerate(gradients):
            norms[:, k, layer] = _of_records(gradient)
    return names, norms.nan_to_num(0.0), unsure


def _of_records(gradient: Tensor | None) -> Tensor:
    """Return the norm of each record's part of a gradient."""
    if gradient is None or gradient.numel() % RECORDS:
        return torch.zeros(RECORDS)
    norms: Tensor = gradient.reshape(RECORDS, -1).norm(dim=1)
    return norms
