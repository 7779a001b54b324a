"""What an image would cause at a planted block's output, by the server's own network."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
import torch.autograd.forward_ad as forward
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from medbreach.types import LossFunction

AT_ONCE: Final = 8  # images in the network at a time, at most
VOXELS: Final = 2**18  # of them together; a network's features are many times as large
CONVOLUTIONS: Final = (torch.conv1d, torch.conv2d, torch.conv3d)


def influence(
    model: nn.Module,
    block: str,
    pattern: Float[Tensor, "channels *space"],
    loss: LossFunction,
    images: Float[Tensor, "n channels *space"],
    classes: int,
) -> Float[Tensor, "n classes"]:
    """Return the derivative of one record's loss along a pattern added to a block's output.

    One forward pass carries the derivative of every output along; the loss of each class follows
    from it.

    Args:
        model: The network as sent, in evaluation mode.
        block: Name of the planted block.
        pattern: What is added.
        loss: The loss that the federation minimises, a mean over records.
        images: Normalised images.
        classes: Number of classes that a record may have.
    """
    at_once = max(1, min(AT_ONCE, VOXELS // math.prod(images.shape[1:])))
    found = [
        _of(model, model.get_submodule(block), pattern, loss, part, classes)
        for part in torch.split(images, at_once)
    ]
    return torch.cat(found) if found else images.new_zeros(0, classes)


def _of(
    model: nn.Module,
    block: nn.Module,
    pattern: Tensor,
    loss: LossFunction,
    images: Tensor,
    classes: int,
) -> Tensor:
    outputs, slopes = _outputs_and_slopes(model, block, pattern, images)
    repeated = outputs.repeat_interleave(classes, dim=0).requires_grad_()
    labels = torch.arange(classes, device=images.device).repeat(len(images))
    total = loss(repeated, labels) * len(labels)
    (towards,) = torch.autograd.grad(total, repeated)
    along = (towards * slopes.repeat_interleave(classes, dim=0)).flatten(1).sum(1)
    return along.reshape(len(images), classes).detach()


def _outputs_and_slopes(
    model: nn.Module, block: nn.Module, pattern: Tensor, images: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the outputs, and their derivatives along the pattern."""
    try:
        with torch.no_grad(), forward.dual_level():
            ones = torch.ones(len(images), *[1] * pattern.dim()).to(images)
            dual = forward.make_dual(torch.zeros_like(ones), ones)  # type: ignore[no-untyped-call]
            with _adding(block, dual * pattern), _FixedWeights():
                outputs, slopes = forward.unpack_dual(model(images))  # type: ignore[no-untyped-call]
    except NotImplementedError:  # an operation without a forward derivative
        return _by_reverse_mode(model, block, pattern, images)
    return outputs, torch.zeros_like(outputs) if slopes is None else slopes


class _FixedWeights(TorchFunctionMode):
    """Carry derivatives through layers whose weights have none, in less time and memory.

    torch would convolve a third time, with a derivative of the weights that is zero, and make
    several copies of what normalisation by running statistics takes.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the function."""
        del types
        named = dict(kwargs or {})
        if not _is_fixed(function, args, named):
            return function(*args, **named)
        inputs, slopes = forward.unpack_dual(args[0])  # type: ignore[no-untyped-call]
        if slopes is None:
            return function(*args, **named)
        if function in CONVOLUTIONS:  # both at once: small batches are slow
            joined = torch.cat([inputs, slopes])
            outputs, carried = function(joined, args[1], None, *args[3:], **named).chunk(2)
            if args[2] is not None:
                outputs = outputs + args[2].reshape(-1, *[1] * (outputs.dim() - 2))
        else:
            mean, variance = args[1:]
            outputs = function(inputs, mean, variance, **named)
            named["bias"] = None
            carried = function(slopes, torch.zeros_like(mean), variance, **named)
        return forward.make_dual(outputs, carried)  # type: ignore[no-untyped-call]


def _has_slope(value: object) -> bool:
    if not isinstance(value, Tensor):
        return False
    return forward.unpack_dual(value).tangent is not None  # type: ignore[no-untyped-call]


def _is_fixed(function: Callable[..., Any], args: Sequence[Any], named: Mapping[str, Any]) -> bool:
    """Return whether a layer is a convolution, or normalises by running statistics.

    One whose weights depend on the image is neither.
    """
    if any(_has_slope(value) for value in (*args[1:], *named.values())):
        return False
    if function in CONVOLUTIONS:
        return len(args) >= 3
    normalises = function is nn.functional.batch_norm and len(args) == 3
    return normalises and args[1] is not None and not named["training"]


def _by_reverse_mode(
    model: nn.Module, block: nn.Module, pattern: Tensor, images: Tensor
) -> tuple[Tensor, Tensor]:
    amount = torch.zeros(len(images), *[1] * pattern.dim()).to(images).requires_grad_()
    with torch.enable_grad(), _adding(block, amount * pattern):
        outputs = model(images)
        columns = outputs.flatten(1).unbind(1)
        slopes = [
            torch.autograd.grad(column.sum(), amount, retain_graph=True)[0].flatten()
            for column in columns
        ]
    return outputs.detach(), torch.stack(slopes, dim=1).reshape(outputs.shape)


@contextmanager
def _adding(block: nn.Module, extra: Tensor) -> Iterator[None]:
    """Add to a block's output while inside."""

    def add(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        del module, inputs
        return output + extra

    handle = block.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
