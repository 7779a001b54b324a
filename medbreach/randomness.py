"""One seed, and one stream of random numbers a role."""

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

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
    """Seed torch's global generators from ``rng``, and put them back afterwards.

    Only for foreign code that knows no other generator, such as `torch.nn` constructors.
    """
    seed = int(torch.randint(2**62, (1,), generator=rng))
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
