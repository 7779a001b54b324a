"""One record's patches, from a patch embedding with learned positions.

An embedding gives a token ``e_p = W z_p + b`` for each patch, and the network goes on with
``e_p + position_p``. So for one record the positions' gradient is that of the tokens, ``delta_p``,
and ``dL/dW = sum of delta_p z_p'`` is a linear system in the patches.
"""

from typing import Any, Final, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medbreach.attacks.image_layer import (
    Call,
    Code,
    check_training,
    decoded,
    probes,
    run_layers,
)
from medbreach.errors import NotApplicable
from medbreach.types import Exchange, Reconstruction

ONE_RECORD: Final = 0.01  # share of the gradient that one record may leave unexplained


class PatchLayer(NamedTuple):
    """A layer that takes the image patch by patch, and the positions that are added to its tokens.

    Attributes:
        name: The layer's name.
        code: Where the pixels are in the patches, one after the other.
        tokens: Number of patches.
        positions: Name of the parameter that is added.
        first: Place of the first patch's token among the positions.
    """

    name: str
    code: Code
    tokens: int
    positions: str
    first: int


def find_patch_layer(exchange: Exchange) -> PatchLayer | None:
    """Return the first layer that takes the image patch by patch; None if it has no positions.

    Raises:
        NotApplicable: While clients train, the layer takes something else.
    """
    played, spec = exchange.rounds[0], exchange.spec
    images = spec.normalise(probes(played.model, spec))
    for place, call in enumerate(run_layers(played, images)):
        patches = _patches(call)
        if patches is None:
            continue
        code, _ = decoded(patches.flatten(1), spec)
        found = None if code is None else _positions(exchange, call, images[-1:])
        if code is not None and found is not None:
            check_training(played, images, place, call)
            return PatchLayer(call.name, code, patches.shape[1], *found)
    return None


def invert_patches(exchange: Exchange, layer: PatchLayer) -> Reconstruction:
    """Return the record whose patches solve the embedding's gradient.

    Raises:
        NotApplicable: There are several records, or more patches than the tokens are wide.
    """
    count = exchange.update.count
    if count is not None and count > 1:
        raise NotApplicable(
            f"{layer.name} embeds patches: their gradient gives one record away, not {count}"
        )
    deltas, weight = (torch.cat(part) for part in zip(*_gradients(exchange, layer), strict=True))
    if not weight.any():
        return Reconstruction(torch.zeros(0, *exchange.spec.shape))
    rank = int(torch.linalg.matrix_rank(deltas))
    if rank < layer.tokens:
        raise NotApplicable(
            f"{layer.name} embeds {layer.tokens} patches, and the positions' gradient gives "
            f"{rank} equations for them"
        )
    patches = torch.linalg.lstsq(deltas, weight).solution
    left = float((deltas @ patches - weight).norm() / weight.norm())
    if count is None and (left > ONE_RECORD or len(deltas) == layer.tokens):
        raise NotApplicable(
            f"{layer.name} embeds patches: their gradient gives one record away, and the number "
            "of records is withheld and seems to be greater"
        )
    images = layer.code.images(patches.reshape(1, -1), exchange.spec)
    labels = exchange.update.labels
    known = labels is not None and len(labels) == 1
    return Reconstruction(images, labels if known else None, torch.tensor([1 - min(left, 1.0)]))


def _gradients(exchange: Exchange, layer: PatchLayer) -> list[tuple[Tensor, Tensor]]:
    """Return each round's gradient of the tokens, transposed, and of the weight.

    Raises:
        NotApplicable: Clients do not train the layer.
    """
    found = []
    for played in exchange.rounds:
        change = played.update.change
        if f"{layer.name}.weight" not in change:
            raise NotApplicable(f"the update holds no change of {layer.name}.weight")
        weight = change[f"{layer.name}.weight"].flatten(1).double()
        rows = _as_tokens(change[layer.positions], len(weight)).double()
        found.append((rows[layer.first :][: layer.tokens].T, weight))
    return found


def _patches(call: Call) -> Float[Tensor, "n tokens values"] | None:
    """Return what a layer takes, one patch a row, in its weight's order; None if it does not."""
    if isinstance(call.layer, nn.Linear):
        return call.inputs.flatten(1, -2) if call.inputs.ndim > 2 else None
    layer: Any = call.layer
    tiles = layer.kernel_size == layer.stride and set(layer.dilation) == {1}
    if not tiles or layer.groups > 1 or layer.transposed:
        return None
    if layer.padding not in ("valid", (0,) * len(layer.kernel_size)):
        return None
    patches = call.inputs
    for axis, (kernel, stride) in enumerate(zip(layer.kernel_size, layer.stride, strict=True), 2):
        patches = patches.unfold(axis, kernel, stride)
    dimensions = len(layer.kernel_size)
    patches = patches.movedim(1, 1 + dimensions).flatten(1, dimensions)
    return patches.flatten(2)


def _as_tokens(tensor: Tensor, width: int) -> Float[Tensor, "tokens width"]:
    """Return one token a row, whether a tensor has them so or like the pixels of an image."""
    if tensor.shape[-1] == width:
        return tensor.reshape(-1, width)
    return tensor.reshape(width, -1).T


def _positions(exchange: Exchange, call: Call, image: Tensor) -> tuple[str, int] | None:
    """Return the parameter with the tokens' gradient, and where in it; None if there is none.

    Raises:
        NotApplicable: The tokens have no gradient.
    """
    width = len(call.layer.weight)  # type: ignore[arg-type]
    tokens, parameters = _token_gradients(exchange, call.name, image)
    if not tokens.any():
        raise NotApplicable(
            f"no gradient reaches {call.name}, which takes the image first: layers behind it are "
            "zero"
        )
    channels_last = isinstance(call.layer, nn.Linear)
    wanted = tokens.reshape(-1, width) if channels_last else tokens.reshape(width, -1).T
    for name, gradient in parameters.items():
        is_wide = width in (*gradient.shape[:2], *gradient.shape[-1:])
        rows = _as_tokens(gradient, width) if is_wide else wanted[:0]
        first = _place(rows, wanted)
        if first is not None:
            return name, first
    return None


def _token_gradients(
    exchange: Exchange, layer: str, image: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the gradients of one image's loss by a layer's outputs and by other parameters."""
    model, seen = exchange.model, list[Tensor]()
    others = {
        name: parameter
        for name, parameter in model.named_parameters()
        if name in exchange.update.change and not name.startswith(f"{layer}.")
    }
    hook = model.get_submodule(layer).register_forward_hook(lambda *run: seen.append(run[2]))
    try:
        with torch.enable_grad():
            outputs = model.eval()(image)
            loss = exchange.loss(outputs, torch.zeros(1, dtype=torch.long, device=image.device))
            wanted = [seen[0], *others.values()]
            gradients = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
    finally:
        model.train(exchange.rounds[0].training)
        hook.remove()
    return gradients[0], dict(zip(others, gradients[1:], strict=True))


def _place(rows: Tensor, wanted: Tensor) -> int | None:
    """Return at which row a matrix begins in another; None if it is not there."""
    for first in range(len(rows) - len(wanted) + 1):
        if torch.allclose(rows[first : first + len(wanted)], wanted, rtol=1e-4, atol=1e-9):
            return first
    return None
