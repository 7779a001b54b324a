"""The linear layer that takes the image, found by running the network on images that hold a code.

For ``y = W z + b`` a batch's gradient is ``dL/dW = sum of delta_i z_i'`` and ``dL/db = sum of
delta_i``, whatever comes after the layer: a row of the one over its entry of the other is a
weighted mean of the layer's inputs. Where the inputs hold the pixels, that is an image.
"""

import math
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from medbreach.errors import NotApplicable
from medbreach.randomness import lend_global
from medbreach.types import Exchange, ImageSpec, Round

TOLERANCE: Final = 1e-3  # of the intensities' range, within which an input is a pixel
LINEAR: Final = (nn.Linear, nn.modules.conv._ConvNd)


class Call(NamedTuple):
    """One run of a linear layer or a convolution.

    Attributes:
        name: Its module's name.
        layer: The module.
        inputs: What it took.
        outputs: What it gave.
    """

    name: str
    layer: nn.Module
    inputs: Tensor
    outputs: Tensor


class Gradient(NamedTuple):
    """What the rounds say of a layer, one below the other.

    Attributes:
        weight: Change of the weight, one row a unit and round.
        bias: Change of the bias; None if the layer has none that clients train.
    """

    weight: Float[Tensor, "rows inputs"]
    bias: Float[Tensor, " rows"] | None


@dataclass(frozen=True)
class Code:
    """Where the pixels of an image are among some numbers, each an affine function of its pixel.

    Attributes:
        place: For each pixel, the number that holds it.
        black: For each pixel, that number at the least intensity.
        white: For each pixel, that number at the greatest intensity.
    """

    place: Int[Tensor, " pixels"]
    black: Float[Tensor, " pixels"]
    white: Float[Tensor, " pixels"]

    def images(
        self, numbers: Float[Tensor, "n numbers"], spec: ImageSpec
    ) -> Float[Tensor, "n channels *space"]:
        """Return the images, in the spec's unit, that the numbers hold."""
        shares = (numbers[:, self.place] - self.black) / (self.white - self.black)
        return (spec.bounds[0] + spec.range * shares).reshape(-1, *spec.shape)


@dataclass(frozen=True)
class ImageLayer:
    """A linear layer that takes one vector an image, which holds every pixel.

    Attributes:
        name: Its module's name.
        code: Where the pixels are in that vector.
    """

    name: str
    code: Code

    def gradient(self, exchange: Exchange) -> Gradient:
        """Return what the rounds say of the layer.

        Raises:
            NotApplicable: Clients do not train it.
        """
        weight, bias = f"{self.name}.weight", f"{self.name}.bias"
        changes = [played.update.change for played in exchange.rounds]
        if weight not in changes[0]:
            raise NotApplicable(
                f"the update holds no change of {weight}, the layer that takes the image"
            )
        biases = [change[bias] for change in changes if bias in change]
        rows = torch.cat([change[weight].flatten(1) for change in changes])
        return Gradient(rows, torch.cat(biases) if biases else None)


def find_image_layer(exchange: Exchange) -> ImageLayer:
    """Return the first linear layer that takes the image as a vector.

    A convolution whose kernel covers all that it takes is such a layer too.

    Raises:
        NotApplicable: There is none; the sentence says what comes first.
    """
    played, spec = exchange.rounds[0], exchange.spec
    images = probes(played.model, spec)
    calls = run_layers(played, spec.normalise(images))
    names = [call.name for call in calls]
    best = 0.0
    for place, call in enumerate(calls):
        if names.count(call.name) == 1 and takes_one_vector(call):
            code, share = decoded(call.inputs.flatten(1), spec)
            best = max(best, share)
            if code is not None:
                check_training(played, spec.normalise(images), place, call)
                return ImageLayer(call.name, code)
    raise NotApplicable(_why_not(calls, best))


def takes_one_vector(call: Call) -> bool:
    """Return whether a call's layer multiplies all that it takes of an image by its weight."""
    if isinstance(call.layer, nn.Linear):
        return call.inputs[0].numel() == call.layer.weight.shape[1]
    layer: Any = call.layer
    one_place = tuple(call.inputs.shape[2:]) == tuple(layer.kernel_size)
    unpadded = layer.padding in ("valid", (0,) * len(layer.kernel_size))
    return one_place and unpadded and layer.groups == 1 and not layer.transposed


