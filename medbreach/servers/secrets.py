"""What a server remembers of a layer that breaching's readout can read."""

from collections.abc import Callable
from typing import NamedTuple


class ImprintSecret(NamedTuple):
    """Where the rows are.

    Attributes:
        weight: Name of the layer's weight parameter.
        bias: Name of its bias parameter.
        structure: ``cumulative``: each row sees the records of the rows before it too; ``sparse``:
            each row sees its own.
    """

    weight: str
    bias: str
    structure: str

    @classmethod
    def maker(cls, structure: str) -> Callable[[str], "ImprintSecret"]:
        """Return what makes a secret of a block's name in the network."""
        return lambda name: cls(f"{name}.linear0.weight", f"{name}.linear0.bias", structure)
