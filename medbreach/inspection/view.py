"""A model as it was sent, looked at once for all tests."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medbreach.components import is_finite
from medbreach.errors import ModelError
from medbreach.inspection.front import DenseGate, Front
from medbreach.inspection.probes import random_images
from medbreach.inspection.trace import LAYERS, Call, calls
from medbreach.text import blaming
from medbreach.types import ImageSpec

PROBES: Final = 64
NUMBERS: Final = 2**22  # in all probes together
TRIED: Final = 4  # probes that go through the whole network


class Head(NamedTuple):
    """The last layer of a classifier.

    Attributes:
        name: Name of its weight.
        weight: One row a class.
        bias: One number a class, zeros if it has none.
    """

    name: str
    weight: Float[Tensor, "classes features"]
    bias: Float[Tensor, " classes"]


@dataclass(frozen=True)
class View:
    """What the tests look at.

    Attributes:
        model: A copy of the network, in evaluation mode.
        spec: What is known about the images.
        images: Random images to try it on, as it takes them.
        public: Public images, as it takes them; None if there are none.
        outputs: What it makes of some of the random images.
        calls: The gates and layers that it calls.
        gates: Those gates that see the whole image.
        seed: Seed of what a test draws at random.
    """

    model: nn.Module
    spec: ImageSpec
    images: Float[Tensor, "images channels *space"]
    public: Float[Tensor, "public channels *space"] | None
    outputs: Tensor
    calls: Sequence[Call]
    gates: Sequence[DenseGate]
    seed: int = 0

    @property
    def classes(self) -> int:
        """Number of classes; 0 if the network does not return one row of them an image."""
        return self.outputs.shape[1] if self.outputs.dim() == 2 else 0

    def rng(self) -> torch.Generator:
        """Return a random stream from its start."""
        return torch.Generator().manual_seed(self.seed)

    def head(self) -> Head | None:
        """Return the last layer, if it has one row a class."""
        named = dict(self.model.named_parameters())
        last = next((c for c in reversed(self.calls) if c.name in LAYERS), None)
        if last is None or not last.weight or len(named[last.weight]) != self.classes:
            return None
        weight = named[last.weight].detach().flatten(1)
        bias = named.get(last.weight.removesuffix("weight") + "bias")
        return Head(
            last.weight, weight, weight.new_zeros(len(weight)) if bias is None else bias.detach()
        )


def look_at(
    model: nn.Module,
    spec: ImageSpec,
    public: Float[Tensor, "public channels *space"] | None = None,
) -> View:
    """Run a model on images and note what happens; the model stays as it is.

    Args:
        model: The network.
        spec: What is known about the images.
        public: Public images in the spec's unit; None if there are none.

    Raises:
        ModelError: It cannot be run on such images, or returns numbers that are not finite.
    """
    model = copy.deepcopy(model).to("cpu", torch.float32).eval().requires_grad_()
    rng = torch.Generator().manual_seed(0)
    count = max(16, min(PROBES, NUMBERS // torch.Size(spec.shape).numel()))
    images = random_images(spec, count, rng)
    taken = None if public is None else spec.normalise(public[:count])
    shape = " x ".join(map(str, spec.shape))
    with blaming(ModelError, f"the model cannot be run on images of {shape} (channels first)"):
        with torch.no_grad():
            outputs = model(images[:TRIED])
        if not is_finite(outputs):
            raise ModelError(
                f"the model returns numbers that are not finite for images of {shape} (channels "
                "first), so its weights are too large: do not train it"
            )
        found = calls(model, spec, rng)
        both = (images,) if taken is None else (images, taken)
        gates = tuple(Front(model, spec, found, rng).dense_gates(both))
    return View(model, spec, images, taken, outputs, found, gates)