def probes(model: nn.Module, spec: ImageSpec) -> Float[Tensor, "5 channels *space"]:
    """Return images within the bounds that tell where a pixel goes.

    Black, white, the low and the high digit of the pixel's number, and something to check.
    """
    like = next(model.parameters())
    pixels = math.prod(spec.shape)
    base = _base(pixels)
    number = torch.arange(pixels, device=like.device)
    low, high = (number % base) / base, (number // base) / base
    check = torch.frac((number + 1).double() * (5**0.5 / 2)).to(low)
    shares = torch.stack([torch.zeros_like(low), torch.ones_like(low), low, high, check])
    return (spec.bounds[0] + spec.range * shares).reshape(-1, *spec.shape).to(like)


def decoded(numbers: Float[Tensor, "5 numbers"], spec: ImageSpec) -> tuple[Code | None, float]:
    """Return where the pixels are among the numbers that `probes` became, and which share is there.

    Returns:
        None unless every pixel is there.
    """
    pixels = math.prod(spec.shape)
    base = _base(pixels)
    black, white = numbers[0], numbers[1]
    width = white - black
    usable = width.abs() > 1e-6 * width.abs().max().clamp_min(1e-30)
    low, high, check = (numbers[2:] - black) / torch.where(usable, width, torch.ones_like(width))
    number = (high * base).round() * base + (low * base).round()
    expected = torch.frac((number + 1).double() * (5**0.5 / 2)).to(check)
    usable &= (check - expected).abs() < TOLERANCE
    usable &= (low * base - (low * base).round()).abs() < TOLERANCE * base
    usable &= (number >= 0) & (number < pixels)
    index = usable.nonzero().flatten()
    place = torch.full((pixels,), -1, device=index.device)
    place[number[index].long()] = index
    if bool((place < 0).any()):
        return None, float((place >= 0).double().mean())
    return Code(place, black[place], white[place]), 1.0


def run_layers(
    played: Round, images: Float[Tensor, "n channels *space"], training: bool = False
) -> list[Call]:
    """Return the calls of a network's linear layers and convolutions, in their order.

    Args:
        played: The round whose network is run; it is left as it was.
        images: Normalised images.
        training: Run it in training mode.
    """
    model, calls = played.model, list[Call]()

    def note(name: str) -> Any:
        return lambda layer, inputs, outputs: calls.append(Call(name, layer, inputs[0], outputs))

    layers = {n: m for n, m in model.named_modules() if isinstance(m, LINEAR)}
    hooks = [layer.register_forward_hook(note(name)) for name, layer in layers.items()]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with torch.no_grad(), lend_global(torch.Generator().manual_seed(0)):
            torch.func.functional_call(model.train(training), buffers, (images,))
    finally:
        model.train(played.training)
        for hook in hooks:
            hook.remove()
    return calls


def check_training(
    played: Round, images: Float[Tensor, "n channels *space"], place: int, call: Call
) -> None:
    """Check that a layer takes the same while clients train.

    Raises:
        NotApplicable: It does not.
    """
    if not played.training:
        return
    there = run_layers(played, images, training=True)[place].inputs
    if not torch.allclose(there, call.inputs, rtol=1e-4, atol=1e-4):
        raise NotApplicable(
            f"in training mode, dropout or batch normalisation changes what {call.name} takes: "
            "case.server.provide_public_buffers=true has clients run in evaluation mode"
        )


def _base(pixels: int) -> int:
    return math.isqrt(pixels - 1) + 1


def _why_not(calls: list[Call], share: float) -> str:
    wanted = "no linear layer takes the image as it is"
    if share > 0.01:
        return f"{wanted}: one takes {share:.0%} of its pixels, as far as they can be told apart"
    if not calls:
        return f"{wanted}: the network runs no linear layer and no convolution"
    first = calls[0]
    return (
        f"{wanted}, as in case.model=mlp: {first.name or 'the network'} "
        f"({type(first.layer).__name__}) comes first"
    )
