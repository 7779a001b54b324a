"""The mean of what clients send."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from medbreach_federation.learner import Result, Weights
from medbreach_federation.rule import Aggregate, Rule


@dataclass
class Mean(Rule):
    """The mean of all clients' weights (federated averaging, McMahan et al. 2017).

    Attributes:
        by_records: Weigh clients by their numbers of records, as the source does; else all count
            the same.
    """

    by_records: bool = True

    def aggregate(
        self,
        round: int,
        before: Weights,
        results: Mapping[int, Result],
    ) -> Aggregate:
        """Return the mean."""
        del round
        shares = {k: float(r.records) if self.by_records else 1.0 for k, r in results.items()}
        return Aggregate(weighted_mean(results, shares, before))


def weighted_mean(
    results: Mapping[int, Result], shares: Mapping[int, float], likes: Weights | None = None
) -> dict[str, Tensor]:
    """Return the mean of clients' weights, each client with its share; whole numbers are rounded.

    Args:
        results: What each client sent.
        shares: Of each client; they need not sum to one.
        likes: Tensors of the names, shapes and types that are wanted; None for all of the first
            client's.
    """
    total = sum(shares[k] for k in results)
    wanted = next(iter(results.values())).weights if likes is None else likes
    means = {}
    for name, like in wanted.items():
        mean = sum(
            (shares[k] / total * r.weights[name].double() for k, r in results.items()),
            start=torch.zeros(like.shape, dtype=torch.float64),
        )
        means[name] = (mean if like.is_floating_point() else mean.round()).to(like.dtype)
    return means
