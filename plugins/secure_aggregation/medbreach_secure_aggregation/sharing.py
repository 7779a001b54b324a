"""Shamir's secret sharing (1979), of numbers of 61 bits."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch

PRIME: Final = 2**61 - 1


class Share(NamedTuple):
    """A point of the polynomial that hides a secret.

    Attributes:
        at: Where; not 0, which is where the secret is.
        value: The polynomial there.
    """

    at: int
    value: int


def number(rng: torch.Generator) -> int:
    """Return a random number from 0 to below the prime."""
    return int(torch.randint(PRIME, (), generator=rng))


def split(secret: int, holders: int, threshold: int, rng: torch.Generator) -> list[Share]:
    """Return a share for each holder: ``threshold`` of them tell the secret, fewer nothing."""
    coefficients = [secret, *(number(rng) for _ in range(threshold - 1))]
    return [
        Share(at, sum(c * pow(at, k, PRIME) for k, c in enumerate(coefficients)) % PRIME)
        for at in range(1, holders + 1)
    ]


def combine(shares: Sequence[Share]) -> int:
    """Return the secret, if there are as many shares as the threshold."""
    secret = 0
    for share in shares:
        weight = share.value
        for other in shares:
            if other.at != share.at:
                weight = weight * other.at * pow(other.at - share.at, -1, PRIME) % PRIME
        secret = (secret + weight) % PRIME
    return secret
