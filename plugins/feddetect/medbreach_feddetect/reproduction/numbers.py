"""Numbers of runs, with intervals over seeds."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
from scipy.stats import t as student

from medbreach.statistics import wilson
from medbreach.types import Rate
from medbreach_feddetect.calibration import WORLDS, World, run_maximum, threshold, world
from medbreach_feddetect.forest import flagged_by_forest
from medbreach_feddetect.learner import MEAN
from medbreach_feddetect.measures.of_round import FRECHET, KERNEL, SHOWN, measured
from medbreach_feddetect.reproduction.setting import CLIENTS, MALICIOUS, RATE
from medbreach_federation import RoundLine

SIMULATED: Final = 1000  # benign runs of each world
DRAWN: Final = 100  # rounds of four normal losses that the released rule is shown

UNSEEN: Final[dict[str, World]] = {
    "independent rounds, normal": world(),
    "independent rounds, heavy tails": world(noise="t3"),
    "rounds that remember, heavy tails": world(noise="t3", memory=0.9),
    "a random walk": world(memory=1.0),
    "clients that differ, normal": world("normal", 100.0),
    "clients that differ, two-sided exponential": world("laplace", 100.0),
    "clients that differ a little, on random walks": world("t3", 5.0, memory=1.0),
    "clients that differ, rounds that hardly forget": world("t3", 10.0, memory=0.99),
}
"""Worlds without attack that the threshold was not made from."""


class Spread(NamedTuple):
    """A mean over runs and its 95 % interval by Student's t; None where there is one run."""

    mean: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the mean of values and its interval."""
        mean = statistics.fmean(values)
        if len(values) < 2:
            return cls(mean)
        half = float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values)
        half /= math.sqrt(len(values))
        return cls(mean, mean - half, mean + half)

    @property
    def sign(self) -> int:
        """Which side of zero the whole interval lies on: 1, -1, or 0 if on both."""
        if self.low is None or self.high is None:
            return 0
        return (self.low > 0) - (self.high < 0)

    def words(self, signed: bool = False) -> str:
        """Return it in words.

        >>> Spread(1.0, 0.5, 1.5).words(), Spread(2.0).words()
        ('1.00 (0.500 to 1.50)', '2.00')
        """
        numbers = [n for n in self if n is not None]
        shown = [f"{n:+#.3g}" if signed else f"{n:#.3g}" for n in numbers]
        return shown[0] if len(shown) == 1 else f"{shown[0]} ({shown[1]} to {shown[2]})"


def last(lines: Sequence[RoundLine], name: str) -> float:
    """Return a measure of the last round that was measured."""
    return next(line.evaluation[name] for line in reversed(lines) if measured(line.evaluation))


def late_loss(lines: Sequence[RoundLine], warm_up: int, client: int, name: str = MEAN) -> float:
    """Return a client's mean loss over the rounds after the warm-up."""
    return statistics.fmean(line.clients[client][name] for line in lines if line.round > warm_up)


def others_loss(lines: Sequence[RoundLine], warm_up: int) -> float:
    """Return the mean loss of the other clients over the rounds after the warm-up."""
    return statistics.fmean(late_loss(lines, warm_up, k) for k in range(CLIENTS) if k != MALICIOUS)


def highest(lines: Sequence[RoundLine], warm_up: int) -> bool:
    """Return whether client 0 has the highest mean loss after the warm-up."""
    losses = [late_loss(lines, warm_up, k) for k in range(CLIENTS)]
    return losses[MALICIOUS] == max(losses)


def fidelity(lines: Sequence[RoundLine]) -> dict[str, float]:
    """Return distances and the trigger's share in the last round."""
    return {name: last(lines, name) for name in (FRECHET, KERNEL, SHOWN)}


def flagged_rounds(
    runs: Iterable[Sequence[RoundLine]],
    warm_up: int,
    whom: Callable[[int], bool] = lambda client: client >= 0,
) -> Rate:
    """Return in how many rounds after the warm-up somebody of some clients was flagged."""
    count = total = 0
    for lines in runs:
        for line in lines:
            if line.round > warm_up:
                total += 1
                count += any(whom(k) and told["flagged"] for k, told in line.clients.items())
    return wilson(count, total)


def flagged_runs(
    runs: Iterable[Sequence[RoundLine]],
    whom: Callable[[int], bool] = lambda client: client >= 0,
) -> Rate:
    """Return in how many runs somebody of some clients was ever flagged."""
    found = [
        any(
            whom(k) and told.get("flagged", 0.0) > 0
            for line in lines
            for k, told in line.clients.items()
        )
        for lines in runs
    ]
    return wilson(sum(found), len(found))


def simulated_alarms(warm_up: int, rounds: int) -> dict[str, Rate]:
    """Return how often the calibrated rule flags anybody in simulated runs without attack."""
    above = threshold(CLIENTS, warm_up, RATE, rounds)
    found = {}
    for number, (name, draw) in enumerate({**UNSEEN, **WORLDS}.items()):
        rng = np.random.default_rng([7, number])
        runs = draw(rng, SIMULATED, rounds, CLIENTS)
        found[name] = wilson(sum(run_maximum(run, warm_up) > above for run in runs), SIMULATED)
    return found


def simulated_release() -> Rate:
    """Return how often the released rule punishes one of four clients with losses from N(5, 1)."""
    rng = np.random.default_rng(0)
    counts = [len(flagged_by_forest(rng.normal(5, 1, CLIENTS).tolist())) for _ in range(DRAWN)]
    return wilson(sum(0 < count < CLIENTS // 2 for count in counts), DRAWN)
