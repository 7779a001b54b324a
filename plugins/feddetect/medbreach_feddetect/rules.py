"""FedDetect as released, and with a calibrated verdict."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from medbreach import ConfigError
from medbreach.errors import ContractError
from medbreach_feddetect.calibration import Scale, check, excess, threshold
from medbreach_feddetect.calibration import lead as lead_of
from medbreach_feddetect.forest import flagged_by_forest
from medbreach_feddetect.learner import LAST, MEAN
from medbreach_federation import Aggregate, Result, Rule, Weights, weighted_mean

RELEASED_WARM_UP: Final = 11


class FedDetect(Rule):
    """FedDetect as released: an isolation forest over the clients' generator losses.

    Jin and Li 2023, arXiv:2210.10886, as the code of arXiv:2207.00762 has it. Each client reports
    the absolute generator loss of its last minibatch. From the round after the warm-up on, a client
    that the forest takes for an outlier is flagged, unless half of the clients or more are. A
    flagged client's count goes up by one and its weight is multiplied by ``decay ** count``; all
    weights are then divided by their sum. Counts and weights last: nobody is forgiven. The forest
    does not know up from down, so that an unusually low loss is flagged too.

    Args:
        clients: How many clients there are; each takes part in every round.
        warm_up: Rounds without detection; released: 11, since its ``epoch > 10`` counts from zero.
        decay: Base of the penalty; released: 0.9.
        random_state: Of the forest; released: 999.
    """

    loss = LAST

    def __init__(
        self,
        clients: int,
        warm_up: int = RELEASED_WARM_UP,
        decay: float = 0.9,
        random_state: int = 999,
    ) -> None:
        if clients < 1:
            raise ConfigError(f"clients must be at least 1, got {clients}")
        if warm_up < 0:
            raise ConfigError(f"warm_up must not be negative, got {warm_up}")
        if not 0 < decay <= 1:
            raise ConfigError(f"decay must lie above 0 and at most at 1, got {decay}")
        self.warm_up, self.decay, self.random_state = warm_up, decay, random_state
        self.weights = [1 / clients] * clients
        self.counts = [0] * clients
        self.history: list[list[float]] = []

    @property
    def least(self) -> int:
        """How many clients' results a round needs: all, since each round's losses are compared."""
        return len(self.weights)

    def aggregate(
        self,
        round: int,
        before: Weights,
        results: Mapping[int, Result],
    ) -> Aggregate:
        """Return the weighted mean of what clients sent, after this round's verdict.

        Raises:
            ConfigError: A client is missing.
            ContractError: A client reports a loss that is no finite number.
        """
        del before
        self._check(results, round)
        of_clients = self.judge(round, [results[k].measures[self.loss] for k in sorted(results)])
        flagged = sum(told["flagged"] for told in of_clients.values())
        shares = dict(enumerate(self.weights))
        return Aggregate(weighted_mean(results, shares), {"flagged": flagged}, of_clients)

    def judge(self, round: int, losses: Sequence[float]) -> dict[int, dict[str, float]]:
        """Take note of a round's losses, punish whom they speak against, and say so of each client.

        Args:
            round: Number of the round, from 1.
            losses: Of each client.
        """
        self.history.append(list(losses))
        suspects = self.suspects(losses)
        flagged = self.punish(suspects) if round > self.warm_up else []
        return {
            k: {
                "weight": self.weights[k],
                "suspect": float(k in suspects),
                "flagged": float(k in flagged),
                **self.scores(k),
            }
            for k in range(len(losses))
        }

    def suspects(self, losses: Sequence[float]) -> list[int]:
        """Return the clients that this round's losses speak against."""
        return flagged_by_forest(losses, self.random_state)

    def scores(self, client: int) -> dict[str, float]:
        """Return what else is told of a client."""
        del client
        return {}

    def punish(self, suspects: Sequence[int]) -> list[int]:
        """Lower the weights of suspects, if they are fewer than half, and return them."""
        if len(suspects) >= len(self.weights) // 2:
            return []
        for k in suspects:
            self.counts[k] += 1
            self.weights[k] *= self.decay ** self.counts[k]
        total = math.fsum(self.weights)
        self.weights = [weight / total for weight in self.weights]
        return list(suspects)

    def keep(self) -> dict[str, Any]:
        """Return weights, counts and losses so far."""
        return {
            "weights": list(self.weights),
            "counts": list(self.counts),
            "history": [list(row) for row in self.history],
        }

    def go_on(self, kept: Mapping[str, Any]) -> None:
        """Take up what `keep` returned."""
        self.weights, self.counts = list(kept["weights"]), list(kept["counts"])
        self.history = [list(row) for row in kept["history"]]

    def _check(self, results: Mapping[int, Result], round: int) -> None:
        if sorted(results) != list(range(len(self.weights))):
            raise ConfigError(
                f"FedDetect compares the losses of all {len(self.weights)} clients, but "
                f"{len(results)} took part in round {round}: let every client take part"
            )
        for k, result in results.items():
            if not math.isfinite(result.measures[self.loss]):
                raise ContractError(
                    f"client {k} reports a generator loss of {result.measures[self.loss]} in "
                    f"round {round}"
                )


class FedDetectCalibrated(FedDetect):
    """FedDetect with a verdict whose rate of false alarms is set; ours.

    The penalty is the released one. The verdict is another: a client is flagged in the rounds in
    which `medbreach_feddetect.calibration.excess` of the losses so far is above a threshold that a
    benign run exceeds, in any round and for any client, with a probability of at most ``rate``.

    Args:
        clients: How many clients there are, at least four; each takes part in every round.
        warm_up: Rounds without detection.
        decay: Base of the penalty.
        rate: Benign runs in which anybody is ever flagged, at most.
        rounds: Up to how many rounds that holds.
        above: The threshold; None: simulated for ``rate``, see `calibration.threshold`.
        lead: From benign runs of one's own, `calibration.threshold_from_runs`: clients are flagged
            in the rounds in which their `calibration.lead` is above it, and ``above`` does not
            count.
        scale: On which losses are compared: ``logarithmic``, or ``plain`` for those of critics.
    """

    loss = MEAN

    def __init__(
        self,
        clients: int,
        warm_up: int = RELEASED_WARM_UP,
        decay: float = 0.9,
        rate: float = 0.05,
        rounds: int = 200,
        above: float | None = None,
        lead: float | None = None,
        scale: Scale = "logarithmic",
    ) -> None:
        super().__init__(clients, warm_up, decay)
        self.scale: Scale = scale
        check(clients, rate)
        self.lead = lead
        simulated = above is None and lead is None
        self.above = threshold(clients, warm_up, rate, rounds) if simulated else above
        self._scores: list[dict[str, float]] = []

    def suspects(self, losses: Sequence[float]) -> list[int]:
        """Return the clients whose losses are above the others' by more than the threshold."""
        del losses
        name, above = ("excess", self.above) if self.lead is None else ("lead", self.lead)
        assert above is not None
        pairs = zip(
            excess(self.history, self.scale), lead_of(self.history, self.scale), strict=True
        )
        self._scores = [{"excess": one, "lead": other} for one, other in pairs]
        return [k for k, scores in enumerate(self._scores) if scores[name] > above]

    def scores(self, client: int) -> dict[str, float]:
        """Return how far a client's losses are above the others'."""
        return self._scores[client]
