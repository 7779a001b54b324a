"""Which entries of an update are sent."""

import torch
from torch import Tensor


def largest(values: Tensor, count: int) -> Tensor:
    """Return a mask of the ``count`` entries that are largest in magnitude."""
    mask = torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
    mask[values.abs().flatten().topk(min(count, values.numel())).indices] = True
    return mask.reshape(values.shape)


def seen_as_sent(seen: Tensor, most: int) -> Tensor:
    """Return a mask of the entries that were sent, as the server can tell.

    They are those that are not exactly zero. If that are more than can have been sent, as under
    noise that was added later, they are the largest ones.

    Args:
        seen: What the server saw.
        most: Number of entries that can have been sent.
    """
    mask = seen != 0
    return mask if int(mask.sum()) <= most else largest(seen, most)


def compared(candidate: Tensor, seen: Tensor, count: int, clients: int) -> Tensor:
    """Return a mask of the entries in which an attacker compares a candidate with what it saw.

    They are those that were sent, and those that the candidate would have sent: that such an entry
    was not sent speaks against the candidate. The records themselves would have sent the same.

    Args:
        candidate: A candidate's entries.
        seen: What the server saw of them.
        count: Number of entries that a client sends.
        clients: Number of clients in the mean that was seen; their masks may differ.
    """
    return seen_as_sent(seen, clients * count) | largest(candidate.detach(), clients * count)
