"""Inspecting the file that a server sent, against the agreed architecture."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medbreach.errors import ModelError
from medbreach.inspection.agreement import Difference, State, compare, extra_layers
from medbreach.inspection.battery import notes, run_tests
from medbreach.inspection.dense import DENSE_TESTS
from medbreach.inspection.front import MOST_ROWS, DenseGate
from medbreach.inspection.history import replaced_layers
from medbreach.inspection.rows import sum_up
from medbreach.inspection.signs import Inspection, Sign, ordered
from medbreach.inspection.view import look_at
from medbreach.types import ImageSpec


@dataclass(frozen=True)
class Agreed:
    """What a hospital expects the server to send.

    Attributes:
        model: The agreed architecture; its weights do not matter.
        name: What it is called.
        spec: What is known about the images.
    """

    model: nn.Module
    name: str
    spec: ImageSpec


def inspect_sent(
    sent: State,
    agreed: Agreed,
    previous: State | None = None,
    public: Float[Tensor, "public channels *space"] | None = None,
) -> Inspection:
    """Return the signs that a state dict was made to single records out.

    Layers that the architecture has not are looked at by themselves; the others are loaded into it
    and looked at as the network that they are.

    Args:
        sent: The state dict.
        agreed: What was agreed on; its network gets the weights.
        previous: The state dict of one round before; None to leave that out.
        public: Public images in the spec's unit; None to try random images only.

    Raises:
        ModelError: A file is of another architecture, or the network cannot be run.
    """
    difference = compare(agreed.model.state_dict(), sent)
    _refuse_other(difference, sent, agreed)
    if previous is not None:
        _refuse_other_before(previous, agreed)
    found = {ours: sent[theirs] for ours, theirs in difference.same.items()}
    agreed.model.load_state_dict(found, strict=False)
    view = look_at(agreed.model, agreed.spec, public)
    planted = replace(view, gates=tuple(_planted(sent, difference.extra, view.images)))
    signs = list(extra_layers(difference, sent, agreed.spec, f"the agreed {agreed.name}"))
    signs += [sign for test in DENSE_TESTS for sign in test(planted)]
    signs += [_renamed(sign, difference) for sign in run_tests(view)]
    if previous is not None:
        appeared = compare(previous, sent)
        dense = [difference.same.get(n, n) for gate in view.gates for n in gate.weights]
        signs += extra_layers(appeared, sent, agreed.spec, "the model of the previous round")
        signs += replaced_layers(previous, sent, dense)
    return Inspection(ordered(signs), notes(view))


def _refuse_other(difference: Difference, state: State, agreed: Agreed) -> None:
    """Check that a file holds the agreed architecture, whatever else it holds.

    Raises:
        ModelError: It does not.
    """
    known, missing = len(difference.same), len(difference.missing)
    ours = agreed.model.state_dict()
    if missing and set(difference.extra) <= set(difference.missing):
        name = difference.missing[0]
        there = f"is {_shape(state[name])}" if name in state else "is not"
        raise ModelError(
            f"{name} {there} in the file where {agreed.name} has {_shape(ours[name])}: name the "
            "architecture, the image shape and the classes that were agreed on; if they are right, "
            "do not train it"
        )
    if missing and known <= missing:
        raise ModelError(
            f"the file fits another network: it has {known} of the {known + missing} tensors of "
            f"{agreed.name}, so name the architecture that was agreed on; if this one is, do not "
            "train it"
        )
    for name, there in difference.same.items():
        if ours[name].is_floating_point() and not state[there].is_floating_point():
            raise ModelError(
                f"{there} holds whole numbers ({state[there].dtype}) in the file where "
                f"{agreed.name} has weights: ask for the floating-point weights that are to be "
                "trained"
            )


def _refuse_other_before(previous: State, agreed: Agreed) -> None:
    """Check that the file of the previous round holds the agreed architecture too.

    Raises:
        ModelError: It does not.
    """
    missing = compare(agreed.model.state_dict(), previous).missing
    if missing:
        raise ModelError(
            f"{missing[0]} of {agreed.name} is not in the file of the previous round, or has "
            "another shape there: give what the server sent one round before"
        )


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"


def _renamed(sign: Sign, difference: Difference) -> Sign:
    """Return a sign that names tensors as the file does."""
    return replace(sign, where=tuple(difference.same.get(name, name) for name in sign.where))


def _planted(state: State, names: Sequence[str], images: Tensor) -> Iterator[DenseGate]:
    """Yield what gates would see behind the dense layers among some tensors.

    A layer that takes what a dense layer on the image returns is looked at as their product too.
    """
    pixels = images[0].numel()
    matrices = [n for n in names if state[n].dim() == 2 and n.endswith("weight")]
    for k, name in enumerate(matrices):
        first = state[name].float()
        if first.shape[1] < pixels or not first.any():
            continue
        bias = _bias(state, name)
        if bias is not None:
            yield _gate((name,), first, bias, images)
        after = matrices[k + 1] if k + 1 < len(matrices) else ""
        then = _bias(state, after) if after else None
        if then is not None and len(then) <= MOST_ROWS and state[after].shape[1] == len(first):
            second = state[after].float()
            product = then if bias is None else then + second @ bias
            yield _gate((name, after), second @ first, product, images)


def _bias(state: State, weight: str) -> Tensor | None:
    bias = state.get(weight.removesuffix("weight") + "bias")
    return None if bias is None or bias.shape != state[weight].shape[:1] else bias.float()


def _gate(names: tuple[str, ...], weight: Tensor, bias: Tensor, images: Tensor) -> DenseGate:
    rng = torch.Generator().manual_seed(0)
    some = torch.randperm(len(bias), generator=rng)[:MOST_ROWS].sort().values
    weight, bias = weight[some], bias[some]
    times = weight.shape[1] // images[0].numel()
    weight = weight[:, : times * images[0].numel()]
    seen = images.flatten(1).repeat(1, times) @ weight.T + bias
    return DenseGate(-1, names, sum_up(torch.split(weight, 32), len(weight), rng), (seen,))
