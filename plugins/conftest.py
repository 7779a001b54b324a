"""What the tests of all distributions share."""

import pytest
import torch


@pytest.fixture(autouse=True)
def same_randomness() -> None:
    """Start every test at one seed, whatever ran before it in its process."""
    torch.manual_seed(0)
