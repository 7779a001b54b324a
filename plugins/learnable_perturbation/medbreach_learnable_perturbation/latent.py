"""Where a network is cut into encoder and predictor, and how noise gets in there."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from medbreach import ImageSpec, ModelError

POOLINGS: Final = (
    nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool2d, nn.AvgPool3d, nn.LPPool2d, nn.LPPool3d,
    nn.FractionalMaxPool2d, nn.FractionalMaxPool3d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
)  # fmt: skip
TRANSPARENT: Final = (nn.Dropout, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.Identity)


class Latent(NamedTuple):
    """What a network's encoder returns.

    Attributes:
        layer: Name of the module that returns it.
        shape: Its channels and sides, without records.
    """

    layer: str
    shape: tuple[int, ...]


@dataclass
class Seen:
    """What the last forward pass of a network took in and made of it.

    Attributes:
        inputs: The network's inputs: normalised images.
        latents: The latents with their noise.
    """

    inputs: Tensor | None = None
    latents: Tensor | None = None


class _Output(NamedTuple):
    """A module's output with spatial axes, in the order in which modules finish."""

    name: str
    module: nn.Module
    tensor: Tensor


def find_latent(model: nn.Module, spec: ImageSpec, layer: str = "") -> Latent:
    """Return where a network is cut.

    Without a name it is the last module in the forward pass that runs once and whose output has
    spatial axes, poolings at the end left out: the input of the last pooling, or of the flattening
    before the head. Of several modules that return the same tensor it is the outermost.

    Raises:
        ModelError: There is none, or it is not what the named module returns.
    """
    modules = dict(model.named_modules())
    if layer and layer not in modules:
        near = get_close_matches(layer, modules, n=1) or list(modules)[-1:]
        raise ModelError(f"the network has no module named {layer!r}; did you mean {near[0]!r}?")
    outputs, calls = _trace(model, spec)
    pooled = {id(o.tensor) for o in outputs if isinstance(o.module, POOLINGS)}
    fit = [o for o in outputs if calls[o.name] == 1 and o.name]
    if layer:
        fit = [o for o in fit if o.name == layer]
    else:
        fit = [
            o for o in fit if id(o.tensor) not in pooled and not isinstance(o.module, TRANSPARENT)
        ]
    if not fit:
        raise ModelError(_why_not(layer, calls))
    return Latent(fit[-1].name, tuple(fit[-1].tensor.shape[1:]))


def _why_not(layer: str, calls: Counter[str]) -> str:
    if layer:
        times = f"runs {calls[layer]} times" if calls[layer] > 1 else "returns something else"
        return (
            f"the latent must be a module's output with channels and spatial axes, from a module "
            f"that runs once: {layer!r} {times}"
        )
    return (
        "no module's output has channels and spatial axes, so there is no latent for a decoder to "
        "start from; take a convolutional network"
    )


def _trace(model: nn.Module, spec: ImageSpec) -> tuple[list[_Output], Counter[str]]:
    """Return all spatial outputs for a blank image, and how often each module ran."""
    outputs: list[_Output] = []
    calls: Counter[str] = Counter()

    def watching(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def watch(module: nn.Module, given: Any, output: Any) -> None:
            del given
            calls[name] += 1
            if isinstance(output, Tensor) and output.dim() == len(spec.space) + 2:
                outputs.append(_Output(name, module, output))

        return watch

    modes = [(module, module.training) for module in model.modules()]
    with contextlib.ExitStack() as stack:
        for name, module in model.named_modules():
            stack.callback(module.register_forward_hook(watching(name)).remove)
        try:
            blank = torch.zeros(1, *spec.shape).to(next(model.parameters()))
            with torch.no_grad():
                model.eval()(blank)
        finally:
            for module, mode in modes:
                module.training = mode
    return outputs, calls


@contextlib.contextmanager
def perturbed(
    model: nn.Module, layer: str, add_noise: Callable[[Tensor], Tensor]
) -> Iterator[Seen]:
    """Let a network run with noise on its latent; yield what its last forward pass saw.

    Args:
        model: The network.
        layer: Name of the module whose output is the latent.
        add_noise: Returns latents with fresh noise.
    """
    seen = Seen()

    def note(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        del module
        seen.inputs = given[0]

    def perturb(module: nn.Module, given: Any, latents: Tensor) -> Tensor:
        del module, given
        seen.latents = add_noise(latents)
        return seen.latents.clone()  # the next layer may work in place

    hooks = (
        model.register_forward_pre_hook(note),
        model.get_submodule(layer).register_forward_hook(perturb),
    )
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
