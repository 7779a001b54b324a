"""What a network does with images: the functions that it calls on their way.

It is found by running the network, so it does not matter how the network is written.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from medbreach.inspection.probes import random_images
from medbreach.types import ImageSpec

GATES: Final = frozenset({
    "relu", "relu_", "relu6", "hardtanh", "hardtanh_", "clamp", "clamp_", "clamp_min", "clamp_min_",
    "clip", "clip_", "threshold", "threshold_", "leaky_relu", "leaky_relu_", "prelu", "elu", "elu_",
    "celu", "selu", "gelu", "silu", "mish", "hardswish", "hardsigmoid", "softplus", "softshrink",
    "hardshrink", "sigmoid", "tanh", "maximum", "where", "gt", "ge", "lt", "le", "sign",
    "heaviside",
})  # fmt: skip
"""Functions that pass some of what they are given and stop, or dampen, the rest."""
RELUS: Final = frozenset({"relu", "relu_", "relu6", "clamp_min", "clamp_min_"})
CONVOLUTIONS: Final = frozenset({"conv1d", "conv2d", "conv3d"})
LAYERS: Final = CONVOLUTIONS | {"linear"}
CORNERS: Final = 8


class Call(NamedTuple):
    """A gate, a convolution or a linear layer that the network called on the images' way.

    Attributes:
        name: Name of the function.
        weight: Name of the parameter that is its weight; ``""`` if it has none.
        shape: Shape of its input.
        bent: How far its input is from an affine function of the image: 0 if it is one.
        positive: Share of its input that is positive.
    """

    name: str
    weight: str
    shape: tuple[int, ...]
    bent: float
    positive: float

    @property
    def takes_images(self) -> bool:
        """Whether it is a layer that takes images, or patches of them."""
        return self.name in CONVOLUTIONS or (self.name == "linear" and len(self.shape) > 2)


Look = Callable[[int, str, Tensor, Any], None]
"""Gets the number and name of a call, its input and its weight, before it is made."""


class Stop(Exception):  # noqa: N818 - the end of a partial run, no error
    """Ends a run of the network where nothing more is needed."""


class _Watch(TorchFunctionMode):
    def __init__(self, look: Look) -> None:
        super().__init__()
        self._look = look
        self._calls = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        named = kwargs or {}
        if name in GATES or name in LAYERS:
            given = (*args, named.get("input"))
            seen = next((a for a in given if isinstance(a, Tensor) and a.is_floating_point()), None)
            weight = args[1] if len(args) > 1 else named.get("weight")
            if seen is not None:
                self._look(self._calls, name, seen, weight)
                self._calls += 1
        return func(*args, **named)


def watch(model: nn.Module, images: Tensor, look: Look) -> Tensor | None:
    """Run a network while each gate and layer is looked at; return what it returns.

    None is returned if `Stop` ended the run.
    """
    try:
        with _Watch(look):
            outputs = model(images)
    except Stop:
        return None
    return outputs if isinstance(outputs, Tensor) else None


def calls(model: nn.Module, spec: ImageSpec, rng: torch.Generator) -> tuple[Call, ...]:
    """Return the gates, convolutions and linear layers that a network calls, in order."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: list[Call] = []

    def look(_: int, name: str, seen: Tensor, weight: Any) -> None:
        positive = float((seen > 0).float().mean())
        of = names.get(id(weight), "") if name in LAYERS else ""
        found.append(Call(name, of, tuple(seen.shape), _bent(seen), positive))

    with torch.no_grad():
        watch(model, _corners(spec, rng), look)
    return tuple(found)


def _corners(spec: ImageSpec, rng: torch.Generator) -> Tensor:
    """Return a black image, three others, the sum of each two of those, and a negative."""
    one, two, three = random_images(spec, 3, rng)
    black = torch.zeros(spec.shape)
    return torch.stack([black, one, two, three, one + two, one + three, two + three, -one])


def _bent(seen: Tensor) -> float:
    """Return how far what was seen of the corners is from an affine function of them.

    It is the norm of the deviations over that of the differences between images, of which each is
    one for each image; infinite if the images make no difference.
    """
    if seen.numel() % CORNERS:
        return math.inf
    black, one, two, three, first, second, third, negative = seen.detach().reshape(CORNERS, -1)
    differences = torch.stack([one - black, two - black, three - black])
    scale, rounding = float(differences.norm()), 1e-5 * float(seen.norm())
    if not scale > rounding:
        return math.inf
    wrong = torch.stack([
        first - one - two + black,
        second - one - three + black,
        third - two - three + black,
        negative + one - 2 * black,
    ])  # fmt: skip
    return max(0.0, float(wrong.norm()) - rounding) / scale


def inputs_of(
    model: nn.Module, images: Tensor, number: int, *, grad: bool = False
) -> Float[Tensor, "images ..."]:
    """Return what one call of a network is given; the run ends there."""
    caught: list[Tensor] = []

    def look(k: int, _: str, seen: Tensor, __: Any) -> None:
        if k == number:
            caught.append(seen)
            raise Stop

    with torch.set_grad_enabled(grad):
        watch(model, images, look)
    return caught[0]


def every_input(
    model: nn.Module, images: Tensor, numbers: frozenset[int]
) -> Iterator[tuple[int, Tensor]]:
    """Yield what some calls of a network are given, by their numbers."""
    caught: list[tuple[int, Tensor]] = []

    def look(k: int, _: str, seen: Tensor, __: Any) -> None:
        if k in numbers:
            caught.append((k, seen.detach()))

    if numbers:
        with torch.no_grad():
            watch(model, images, look)
    yield from caught
