"""Masks that hide each client's integers and cancel in their sum.

A client adds one mask of its own, and for each other client one that both derive from a key
agreement: the one with the lower index adds it, the other subtracts it. The arithmetic is that of
the protocol, but its numbers are far too small and its generator is no cryptographic one: it shows
what the server would see, and protects nothing.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import torch
from torch import Tensor

from medbreach_secure_aggregation.sharing import PRIME, Share, combine, number, split

BASE: Final = 3  # of the key agreement


class Secrets(NamedTuple):
    """What a client keeps to itself.

    Attributes:
        key: Its private key, from which the masks with other clients derive.
        seed: The seed of its own mask.
    """

    key: int
    seed: int


class Setup(NamedTuple):
    """What there is before clients send anything.

    Attributes:
        secrets: Each client's.
        publics: Each client's public key.
        keys: For each client, the shares of its key, by holder.
        seeds: For each client, the shares of its seed, by holder.
    """

    secrets: tuple[Secrets, ...]
    publics: tuple[int, ...]
    keys: tuple[list[Share], ...]
    seeds: tuple[list[Share], ...]


def set_up(clients: int, threshold: int, rng: torch.Generator) -> Setup:
    """Return keys and seeds of clients, and the shares that they hand to each other."""
    secrets = tuple(Secrets(number(rng), number(rng)) for _ in range(clients))
    return Setup(
        secrets,
        tuple(pow(BASE, one.key, PRIME) for one in secrets),
        tuple(split(one.key, clients, threshold, rng) for one in secrets),
        tuple(split(one.seed, clients, threshold, rng) for one in secrets),
    )


def masked(plain: Tensor, client: int, setup: Setup, bits: int) -> Tensor:
    """Return what a client sends of its integers, modulo ``2^bits``."""
    key, seed = setup.secrets[client]
    total = plain + expanded(seed, plain, bits)
    for other, public in enumerate(setup.publics):
        if other != client:
            total = total + _signed(client, other) * _mask(key, public, plain, bits)
    return total.bitwise_and(2**bits - 1)


def unmasked_sum(received: Mapping[int, Tensor], setup: Setup, bits: int) -> Tensor:
    """Return the sum of the integers of those clients that the server heard from.

    It asks these for their shares: of the seed of each client that it heard from, and of the key of
    each that it did not. Never for both of one client's: it could then unmask that client alone.

    Args:
        received: What clients sent, by client.
        setup: Of it, the public keys, and the shares that those clients hold, are used.
        bits: As in `masked`.
    """
    like = next(iter(received.values()))
    total = torch.zeros_like(like)
    for client, sent in received.items():
        seed = combine([setup.seeds[client][holder] for holder in received])
        total = total + sent - expanded(seed, like, bits)
    for gone in set(range(len(setup.publics))) - set(received):
        key = combine([setup.keys[gone][holder] for holder in received])
        for client in received:
            mask = _mask(key, setup.publics[client], like, bits)
            total = total - _signed(client, gone) * mask
    return total.bitwise_and(2**bits - 1)


def expanded(seed: int, like: Tensor, bits: int) -> Tensor:
    """Return pseudo-random integers from 0 to below ``2^bits``."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(2**bits, like.shape, generator=rng)


def _mask(key: int, public: int, like: Tensor, bits: int) -> Tensor:
    return expanded(pow(public, key, PRIME), like, bits)


def _signed(client: int, other: int) -> int:
    return 1 if client < other else -1
