"""Shares and masks: what tells a secret, what a masked update looks like, what the sum is."""

import itertools

import pytest
import torch

from medbreach.randomness import Seeds
from medbreach_secure_aggregation.masking import expanded, masked, set_up, unmasked_sum
from medbreach_secure_aggregation.sharing import PRIME, combine, number, split

BITS = 32
ENTRIES = 20_000


@pytest.fixture
def rng():
    return Seeds(0).stream("test")


def test_any_threshold_of_the_shares_tell_the_secret(rng):
    secret = number(rng)
    shares = split(secret, holders=5, threshold=3, rng=rng)
    for held in itertools.combinations(shares, 3):
        assert combine(held) == secret
    assert combine(shares) == secret


def test_fewer_shares_fit_every_secret(rng):
    """The first two of three shares, with any third one, tell another secret each time."""
    shares = split(number(rng), holders=3, threshold=3, rng=rng)
    found = {combine([*shares[:2], shares[2]._replace(value=value)]) for value in range(50)}
    assert len(found) == 50
    assert combine(shares[:2]) != combine(shares)


def test_secrets_are_large(rng):
    drawn = torch.tensor([number(rng) for _ in range(500)], dtype=torch.float64) / PRIME
    assert abs(drawn.mean() - 0.5) < 4 * (1 / 12 / 500) ** 0.5


def integers(clients, rng):
    return [torch.randint(2**22 + 1, (ENTRIES,), generator=rng) for _ in range(clients)]


@pytest.mark.parametrize(
    ("clients", "gone"), [(2, []), (5, []), (5, [0]), (5, [1, 4]), (7, [2, 3, 5, 6])]
)
def test_the_sum_of_who_is_left_is_exact(rng, clients, gone):
    plain = integers(clients, rng)
    setup = set_up(clients, 3 if clients > 2 else 2, rng)
    left = [k for k in range(clients) if k not in gone]
    received = {k: masked(plain[k], k, setup, BITS) for k in left}
    assert torch.equal(unmasked_sum(received, setup, BITS), sum(plain[k] for k in left))


def test_too_few_shares_leave_the_sum_masked(rng):
    plain = integers(4, rng)
    setup = set_up(4, 3, rng)
    received = {k: masked(plain[k], k, setup, BITS) for k in (0, 1)}
    off = unmasked_sum(received, setup, BITS) - sum(plain[:2])
    assert (off != 0).float().mean() > 0.999


def test_a_masked_update_is_uniform(rng):
    """Of a constant update, which unmasked is one single value: chi-square of 64 bins."""
    setup = set_up(3, 2, rng)
    sent = masked(torch.full((ENTRIES,), 2**21), 1, setup, BITS)
    assert sent.min() >= 0
    assert sent.max() < 2**BITS
    counts = torch.bincount(sent // 2 ** (BITS - 6), minlength=64).double()
    expected = ENTRIES / 64
    statistic = ((counts - expected) ** 2 / expected).sum().item()
    assert abs(statistic - 63) < 4 * (2 * 63) ** 0.5


def test_a_masked_update_is_not_correlated_with_the_plain_one(rng):
    plain = integers(3, rng)
    setup = set_up(3, 2, rng)
    for k, own in enumerate(plain):
        sent = masked(own, k, setup, BITS)
        for other in plain:
            together = torch.stack([sent.double(), other.double()])
            assert abs(torch.corrcoef(together)[0, 1]) < 4 / ENTRIES**0.5


def test_pairwise_masks_cancel_and_the_own_mask_stays(rng):
    """What the server could add up by itself, without any share, is still masked."""
    plain = integers(3, rng)
    setup = set_up(3, 2, rng)
    total = sum(masked(plain[k], k, setup, BITS) for k in range(3)) & (2**BITS - 1)
    rest = (total - sum(plain)) & (2**BITS - 1)
    assert rest.unique().numel() > 0.99 * ENTRIES
    none = setup._replace(secrets=tuple(s._replace(seed=0) for s in setup.secrets))
    bare = sum(masked(plain[k], k, none, BITS) for k in range(3))
    own = 3 * expanded(0, plain[0], BITS)
    assert torch.equal((bare - own) & (2**BITS - 1), sum(plain))
