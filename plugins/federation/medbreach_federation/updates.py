"""What clients send as updates, as defenses see them, and back."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from torch import nn

from medbreach import Change, Update
from medbreach.errors import ContractError
from medbreach_federation.learner import Weights

MOST_RECORDS: Final = 10**9  # no client has more, and a mean weighed by them stays finite


def update_of(before: Weights, after: Weights, trained: Sequence[str], count: int | None) -> Update:
    """Return what a client changed.

    Args:
        before: What it was sent.
        after: What it returned, of the same names and shapes.
        trained: Names of what it trained, in the network's order; the rest are buffers.
        count: Number of its records.
    """
    changed = set(trained)
    return Update(
        {name: after[name] - before[name] for name in trained},
        Change.DIFFERENCE,
        buffers={name: after[name] for name in before if name not in changed},
        count=count,
    )


def applied(
    update: Update, before: Weights, tied: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return what an update makes of what was sent; what it does not tell of stays.

    Args:
        update: The update.
        before: What was sent, by name.
        tied: Names of tensors that are others under a second name, see `tied_in`.
    """
    buffers = update.buffers or {}
    made = {
        name: like + update.change[name].to(like)
        if name in update.change
        else buffers.get(name, like).to(like)
        for name, like in before.items()
    }
    return {name: made[(tied or {}).get(name, name)] for name in made}


def trained_in(network: nn.Module) -> list[str]:
    """Return the names of a network's trained parameters, in order."""
    return [name for name, p in network.named_parameters() if p.requires_grad]


def tied_in(network: nn.Module) -> dict[str, str]:
    """Return the further names of parameters that a network has in several places.

    Returns:
        The first name of each.
    """
    first = {id(p): name for name, p in network.named_parameters()}
    everywhere = network.named_parameters(remove_duplicate=False)
    return {name: first[id(p)] for name, p in everywhere if first[id(p)] != name}


def checked_count(told: Any, name: str) -> int:
    """Return how many records a client says that it trained on, a part of one counting as one.

    Args:
        told: What it says.
        name: What it calls it.

    Raises:
        ContractError: It is no such number.
    """
    if isinstance(told, int | float) and 0 < told <= MOST_RECORDS:  # nan is not
        return math.ceil(told)
    raise ContractError(
        f"the client's {name} must be a positive number up to {MOST_RECORDS}, got {told}"
    )
