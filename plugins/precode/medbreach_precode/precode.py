"""PRECODE: a variational bottleneck in the network."""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from medbreach import (
    Batch,
    Change,
    ClientTask,
    Defense,
    Gradient,
    ImageSpec,
    ModelError,
    StepGradient,
    Update,
)
from medbreach_precode.bottleneck import Bottlenecked, VariationalBottleneck, divergence

ENCODER, DECODER = "precode.encoder.", "precode.decoder."


@dataclass(frozen=True)
class Precode(Defense):
    """Let the network pass its features on as random samples, before its last linear layer.

    A linear encoder makes a mean and a deviation of the features, a sample is drawn, and a linear
    decoder makes features of it again. The loss has ``beta`` times the divergence of the samples'
    distribution from a standard normal one. The whole federation trains with the bottleneck, and
    the network stays random when it is used.

    The sample is drawn anew for each step and unknown to the server, so the gradients of the
    bottleneck and of what follows cannot be matched. An attacker who knows it leaves them out
    (`simulate_update`, the attack of arXiv:2208.04767) and matches the layers before, with the
    samples' means (ours). For a single record the sample hides nothing but the decoder's and later
    gradients: the encoder's bias gradient is that of the loss by the code, from which all before
    follows (`simulate_step`, ours), and the features are the ratio of its gradients.

    Attributes:
        size: Entries of the bottleneck.
        beta: Weight of the divergence, which is in bits a record, in the loss.
        layer: Name of the module that the bottleneck stands before, which takes one vector for each
            record; empty: the last linear layer.
    """

    name: ClassVar[str] = "precode"
    source: ClassVar[str] = "Scheliga et al. 2022, arXiv:2108.04725; code of its authors"
    differs: ClassVar[str] = (
        "A deviation below 1e-12 counts as that in the divergence. The source places the module "
        "before the last layer of its networks; before another module, it has to take vectors."
    )

    size: int = 256
    beta: float = 0.001
    layer: str = ""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")
        if self.beta < 0:
            raise ValueError(f"beta must not be negative, got {self.beta}")

    def remodel(self, model: nn.Module, spec: ImageSpec, classes: int) -> nn.Module:
        """Return the network with a bottleneck in it.

        Raises:
            ModelError: It has no such layer, or the layer does not take one vector a record.
        """
        del classes
        name = self._place(model)
        layer = model.get_submodule(name)
        features = _features(model, name, spec)
        bottlenecked = Bottlenecked(VariationalBottleneck(features, self.size), layer)
        bottlenecked.train(layer.training)
        model.set_submodule(name, bottlenecked)
        return model

    def step(self, gradient: StepGradient) -> StepGradient:
        """Return how the gradient of the loss with the divergence is computed."""

        def stepped(task: ClientTask, batch: Batch) -> Gradient:
            with _encoded(task.model) as codes:

                def loss(outputs: Tensor, labels: Tensor) -> Tensor:
                    plain = task.loss(outputs, labels)
                    return plain + self.beta * divergence(codes[-1]).to(plain)

                return gradient(replace(task, loss=loss), batch)

        return stepped

    def simulate_step(self, gradient: StepGradient, seen: Update) -> StepGradient:
        """Return how an attacker computes it: with the samples' means, which blur nothing.

        For one record, with the loss that has the seen gradient by the code: true images then give
        the gradients of the encoder and of all layers before it exactly, whatever the sample was.
        """
        if not _of_one_record(seen):
            return self._with_means(self.step(gradient))

        def stepped(task: ClientTask, batch: Batch) -> Gradient:
            with _encoded(task.model) as codes:

                def loss(outputs: Tensor, _labels: Tensor) -> Tensor:
                    slope = seen.change[_encoder_bias(task.model)]
                    return (codes[-1] * slope.to(outputs)).sum()

                return gradient(replace(task, loss=loss), batch)

        return self._with_means(stepped)

    def _with_means(self, gradient: StepGradient) -> StepGradient:
        def stepped(task: ClientTask, batch: Batch) -> Gradient:
            with _means(task.model):
                return gradient(task, batch)

        return stepped

    def simulate_update(self, change: Gradient, seen: Update) -> Gradient:
        """Return a change in which what depends on the sample does not count: it is as seen.

        That is the bottleneck and the layers after it; for one record, the decoder and these.
        """
        part = DECODER if _of_one_record(seen) else ENCODER
        names = list(change)
        first = next((k for k, name in enumerate(names) if part in f".{name}"), len(names))
        return {
            **change,
            **{name: seen.change[name].to(change[name]) for name in names[first:]},
        }

    def conflict(self, stack: Sequence[Defense]) -> str:
        """Return that one bottleneck is enough."""
        several = sum(isinstance(defense, Precode) for defense in stack) > 1
        return (
            "it stands in the stack more than once, and one bottleneck samples" if several else ""
        )

    def _place(self, model: nn.Module) -> str:
        """Return the name of the module that the bottleneck stands before.

        Raises:
            ModelError: There is none.
        """
        modules = dict(model.named_modules())
        linear = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
        if self.layer and self.layer not in modules:
            raise ModelError(
                f"layer names {self.layer!r}, which the network does not have; its linear layers "
                f"are {', '.join(linear) or 'none'}"
            )
        if not (self.layer or linear):
            raise ModelError(
                "precode needs a linear layer to stand before, and the network has none: name "
                "another module that takes vectors in layer"
            )
        return self.layer or linear[-1]


def _features(model: nn.Module, name: str, spec: ImageSpec) -> int:
    """Return how many entries the vectors have that a module takes.

    Raises:
        ModelError: It does not take one vector for each record, once in a forward pass.
    """
    taken: list[tuple[int, ...]] = []

    def keep(_module: nn.Module, arguments: tuple[Any, ...]) -> None:
        taken.append(tuple(arguments[0].shape))

    trial = copy.deepcopy(model).eval()
    trial.get_submodule(name).register_forward_pre_hook(keep)
    with torch.no_grad():
        trial(torch.zeros(1, *spec.shape))
    if [len(shape) for shape in taken] != [2]:
        raise ModelError(
            f"precode needs a module that takes one vector for each record, once; {name} does not: "
            "name another in layer"
        )
    return taken[0][1]


@contextlib.contextmanager
def _encoded(model: nn.Module) -> Iterator[list[Tensor]]:
    """Keep what the bottleneck's encoder returns."""
    codes: list[Tensor] = []

    def keep(_module: nn.Module, _arguments: object, encoded: Tensor) -> None:
        codes[:] = [encoded]

    handles = [found.encoder.register_forward_hook(keep) for found in _bottlenecks(model)]
    try:
        yield codes
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def _means(model: nn.Module) -> Iterator[None]:
    """Let the network pass on each code's mean instead of a sample."""
    found = _bottlenecks(model)
    before = [bottleneck.sampling for bottleneck in found]
    for bottleneck in found:
        bottleneck.sampling = False
    try:
        yield
    finally:
        for bottleneck, sampling in zip(found, before, strict=True):
            bottleneck.sampling = sampling


def _of_one_record(seen: Update) -> bool:
    return seen.kind is Change.GRADIENT and seen.clients == 1 and seen.count == 1


def _encoder_bias(model: nn.Module) -> str:
    return next(
        name for name, _ in model.named_parameters() if f".{name}".endswith(ENCODER + "bias")
    )


def _bottlenecks(model: nn.Module) -> list[VariationalBottleneck]:
    return [module for module in model.modules() if isinstance(module, VariationalBottleneck)]
