"""breaching's malicious blocks."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from medbreach.breaching_bridge import library


def imprint_block(
    kind: str, shape: tuple[int, ...], rows: int, settings: Mapping[str, Any]
) -> nn.Module:
    """Return a block that takes and returns tensors of a shape.

    Args:
        kind: breaching's name of the block.
        shape: Shape of one input, channels first.
        rows: Number of rows.
        settings: The block's other settings.
    """
    with library.quiet():
        block: nn.Module = getattr(library.modifications, kind)(shape, rows, **settings)
    return block
