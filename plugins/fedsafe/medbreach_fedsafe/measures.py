"""How often adversarial images fool whom: self, others, and how many at once."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

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


def strongest(attacks: Sequence[Answers]) -> Answers:
    """Return the answers to whichever of several attacks on the same networks succeeds.

    Of use for ``asr_self``: who attacks a network that he holds sees which attack succeeds.
    """
    attacked = attacks[0].attacked.copy()
    for other in attacks[1:]:
        failed = attacked == other.clean
        attacked[failed] = other.attacked[failed]
    return dataclasses.replace(attacks[0], attacked=attacked)


def estimate(seeds: Sequence[Answers]) -> dict[str, Interval]:
    """Return each measure's mean over seeds with a 95 % bootstrap interval.

    Patients are drawn anew and, where there are several, seeds (the trainings). A measure that
    there is nothing to take a mean of is left out.
    """
    return _intervals(lambda drawn: drawn.mean(seeds), [seeds])


def advantage(seeds: Sequence[Answers]) -> Interval:
    """Return by how much accuracy exceeds the commonest class's share, each training its own."""

    def over(answers: Answers, weights: Floats | None) -> dict[str, Floats]:
        return {"advantage": rates(answers, weights)["accuracy"] - commonest(answers)}

    return _intervals(lambda drawn: drawn.mean(seeds, over), [seeds])["advantage"]


def commonest(answers: Answers) -> float:
    """Return the share of the commonest class among the images."""
    return float(np.bincount(answers.labels).max() / len(answers.labels))


def change(with_it: Sequence[Answers], without: Sequence[Answers]) -> dict[str, Interval]:
    """Return what a defense changes of each measure; both sides have the same draws."""

    def difference(drawn: "_Drawn") -> dict[str, Floats]:
        a, b = drawn.mean(with_it), drawn.mean(without)
        return {name: a[name] - b[name] for name in a}

    return _intervals(difference, [with_it, without])


class _Drawn(NamedTuple):
    """How often each patient and each seed counts.

    Attributes:
        patients: Of each draw, by the patient's number; None for once each, in one row.
        seeds: Of each draw, by how many seeds there are; seeds that are not there count once.
    """

    patients: Floats | None
    seeds: Mapping[int, Floats]

    def mean(self, seeds: Sequence[Answers], of: "Of" = rates) -> dict[str, Floats]:
        """Return each measure's mean over seeds, of each draw."""
        counts = self.patients
        found = [of(s, None if counts is None else counts[:, s.patients]) for s in seeds]
        times = self.seeds.get(len(seeds), np.ones((1, len(seeds))))
        return {name: _mean(np.stack([r[name] for r in found], axis=1), times) for name in found[0]}


Of = Callable[[Answers, Floats | None], dict[str, Floats]]


def _intervals(
    values: Callable[[_Drawn], Mapping[str, Floats]], sides: Sequence[Sequence[Answers]]
) -> dict[str, Interval]:
    rng = np.random.default_rng(0)
    patients = np.unique(np.concatenate([one.patients for side in sides for one in side]))
    counts = np.zeros((DRAWS, int(patients.max()) + 1))
    counts[:, patients] = _times(len(patients), rng)
    seeds = {number: _times(number, rng) for number in sorted({len(side) for side in sides})}
    points, draws = values(_Drawn(None, {})), values(_Drawn(counts, seeds))
    found = {}
    for name in points:
        usable = draws[name][np.isfinite(draws[name])]
        if np.isfinite(points[name][0]) and len(usable):
            low, high = np.quantile(usable, [0.025, 0.975])
            found[name] = Interval(float(points[name][0]), float(low), float(high))
    return found


def _times(many: int, rng: np.random.Generator) -> Floats:
    """Return how often each of many is drawn, in each draw of as many."""
    return rng.multinomial(many, np.full(many, 1 / many), size=DRAWS).astype(float)


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


def _mean(columns: Floats, times: Floats | None = None) -> Floats:
    """Return each row's mean over what is there, each column so many times; NaN if nothing is."""
    there = np.isfinite(columns) * (1.0 if times is None else times)
    return _ratio((np.where(there > 0, columns, 0.0) * there).sum(1), there.sum(1))
