"""Signs in the last layer: classes that are switched off so that one stands out."""

from collections.abc import Iterator
from typing import Final

from medbreach.inspection.signs import Sign
from medbreach.inspection.view import View

FAINT: Final = 0.1  # norm of a row that is nothing beside the largest
SAME: Final = 1e-3  # difference of rows that are the same; those of rare classes differ by more
SHUT: Final = 15.0  # nats between biases: a probability of 3e-7
FEATURES: Final = 8  # fewest of which one can stand out


def one_class_left(view: View) -> Iterator[Sign]:
    """Find last layers in which all classes but one have no weights, or all the same ones."""
    head = view.head()
    if head is None or view.classes < 2:
        return
    weights = {FAINT: head.weight}
    if view.classes > 2:  # what all classes have in common makes no difference
        weights[SAME] = head.weight - head.weight.median(0).values
    for limit, rows in weights.items():
        norm = rows.norm(dim=1)
        faint = int((norm < limit * norm.max()).sum())
        if norm.max() > 0 and faint == len(norm) - 1:
            yield Sign(
                "one class left",
                (head.name,),
                "high",
                f"all {len(norm)} classes but class {int(norm.argmax())} have no weights of their "
                "own, so that one class alone decides which records leave a gradient",
            )
            return


def shut_classes(view: View) -> Iterator[Sign]:
    """Find last layers whose biases decide, whatever the image."""
    head = view.head()
    if head is None or view.classes < 2:
        return
    spread = float(head.bias.max() - head.bias.min())
    varies = float((view.outputs - head.bias).std(0).max())
    if spread > max(SHUT, 3 * varies):
        yield Sign(
            "shut classes",
            (head.name.removesuffix("weight") + "bias",),
            "high",
            f"the biases of the classes are {spread:.0f} apart, {spread / max(varies, 1e-3):.0f} "
            "times what images make a difference of: classes are shut off so that the gradient of "
            "one stands out",
        )


def one_feature_left(view: View) -> Iterator[Sign]:
    """Find last layers in which a single feature of a single class counts."""
    head = view.head()
    if head is None or head.weight.shape[1] < FEATURES or not head.weight.any():
        return
    energy = head.weight.square()
    share = float(energy.max() / energy.sum())
    if share > 0.9:
        label, feature = divmod(int(energy.argmax()), energy.shape[1])
        yield Sign(
            "one feature left",
            (head.name,),
            "high",
            f"the weight of feature {feature} for class {label} holds {share:.0%} of the last "
            "layer, so that the one record on its far side leaves the gradient",
        )
