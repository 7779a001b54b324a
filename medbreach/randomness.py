"""One seed, and one stream of random numbers a role."""

import contextlib
import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Seeds:
    """The streams of one attempt.

    Roles never share a stream, so changing the attack or a defense leaves the records and the first
    weights as they were: findings that share a seed are paired. Streams live on the CPU, so the
    same seed gives the same numbers whatever the device.

    Attributes:
        seed: The number that every stream is derived from.
    """

    seed: int

    def stream(self, role: str) -> torch.Generator:
        """Return the stream of one role, from its start."""
        return torch.Generator().manual_seed(self.number(role))

    def number(self, role: str) -> int:
        """Return the seed of one role's stream.

        >>> Seeds(0).number("records") == Seeds(0).number("model")
        False
        """
        digest = hashlib.sha256(f"{self.seed}/{role}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1


@contextlib.contextmanager
def lend_global(rng: torch.Generator) -> Iterator[None]:
    """Seed the global generators from ``rng``, and put them back afterwards.

    They are torch's, NumPy's and Python's. Only for foreign code that knows no others, such as
    `torch.nn` constructors.
    """
    seed = int(torch.randint(2**62, (1,), generator=rng))
    devices = list(range(torch.cuda.device_count()))
    before = random.getstate(), np.random.get_state()  # noqa: NPY002 - foreign code may read it
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
