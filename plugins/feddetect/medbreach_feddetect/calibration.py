"""How far a client's losses exceed the others', and how far chance alone takes them.

Losses of a GAN's clients have heavy tails, drift, depend on the rounds before, and some benign
clients have higher losses than others all the time. So a client is compared with the spread of the
other clients, not with the noise of rounds, and it has to stand out in two blocks of rounds that do
not overlap: what lasts is told from what passes by. The threshold is the highest of several
simulated worlds without any attack. Who has benign runs of his own needs no such detour: there a
client's lead over the others is compared with the leads in these runs. All of it is ours.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from medbreach import ConfigError

FEWEST: Final = 4  # clients, for one suspect beside a comparison with more than two others
FIRST: Final = 4  # rounds, for two blocks that hold one at least
RUNS: Final = 2000  # that are simulated in each world
TINY: Final = 1e-9  # spread of clients that report the same number

Array = NDArray[np.float64]
Scale = Literal["logarithmic", "plain"]
"""On which losses are compared: ``logarithmic`` (asinh) for those that are positive and grow by
factors, as cross-entropies do; ``plain`` for critics', whose level and sign mean nothing."""


def excess(history: Sequence[Sequence[float]], scale: Scale = "logarithmic") -> list[float]:
    """Return how far each client's losses exceed the others', in spreads of the others.

    For the last half of the rounds so far, and for the quarter before it, each client's mean on the
    scale is compared with the others':
    its distance to their mean, over their standard deviation, as a new one of their kind would have
    it (`sqrt(1 + 1/n)`). Where several clients may be malicious at once, the highest others are
    left out. The smaller of both blocks' values counts.

    Args:
        history: Losses of each client, a row a round.
        scale: On which they are compared.

    >>> excess([[5.0, 5.1, 4.9, 20.0], [4.9, 5.0, 5.1, 21.0]] * 4)[3] > 20
    True
    """
    if len(history) < FIRST:
        return [-math.inf] * len(history[0])
    value: Array = _excesses(np.array(history, dtype=float)[None], len(history) - 1, scale)[0, 0]
    return [float(one) for one in value]


def lead(history: Sequence[Sequence[float]], scale: Scale = "logarithmic") -> list[float]:
    """Return how far each client's losses lead the others', whatever the others' spread.

    For the last half of the rounds so far: each client's mean on the scale less the others'. Where
    several clients may be malicious at once, the highest others are left out.

    Args:
        history: Losses of each client, a row a round.
        scale: On which they are compared.

    >>> [round(one, 2) for one in lead([[5.0, 5.0, 5.0, 6.0]] * 8, "plain")]
    [-0.33, -0.33, -0.33, 1.0]
    """
    value: Array = _leads(np.array(history, dtype=float)[None], len(history) - 1, scale)[0, 0]
    return [float(one) for one in value]


def highest_excess(losses: Array, warm_up: int, scale: Scale = "logarithmic") -> list[float]:
    """Return each client's highest excess in any round after the warm-up.

    Args:
        losses: Of one run: a row a round, a column a client.
        warm_up: Rounds without detection.
        scale: On which losses are compared.
    """
    return _highest(_excesses, losses, warm_up, scale)


def highest_lead(losses: Array, warm_up: int, scale: Scale = "logarithmic") -> list[float]:
    """Return each client's highest lead in any round after the warm-up; see `highest_excess`."""
    return _highest(_leads, losses, warm_up, scale)


@functools.lru_cache(maxsize=32)
def threshold(
    clients: int, warm_up: int, rate: float = 0.05, rounds: int = 200, runs: int = RUNS
) -> float:
    """Return what a benign run's highest excess is above with a probability of at most ``rate``.

    It is the highest of the worlds that `WORLDS` simulates, each the upper 95 % confidence limit of
    its quantile.

    Args:
        clients: How many clients there are.
        warm_up: Rounds without detection.
        rate: The probability.
        rounds: Of the whole run.
        runs: That are simulated in each world.

    Raises:
        ConfigError: There are fewer than four clients, no round after the warm-up, or too few runs
            for the rate.
    """
    check(clients, rate)
    if rounds <= max(warm_up, FIRST - 1):
        raise ConfigError(
            f"rounds must be more than the warm-up of {max(warm_up, FIRST - 1)}, got {rounds}"
        )
    found = []
    for number, world in enumerate(WORLDS.values()):
        rng = np.random.default_rng([clients, warm_up, rounds, number])
        made = world(rng, runs, rounds, clients)
        excesses = _excesses(made, max(warm_up, FIRST - 1), "logarithmic")
        found.append(_quantile(excesses.max(axis=(1, 2)), rate))
    return max(found)


