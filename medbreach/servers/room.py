"""Whether a planted layer fits into memory, asked before it is made."""

from typing import Final

from medbreach.errors import NotApplicable
from medbreach.measure import available_memory

GIB: Final = 2**30
COPIES: Final = 5
"""Of a layer's weights in a round: the server's, a client's, its gradient, its update, the attack's
view of it."""


def check_room(what: str, weights: int, copies: int = COPIES, free: int | None = None) -> None:
    """Check that a layer and what a round makes of it fit into memory.

    Args:
        what: What is planted, the beginning of the sentence.
        weights: Number of the layer's weights.
        copies: How often they are held at a time.
        free: Free memory in bytes; None for the machine's own.

    Raises:
        NotApplicable: They do not.
    """
    free = available_memory() if free is None else free
    size = 4 * weights
    if free is not None and copies * size > free:
        raise NotApplicable(
            f"{what} has {size / GIB:,.1f} GiB of weights, and a round takes "
            f"{copies * size / GIB:,.1f} GiB, of which {free / GIB:,.1f} are free: lower "
            "case.server.model_modification.num_bins, or take smaller images"
        )
