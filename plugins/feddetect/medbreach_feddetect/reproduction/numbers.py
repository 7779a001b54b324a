"""Numbers of runs, with intervals over seeds."""

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
from scipy.stats import t as student

from medbreach.statistics import wilson
from medbreach.types import Rate
from medbreach_feddetect.calibration import WORLDS, World, highest_excess, threshold, world
from medbreach_feddetect.forest import flagged_by_forest
from medbreach_feddetect.learner import MEAN
from medbreach_feddetect.measures.of_round import measured
from medbreach_feddetect.reproduction.setting import CLIENTS, MALICIOUS, RATE
from medbreach_feddetect.rules import FedDetect
from medbreach_federation import RoundLine

SIMULATED: Final = 1000  # benign runs of each world
DRAWN: Final = 100  # rounds of four normal losses that the released rule is shown
RAISED: Final = (5, 10, 20, 50)  # standard deviations of clients that an attack raises a loss by

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

Whom = Callable[[int], bool]


class Spread(NamedTuple):
    """A mean over runs and its 95 % interval by Student's t; None where there is one run.

    Where there is no run the mean is not a number.
    """

    mean: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the mean of values and its interval."""
        if not values:
            return cls(math.nan)
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

        >>> Spread(1.0, 0.5, 1.5).words(), Spread(2.0).words(), Spread.of([]).words()
        ('1.00 (0.500 to 1.50)', '2.00', 'no run')
        >>> Spread(161.2).words(signed=True)
        '+161'
        """
        sign = "+" if signed else ""
        return self._said(lambda number: f"{number:{sign}#.3g}".rstrip("."))

    def percent(self) -> str:
        """Return it as a share of something, in words.

        >>> Spread(0.5, -0.1, 0.9).percent()
        '50% (0% to 90%)'
        """
        return self._said(lambda number: f"{min(1.0, max(0.0, number)):.0%}")

    def _said(self, say: Callable[[float], str]) -> str:
        if math.isnan(self.mean):
            return "no run"
        shown = [say(number) for number in self if number is not None]
        return shown[0] if len(shown) == 1 else f"{shown[0]} ({shown[1]} to {shown[2]})"


class Flags(NamedTuple):
    """How many of something were flagged, and its share in each run."""

    flagged: int
    total: int
    share: Spread

    def words(self) -> str:
        """Return it in words.

        >>> Flags(3, 12, Spread(0.25)).words()
        '3 of 12 (by run 25%)'
        """
        return f"{self.flagged} of {self.total} (by run {self.share.percent()})"


def last(lines: Sequence[RoundLine], name: str) -> float:
    """Return a measure of the last round that was measured."""
    return next(line.evaluation[name] for line in reversed(lines) if measured(line.evaluation))


def late_loss(lines: Sequence[RoundLine], warm_up: int, client: int, name: str = MEAN) -> float:
    """Return a client's mean loss over the rounds after the warm-up."""
    return statistics.fmean(line.clients[client][name] for line in lines if line.round > warm_up)


def others_loss(lines: Sequence[RoundLine], warm_up: int) -> float:
    """Return the mean loss of the other clients over the rounds after the warm-up."""
    return statistics.fmean(late_loss(lines, warm_up, k) for k in range(CLIENTS) if k != MALICIOUS)


def lead(lines: Sequence[RoundLine], warm_up: int) -> float:
    """Return how much higher client 0's mean loss is than that of the others."""
    return late_loss(lines, warm_up, MALICIOUS) - others_loss(lines, warm_up)


def highest(lines: Sequence[RoundLine], warm_up: int) -> bool:
    """Return whether client 0 has the highest mean loss after the warm-up."""
    losses = [late_loss(lines, warm_up, k) for k in range(CLIENTS)]
    return losses[MALICIOUS] == max(losses)


def anybody(client: int) -> bool:
    """Return that a client counts, whoever it is."""
    return client >= 0


def malicious(client: int) -> bool:
    """Return whether a client is the one that poisons where there is an attack."""
    return client == MALICIOUS


def benign(client: int) -> bool:
    """Return whether a client is one of those that never poison."""
    return client != MALICIOUS