def threshold_from_runs(
    runs: Sequence[Array], warm_up: int, rate: float = 0.05, scale: Scale = "logarithmic"
) -> float:
    """Return a threshold of leads from one's own benign runs, whatever their losses look like.

    If the run to be watched is a further one of the same kind, with as many rounds and clients, it
    exceeds the threshold with a probability of at most ``rate`` (conformal prediction: its highest
    lead is equally likely to have any rank among theirs). That needs no comparison with the spread
    of a few other clients, so it finds more than `threshold`.

    Args:
        runs: Losses of each: a row a round, a column a client.
        warm_up: Rounds without detection.
        rate: The probability.
        scale: On which losses are compared; the rule needs the same.

    Raises:
        ConfigError: There are too few runs for the rate, or they are not alike, too short, or not
            finite.
    """
    _check_rate(rate)
    needed = math.ceil(1 / rate) - 1
    if len(runs) < needed:
        raise ConfigError(
            f"a rate of {rate:g} takes at least {needed} benign runs, but there are {len(runs)}"
        )
    shapes = {np.shape(run) for run in runs}
    if len(shapes) > 1 or len(next(iter(shapes))) != 2:
        raise ConfigError(
            "benign runs must have as many rounds and clients each, (round, client), but their "
            f"shapes are {sorted(shapes)}"
        )
    ((rounds, clients),) = shapes
    check(clients, rate)
    if rounds <= max(warm_up, FIRST - 1):
        raise ConfigError(
            f"benign runs must have more than {max(warm_up, FIRST - 1)} rounds, but have {rounds}"
        )
    if not np.isfinite(runs).all():
        raise ConfigError("benign runs must have finite losses only: leave out runs that diverged")
    highest = sorted(max(highest_lead(run, warm_up, scale)) for run in runs)
    return highest[math.ceil((1 - rate) * (len(runs) + 1)) - 1]


def check(clients: int, rate: float) -> None:
    """Check that a rate can be held with so many clients.

    Raises:
        ConfigError: It cannot.
    """
    if clients < FEWEST:
        raise ConfigError(
            f"with {clients} clients nobody can be told apart: the calibrated rule takes {FEWEST}, "
            "since fewer than half may be flagged"
        )
    _check_rate(rate)


def _check_rate(rate: float) -> None:
    if not 0 < rate < 1:
        raise ConfigError(f"rate must lie between 0 and 1, got {rate}")


def _quantile(values: Array, rate: float) -> float:
    """Return the upper 95 % confidence limit of a quantile."""
    count = len(values)
    rank = math.ceil(count * (1 - rate) + 1.645 * math.sqrt(count * rate * (1 - rate)))
    if rank > count:
        raise ConfigError(f"{count} simulated runs are too few for a rate of {rate:g}")
    return float(np.sort(values)[rank - 1])


def _highest(
    score: Callable[[Array, int, Scale], Array], losses: Array, warm_up: int, scale: Scale
) -> list[float]:
    """Return each client's highest score in any round after the warm-up."""
    start = max(warm_up, FIRST - 1)
    table = np.asarray(losses, dtype=float)[None]
    if table.shape[1] <= start:
        return [-math.inf] * table.shape[2]
    return [float(one) for one in score(table, start, scale)[0].max(axis=0)]


def _excesses(losses: Array, start: int, scale: Scale) -> Array:
    """Return each client's excess, (run, round, client), in the rounds from number ``start`` on."""
    ends = np.arange(start, losses.shape[1]) + 1
    quarters, halves = ends // 4, ends // 2
    found = []
    for begin, end in ((halves, ends), (quarters, halves)):
        apart, spread = _against_others(_means(losses, begin, end, scale))
        found.append(apart / spread)
    smaller: Array = np.minimum(*found)
    return smaller


