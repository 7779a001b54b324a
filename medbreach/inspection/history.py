"""What has changed since the previous round in a way that training does not change it."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from medbreach.inspection.agreement import State
from medbreach.inspection.signs import Sign

TURNED: Final = 0.3  # median cosine of rows with themselves one round before, if they are new
STEADY: Final = 0.8  # the same of all layers' rows, if the round was one of training


def replaced_layers(previous: State, sent: State, dense: Iterable[str]) -> Iterator[Sign]:
    """Find dense layers on the raw image that are new while others only went on training.

    Other layers say nothing: last layers, and kernels before a normalisation, turn within few steps
    of honest training.

    Args:
        previous: The state dict of one round before.
        sent: The state dict.
        dense: Names of the weights that see the whole raw image.
    """
    turns = _turns(previous, sent)
    if not turns:
        return
    usual = float(torch.cat(list(turns.values())).median())
    for name in dense:
        own = float(turns[name].median()) if name in turns else 1.0
        if own < TURNED and usual >= STEADY:
            yield Sign(
                "replaced layer",
                (name,),
                "medium",
                "most of its rows point elsewhere than one round before (median cosine "
                f"{own:.2f}), while most rows of the model kept their direction ({usual:.2f})",
            )


def _turns(previous: State, sent: State) -> Mapping[str, Float[Tensor, " rows"]]:
    """Return the cosine of each row with the same row one round before."""
    found = {}
    for name, now in sent.items():
        before = previous.get(name)
        if before is None or before.shape != now.shape or now.dim() < 2:
            continue
        old, new = before.float().flatten(1), now.float().flatten(1)
        alive = (old.norm(dim=1) > 0) & (new.norm(dim=1) > 0)
        if alive.any() and old.shape[1] > 1:
            found[name] = torch.cosine_similarity(old[alive], new[alive])
    return found
