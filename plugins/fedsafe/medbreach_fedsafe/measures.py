"""How often adversarial images fool whom: self, others, and how many at once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from medbreach.tradeoff.predictions import Interval

DRAWS: Final = 1000  # of the bootstrap
MEASURES: Final = ("accuracy", "asr_self", "asr_others", "aatr")

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Answers:
    """What the clients' networks say of clean and of adversarial images.

    Attributes:
        labels: True class of each image, ``(n,)``.
        patients: Number of each image's patient, ``(n,)``; the same whatever the seed.
        clean: Class that each client's network gives, ``(clients, n)``.
        attacked: Class that it gives to the adversarial image made by each source,
            ``(sources, clients, n)``.
        sources: Number of the client whose network each source attacked; None for a source that
            attacked no client's own.
    """

    labels: Ints
    patients: Ints
    clean: Ints
    attacked: Ints
    sources: tuple[int | None, ...]

    def __post_init__(self) -> None:
        clients, images = self.clean.shape
        if self.attacked.shape != (len(self.sources), clients, images):
            raise ValueError(
                f"answers to attacked images have shape {self.attacked.shape}, not "
                f"{(len(self.sources), clients, images)}"
            )
        if not len(self.labels) == len(self.patients) == images:
            raise ValueError(f"there are {images} answers but {len(self.labels)} labels")


def rates(answers: Answers, weights: Floats | None = None) -> dict[str, Floats]:
    """Return accuracy, both success rates and AATR, once for each row of weights.

    The attack success rate of images made by source i on client j is the share, among the images
    that j's network gives the true class, of those whose class changes. ``asr_self`` is its mean
    over i = j, ``asr_others`` over i != j. ``aatr`` (average adversarial transfer rate) is the mean
    over sources of the mean, over the images with which the source succeeds on itself, of how many
    of the clients that had the image right it fools, itself included. Where there is nothing to
    take a mean of, a measure is NaN.

    Args:
        answers: What the networks say.
        weights: How often each image counts, ``(draws, n)``; None for once, in one row.
    """
    weights = np.ones((1, len(answers.labels))) if weights is None else weights
    right = answers.clean == answers.labels
    hit = right & (answers.attacked != answers.clean)
    of_right = weights @ right.T
    success = _ratio(weights @ hit.reshape(-1, hit.shape[-1]).T, np.tile(of_right, len(hit)))
    success = success.reshape(len(weights), *hit.shape[:2])
    own = np.zeros(hit.shape[:2], dtype=bool)
    for k, source in enumerate(answers.sources):
        if source is not None:
            own[k, source] = True
    return {
        "accuracy": (of_right / weights.sum(1, keepdims=True)).mean(1),
        "asr_self": _mean(success[:, own]),
        "asr_others": _mean(success[:, ~own]),
        "aatr": _aatr(answers, right, hit, weights),
    }


def estimate(seeds: Sequence[Answers]) -> dict[str, Interval]:
    """Return each measure's mean over seeds with a 95 % bootstrap interval over patients.

    A measure that there is nothing to take a mean of is left out.
    """
    return _intervals(lambda weigh: _over_seeds(seeds, weigh), _patients(seeds))


def change(with_it: Sequence[Answers], without: Sequence[Answers]) -> dict[str, Interval]:
    """Return what a defense changes of each measure: the same patients are drawn for both."""

    def both(weigh: "Weigh") -> dict[str, Floats]:
        a, b = _over_seeds(with_it, weigh), _over_seeds(without, weigh)
        return {name: a[name] - b[name] for name in MEASURES}

    return _intervals(both, _patients([*with_it, *without]))


Weigh = Callable[[Answers], Floats | None]


def _intervals(
    values: Callable[[Weigh], Mapping[str, Floats]], patients: Ints
) -> dict[str, Interval]:
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(len(patients), np.full(len(patients), 1 / len(patients)), size=DRAWS)
    counts = np.zeros((DRAWS, int(patients.max()) + 1))
    counts[:, patients] = drawn
    points, draws = values(lambda _: None), values(lambda one: counts[:, one.patients])
    found = {}
    for name in MEASURES:
        usable = draws[name][np.isfinite(draws[name])]
        if np.isfinite(points[name][0]) and len(usable):
            low, high = np.quantile(usable, [0.025, 0.975])
            found[name] = Interval(float(points[name][0]), float(low), float(high))
    return found


def _over_seeds(seeds: Sequence[Answers], weigh: Weigh) -> dict[str, Floats]:
    of_seed = [rates(one, weigh(one)) for one in seeds]
    return {name: _mean(np.stack([r[name] for r in of_seed], axis=1)) for name in MEASURES}


def _patients(seeds: Sequence[Answers]) -> Ints:
    return np.unique(np.concatenate([one.patients for one in seeds]))


def _aatr(
    answers: Answers, right: NDArray[np.bool_], hit: NDArray[np.bool_], weights: Floats
) -> Floats:
    fooled = hit.sum(1) / np.maximum(1, right.sum(0))
    columns = []
    for k, source in enumerate(answers.sources):
        if source is not None:
            succeeds = hit[k, source]
            columns.append(_ratio(weights @ (fooled[k] * succeeds), weights @ succeeds))
    if not columns:
        return np.full(len(weights), np.nan)
    return _mean(np.stack(columns, axis=1))


def _ratio(over: Floats, under: Floats) -> Floats:
    """Return quotients; NaN where there is nothing to divide by."""
    found: Floats = np.divide(over, under, out=np.full(over.shape, np.nan), where=under > 0)
    return found


def _mean(columns: Floats) -> Floats:
    """Return each row's mean over what is there; NaN if nothing is."""
    there = np.isfinite(columns)
    return _ratio(np.where(there, columns, 0.0).sum(1), there.sum(1))
