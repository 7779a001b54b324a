"""Flower's own strategies as rules."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from flwr.app import MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from torch import Tensor

from medbreach_federation.average import weighted_mean
from medbreach_federation.client import ARRAYS, MEASURES, RECORDS, record_of
from medbreach_federation.learner import Result, Weights
from medbreach_federation.rule import Aggregate, Rule

MOMENTS: Final = ("m_t", "v_t")  # what Flower's adaptive strategies remember


class Strength(NamedTuple):
    """What strategies are made of.

    Attributes:
        server_learning_rate: Of the server's steps, for the adaptive ones.
        malicious: How many clients may be malicious, for those of Krum's family.
        selected: How many clients Multi-Krum takes the mean of; None for all that answer but the
            malicious ones, n - f, as Blanchard et al. 2017 have it.
        trimmed: Share that the trimmed mean leaves out at each end.
    """

    server_learning_rate: float = 0.01
    malicious: int = 1
    selected: int | None = None
    trimmed: float = 0.2


DEFAULT: Final = Strength()

PLAIN: Final[Mapping[str, Any]] = {
    "fedavg": flower.FedAvg,
    "median": flower.FedMedian,
}
ADAPTIVE: Final[Mapping[str, Any]] = {
    "fedadam": flower.FedAdam,
    "fedyogi": flower.FedYogi,
    "fedadagrad": flower.FedAdagrad,
}
OF_KRUM: Final = ("krum", "multi_krum")


def _made(name: str, strength: Strength) -> Any:
    """Return one of Flower's strategies."""
    if name in PLAIN:
        return PLAIN[name](weighted_by_key=RECORDS)
    if name in ADAPTIVE:
        return ADAPTIVE[name](eta=strength.server_learning_rate, weighted_by_key=RECORDS)
    if name == "trimmed_mean":
        return flower.FedTrimmedAvg(beta=strength.trimmed, weighted_by_key=RECORDS)
    return flower.MultiKrum(
        num_malicious_nodes=strength.malicious,
        num_nodes_to_select=1,  # for Multi-Krum set in each round
        weighted_by_key=RECORDS,
    )


def _least(name: str, strength: Strength) -> int:
    """Return how few clients a strategy makes sense with.

    Krum's source asks for 2 f + 3 (Blanchard et al. 2017); a trimmed mean of fewer than
    1 / share clients trims nobody.
    """
    if name in OF_KRUM:
        selected = strength.selected if name == "multi_krum" else None
        return max(2 * strength.malicious + 3, selected or 1)
    if name == "median":
        return 3
    if name == "trimmed_mean" and strength.trimmed > 0:
        return max(3, math.ceil(1 / strength.trimmed))
    return 1


@dataclass
class FlowerRule(Rule):
    """One of Flower's strategies, given what clients changed.

    Clients' changes are passed on in double precision, not their weights: a mean, a median and
    Krum's choice are the same, and Krum's distances, which Flower computes from squared norms,
    do not drown in rounding.

    Attributes:
        name: ``fedavg``, ``fedadam``, ``fedyogi``, ``fedadagrad``, ``median``, ``trimmed_mean``,
            ``krum`` or ``multi_krum``.
        strength: Its settings.
        buffers: Names of tensors that an adaptive strategy takes the mean of instead: a step along
            BatchNorm's variance may make it negative.
    """

    name: str
    strength: Strength = DEFAULT
    buffers: Collection[str] = ()

    def __post_init__(self) -> None:
        self._strategy = _made(self.name, self.strength)
        self._adaptive = self.name in ADAPTIVE

    @property
    def title(self) -> str:
        """The strategy's name."""
        return self.name

    @property
    def least(self) -> int:
        """How many clients the strategy makes sense with."""
        return _least(self.name, self.strength)

    def aggregate(self, round: int, before: Weights, results: Mapping[int, Result]) -> Aggregate:
        """Return what the strategy makes of a round."""
        kept = [name for name, tensor in before.items() if not self._is_averaged(name, tensor)]
        origin = {name: before[name].double() for name in kept}
        if self._adaptive:
            self._strategy.current_arrays = {
                n: torch.zeros_like(t).numpy() for n, t in origin.items()
            }
        if self.name == "multi_krum":
            chosen = self.strength.selected or len(results) - self.strength.malicious
            self._strategy.num_nodes_to_select = chosen
        replies = [_reply(result, origin) for result in results.values()]
        made, _ = self._strategy.aggregate_train(round, replies)
        changes: Mapping[str, Tensor] = made.to_torch_state_dict()
        shares = {k: float(r.records) for k, r in results.items()}
        rest = {name: like for name, like in before.items() if name not in origin}
        means = weighted_mean(results, shares, rest)
        weights = {
            name: (origin[name] + changes[name]).to(like.dtype) if name in origin else means[name]
            for name, like in before.items()
        }
        return Aggregate(weights)

    def _is_averaged(self, name: str, tensor: Tensor) -> bool:
        return not tensor.is_floating_point() or (self._adaptive and name in self.buffers)

    def keep(self) -> dict[str, Any]:
        """Return the server's moments, where the strategy has any."""
        found = {name: getattr(self._strategy, name, None) for name in MOMENTS}
        return {
            name: {key: torch.from_numpy(array.copy()) for key, array in moment.items()}
            for name, moment in found.items()
            if moment
        }

    def go_on(self, kept: Mapping[str, Any]) -> None:
        """Take up the server's moments."""
        for name, moment in kept.items():
            setattr(self._strategy, name, {key: t.numpy() for key, t in moment.items()})


class _Reply(NamedTuple):
    """What Flower's strategies look at of a message: it is none of a running federation."""

    content: RecordDict

    def has_error(self) -> bool:
        """Return that it is none."""
        return False


def _reply(result: Result, origin: Weights) -> _Reply:
    """Return a client's result as Flower's strategies take it, as the change from an origin."""
    change = {name: result.weights[name].double() - first for name, first in origin.items()}
    return _Reply(
        RecordDict(
            {ARRAYS: record_of(change), MEASURES: MetricRecord({RECORDS: float(result.records)})}
        )
    )