def _leads(losses: Array, start: int, scale: Scale) -> Array:
    """Return each client's lead, (run, round, client), in the rounds from number ``start`` on."""
    ends = np.arange(start, losses.shape[1]) + 1
    return _against_others(_means(losses, ends // 2, ends, scale))[0]


def _means(losses: Array, begin: NDArray[np.int_], end: NDArray[np.int_], scale: Scale) -> Array:
    """Return each client's mean on a scale over blocks of rounds, (run, block, client)."""
    scaled = np.arcsinh(losses) if scale == "logarithmic" else losses
    nothing = np.zeros_like(scaled[:, :1])
    total = np.concatenate([nothing, np.cumsum(scaled, axis=1)], axis=1)
    means: Array = (total[:, end] - total[:, begin]) / (end - begin)[:, None]
    return means


def _against_others(means: Array) -> tuple[Array, Array]:
    """Return how far each client's mean is from the others', and their spread; clients come last.

    Where several clients may be malicious at once, the highest others are left out.
    """
    clients = means.shape[-1]
    compared = max(2, clients - max(1, clients // 2 - 1))
    order = np.sort(means, axis=-1)
    # the lowest others: for one of the lowest itself, those and the next one instead of it
    lowest, extended = order[..., :compared], order[..., : compared + 1]
    among = means <= order[..., compared - 1 : compared]
    count = compared
    sums, squares = _moments(lowest - order[..., :1])
    more, more_squares = _moments(extended - order[..., :1])
    own = means - order[..., :1]
    total = np.where(among, more - own, sums)
    square = np.where(among, more_squares - own**2, squares)
    mean = total / count
    variance = np.maximum(square - count * mean**2, 0) / (count - 1)
    spread = np.sqrt(variance * (1 + 1 / count)) + TINY
    return own - mean, spread


def _moments(values: Array) -> tuple[Array, Array]:
    return values.sum(-1, keepdims=True), (values**2).sum(-1, keepdims=True)


World = Callable[[np.random.Generator, int, int, int], Array]


def _drawn(kind: str, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    draw: Mapping[str, Callable[[], Any]] = {
        "normal": lambda: rng.standard_normal(shape),
        "t3": lambda: rng.standard_t(3, shape),
        "laplace": lambda: rng.laplace(size=shape),
    }
    values: Array = draw[kind]()
    return values


def world(
    shifts: str = "", share: float = 1.0, noise: str = "normal", memory: float = 0.0
) -> World:
    """Return a world without attack: what draws the losses of runs, (run, round, client).

    Losses are exponentials of what is drawn, so that asinh gives it back nearly as it is: on the
    plain scale the worlds are those of what is drawn, of either sign.

    Args:
        shifts: How clients differ for the whole run: ``normal``, ``t3`` (Student's t with three
            degrees of freedom), ``laplace``, or not at all.
        share: Size of these differences; the noise of a round has size 1.
        noise: Of each round, likewise.
        memory: How much of a round's noise stays in the next one; 1: a random walk.
    """

    def draw(rng: np.random.Generator, runs: int, rounds: int, clients: int) -> Array:
        values = _drawn(noise, rng, (runs, rounds, clients))
        for t in range(1, rounds if memory else 0):
            values[:, t] += memory * values[:, t - 1]
        if shifts:
            values = values + share * _drawn(shifts, rng, (runs, 1, clients))
        return np.exp(np.clip(LEVEL + SCALE * values, 1, 500))

    return draw


LEVEL: Final = 100.0  # of the simulated logarithms, so high that asinh is a logarithm
SCALE: Final = 0.01  # of their noise; it has no effect

WORLDS: Final[Mapping[str, World]] = {
    "clients that differ": world("t3", 100.0),
    "clients that differ, rounds that wander a lot": world("t3", 30.0, "t3", 1.0),
    "clients that differ, rounds that wander": world("t3", 10.0, memory=1.0),
    "clients that differ a little, rounds that remember": world("t3", 3.0, "t3", 0.5),
    "rounds that wander": world(noise="t3", memory=1.0),
}
"""Worlds without attack that the threshold is the highest of; all have heavy tails.

Of some twenty that were tried these are the hardest: differences between clients that last, mixed
with drift.
"""