def flagged_rounds(
    runs: Iterable[Sequence[RoundLine]], warm_up: int, whom: Whom = anybody
) -> Flags:
    """Return in how many rounds after the warm-up somebody of some clients was flagged."""
    return _flags(
        [any(told) for number, told in _told(lines, whom) if number > warm_up] for lines in runs
    )


def flagged_verdicts(
    runs: Iterable[Sequence[RoundLine]], warm_up: int, whom: Whom = anybody
) -> Flags:
    """Return how many verdicts on some clients after the warm-up flag one of them."""
    return _flags(
        [one for number, told in _told(lines, whom) if number > warm_up for one in told]
        for lines in runs
    )


def flagged_runs(runs: Iterable[Sequence[RoundLine]], whom: Whom = anybody) -> Rate:
    """Return in how many runs somebody of some clients was ever flagged."""
    found = [any(any(told) for _, told in _told(lines, whom)) for lines in runs]
    return wilson(sum(found), len(found))


def _told(lines: Sequence[RoundLine], whom: Whom) -> list[tuple[int, list[bool]]]:
    """Return of each round its number, and whether each of some clients was flagged."""
    return [
        (line.round, [one.get("flagged", 0.0) > 0 for k, one in line.clients.items() if whom(k)])
        for line in lines
    ]


def _flags(runs: Iterable[Sequence[bool]]) -> Flags:
    kept = [list(run) for run in runs if run]
    shares = [sum(run) / len(run) for run in kept]
    return Flags(sum(map(sum, kept)), sum(map(len, kept)), Spread.of(shares))


def judged(rule: FedDetect, lines: Sequence[RoundLine]) -> Iterator[RoundLine]:
    """Yield the rounds of a plain mean's run with what a rule says of their losses.

    Until the first flag all weights are equal, so that up to there it is the rule's own run.
    """
    for line in lines:
        if not line.clients:
            yield line
            continue
        told = rule.judge(line.round, [line.clients[k][rule.loss] for k in sorted(line.clients)])
        clients = {k: {**line.clients[k], **told[k]} for k in line.clients}
        yield dataclasses.replace(line, clients=clients)


def losses_of(lines: Sequence[RoundLine]) -> list[list[float]]:
    """Return the mean losses of a run, a row a round, a column a client."""
    return [[line.clients[k][MEAN] for k in sorted(line.clients)] for line in lines if line.clients]


def simulated_alarms(warm_up: int, rounds: int) -> dict[str, Rate]:
    """Return how often the calibrated rule flags anybody in simulated runs without attack."""
    above = threshold(CLIENTS, warm_up, RATE, rounds)
    found = {}
    for number, (name, draw) in enumerate({**UNSEEN, **WORLDS}.items()):
        rng = np.random.default_rng([7, number])
        runs = draw(rng, SIMULATED, rounds, CLIENTS)
        found[name] = wilson(
            sum(max(highest_excess(run, warm_up)) > above for run in runs), SIMULATED
        )
    return found


def simulated_power(warm_up: int, rounds: int) -> dict[int, Rate]:
    """Return how often the calibrated rule flags a client that an attack raises, by how much.

    Benign clients differ for the whole run by normal numbers, on the logarithmic scale; client 0 is
    higher than its own number by so many standard deviations.
    """
    above = threshold(CLIENTS, warm_up, RATE, rounds)
    runs = world("normal", 100.0)(np.random.default_rng(11), SIMULATED, rounds, CLIENTS)
    found = {}
    for raised in RAISED:
        higher = runs.copy()
        higher[:, :, MALICIOUS] *= math.exp(raised)  # the deviation is 1 in these worlds
        flagged = sum(highest_excess(run, warm_up)[MALICIOUS] > above for run in higher)
        found[raised] = wilson(flagged, SIMULATED)
    return found


def simulated_release() -> Rate:
    """Return how often the released rule punishes one of four clients with losses from N(5, 1)."""
    rng = np.random.default_rng(0)
    counts = [len(flagged_by_forest(rng.normal(5, 1, CLIENTS).tolist())) for _ in range(DRAWN)]
    return wilson(sum(0 < count < CLIENTS // 2 for count in counts), DRAWN)
