"""Whether a network and what a round makes of it fit into memory, asked before it is made."""

from typing import Final

from medbreach.errors import NotApplicable
from medbreach.measure import available_memory

GIB: Final = 2**30
WIDTH: Final = 4  # bytes of a weight
COPIES: Final = 5
"""Of a layer's weights in a round, at least: the server's, a client's, its gradient, its update,
the attack's view of it."""
FEWER_ROWS: Final = "lower case.server.model_modification.num_bins, or take smaller images"


def check_room(
    what: str,
    size: int,
    copies: int = COPIES,
    *,
    free: int | None = None,
    remedy: str = FEWER_ROWS,
) -> None:
    """Check that weights and what a round makes of them fit into memory.

    Args:
        what: What has the weights, the beginning of the sentence.
        size: Bytes of the weights.
        copies: How often they are held at a time.
        free: Free memory in bytes; None for the machine's own.
        remedy: What helps, the end of the sentence.

    Raises:
        NotApplicable: They do not.
    """
    free = available_memory() if free is None else free
    if free is not None and copies * size > free:
        raise NotApplicable(
            f"{what} has {size / GIB:,.1f} GiB of weights, and a round takes "
            f"{copies * size / GIB:,.1f} GiB, of which {free / GIB:,.1f} are free: {remedy}"
        )
