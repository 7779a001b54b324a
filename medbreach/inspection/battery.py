"""All tests of a model, and what they found."""

from collections.abc import Callable, Iterable, Iterator

from jaxtyping import Float
from torch import Tensor, nn

from medbreach.inspection.deep import deep_ladders
from medbreach.inspection.dense import DENSE_TESTS, before_convolutions
from medbreach.inspection.disaggregation import dominant_class
from medbreach.inspection.head import one_class_left, one_feature_left, shut_classes
from medbreach.inspection.paths import (
    copying_convolutions,
    empty_kernels,
    empty_layers,
    open_gates,
)
from medbreach.inspection.signs import Inspection, Sign, ordered
from medbreach.inspection.view import View, look_at
from medbreach.types import ImageSpec

TESTS: tuple[Callable[[View], Iterable[Sign]], ...] = (
    before_convolutions,
    *DENSE_TESTS,
    deep_ladders,
    copying_convolutions,
    empty_kernels,
    open_gates,
    empty_layers,
    one_class_left,
    shut_classes,
    one_feature_left,
    dominant_class,
)
"""Each takes a view of the model and yields the signs that it finds."""


def inspect_model(
    model: nn.Module,
    spec: ImageSpec,
    public: Float[Tensor, "public channels *space"] | None = None,
) -> Inspection:
    """Return the signs that a model was made to single records out.

    Args:
        model: The network as it was sent; it stays as it is.
        spec: What is known about the images.
        public: Public images in the spec's unit; None to try random images only.

    Raises:
        ModelError: The network cannot be run on such images.
    """
    view = look_at(model, spec, public)
    return Inspection(ordered(run_tests(view)), notes(view))


def run_tests(view: View) -> Iterator[Sign]:
    """Yield what every test finds in a model."""
    for test in TESTS:
        yield from test(view)


def notes(view: View) -> tuple[str, ...]:
    """Return what the reader should know besides."""
    names = dict.fromkeys(name for gate in view.gates for name in gate.weights)
    return tuple(
        f"{name} sees the whole raw image: even an honest server can read records out of the "
        "gradient of such a layer, so a network that begins with convolutions gives away less"
        for name in names
    )
