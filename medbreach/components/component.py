"""What every component is."""

from abc import ABC
from typing import ClassVar

import torch
from torch import Tensor


class Component(ABC):
    """Something that plugins offer and that cases choose by name.

    Attributes:
        name: The registered name.
        source: The publication it comes from, or ``"medbreach"``.
        differs: How it differs from the source, in a sentence; empty if it does not.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    differs: ClassVar[str] = ""


def is_finite(tensor: Tensor) -> bool:
    """Return whether no number is NaN or infinite, without a copy as large as the tensor."""
    return not tensor.numel() or bool(torch.stack(tensor.aminmax()).isfinite().all())
