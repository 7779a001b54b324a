"""The representations that a network computes of its images on the way."""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from medbreach import ModelError


@dataclass
class ForwardPass:
    """What modules returned in a network's last forward pass.

    Attributes:
        images: What the network took.
        result: What it returned.
        outputs: Name and output of each module that ran, in the order in which they ended.
    """

    images: Tensor | None = None
    result: Any = None
    outputs: list[tuple[str, Tensor]] = field(default_factory=list)

    def begin(self, images: Tensor) -> None:
        """Forget the forward pass before."""
        self.images, self.result = images, None
        self.outputs.clear()

    def keep(self, name: str, output: object) -> None:
        """Remember what a module returned, if it is one tensor with a row for each record."""
        assert self.images is not None
        if isinstance(output, Tensor) and output.ndim > 1 and len(output) == len(self.images):
            self.outputs.append((name, output))


@contextlib.contextmanager
def watched(model: nn.Module) -> Iterator[ForwardPass]:
    """Watch a network's forward passes."""
    passed = ForwardPass()

    def begin(_module: nn.Module, arguments: tuple[Any, ...]) -> None:
        passed.begin(arguments[0])

    def keep(name: str, _module: nn.Module, _arguments: object, output: object) -> None:
        passed.keep(name, output)

    def end(_module: nn.Module, _arguments: object, output: object) -> None:
        passed.result = output

    handles = [model.register_forward_pre_hook(begin), model.register_forward_hook(end)]
    handles += [
        module.register_forward_hook(functools.partial(keep, name))
        for name, module in model.named_modules()
        if name
    ]
    try:
        yield passed
    finally:
        for handle in handles:
            handle.remove()


def representations(passed: ForwardPass, layers: Sequence[str]) -> list[Tensor]:
    """Return the representations that named modules returned last, or else one of each stage.

    Raises:
        ModelError: A named module did not run or returned no tensor, or there is no stage.
    """
    if not layers:
        return _stages(passed)
    found = dict(passed.outputs)
    for name in layers:
        if name not in found:
            raise ModelError(
                f"layers names {name!r}, which the network does not have or run, or which returns "
                "no tensor with a row for each record"
            )
    return [found[name] for name in layers]


def _stages(passed: ForwardPass) -> list[Tensor]:
    """Return the last map of each resolution and the last vector before the network's output.

    Raises:
        ModelError: There is none, or the network computes tokens.
    """
    assert passed.images is not None
    last: dict[tuple[int, ...], Tensor] = {}
    for name, output in passed.outputs:
        if output.ndim not in (2, passed.images.ndim):
            raise ModelError(
                f"the module {name} returns a tensor of {output.ndim} axes, neither a map nor a "
                "vector for each record: say in layers which modules' outputs are representations"
            )
        if output is not passed.result:
            last[tuple(output.shape[2:])] = output
    if not last:
        raise ModelError("the network computes nothing between images and outputs to protect")
    return list({_place(output): output for output in last.values()}.values())


def _place(output: Tensor) -> tuple[int, int]:
    """Return where a tensor lies: a flattened map and the map itself count once."""
    return output.untyped_storage().data_ptr(), output.numel()
