"""How good a trained network is, with intervals over patients."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor, nn

from medbreach.types import ImageSpec

DRAWS: Final = 1000  # of the bootstrap
AT_A_TIME: Final = 256  # images, at most
VALUES: Final = 2**22  # of images at a time: a layer of 64 channels makes a GiB of them
MEASURES: Final = ("accuracy", "auc", "f1")


class Interval(NamedTuple):
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Predictions:
    """What a network says of test images.

    Attributes:
        probabilities: Of each class, a row an image.
        labels: Class of each image.
        patients: Number of each image's patient, the same whatever the seed.
    """

    probabilities: Float[Tensor, "n classes"]
    labels: Int[Tensor, " n"]
    patients: Int[Tensor, " n"]


@torch.no_grad()
def predict(
    networks: Sequence[nn.Module],
    spec: ImageSpec,
    parts: Iterable[Tensor],
    labels: Int[Tensor, " n"],
    patients: Int[Tensor, " n"],
) -> Predictions:
    """Return what each of several networks says of the same images, one network after the other.

    Args:
        networks: The networks, in evaluation mode.
        spec: What is known about the images.
        parts: The images (n, channels, *space) in turn, as many at a time as `at_a_time` says.
        labels: Class of each image.
        patients: Number of each image's patient.
    """
    found: list[list[Tensor]] = [[] for _ in networks]
    for part in parts:
        for network, said in zip(networks, found, strict=True):
            inputs = spec.normalise(part.to(next(network.parameters())))
            said.append(network(inputs).softmax(1).cpu().float())
    each = len(networks)
    probabilities = torch.cat([said for own in found for said in own])
    return Predictions(probabilities, labels.repeat(each), patients.repeat(each))


def at_a_time(spec: ImageSpec) -> int:
    """Return how many images a network is shown at a time, so that they fit into memory.

    >>> at_a_time(ImageSpec(3, (32, 32))), at_a_time(ImageSpec(1, (64, 64, 64)))
    (256, 16)
    """
    return max(1, min(AT_A_TIME, VALUES // math.prod(spec.shape)))


def measure(predictions: Predictions, chosen: NDArray[np.intp] | None = None) -> dict[str, float]:
    """Return accuracy, AUC (one class against the others, mean over classes) and macro F1.

    Args:
        predictions: What the network says.
        chosen: Images to count, repetitions included; None for all.
    """
    every = np.arange(len(predictions.labels))
    chosen = every if chosen is None else chosen
    probabilities = predictions.probabilities.numpy()[chosen]
    labels = predictions.labels.numpy()[chosen]
    said = probabilities.argmax(1)
    classes = sorted(set(labels.tolist()))
    return {
        "accuracy": float((said == labels).mean()),
        "auc": float(np.mean([auc(probabilities[:, c], labels == c) for c in classes])),
        "f1": float(np.mean([_f1(said == c, labels == c) for c in classes])),
    }


def auc(scores: NDArray[np.floating[Any]], positive: NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve; a half where one class is absent.

    >>> auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    0.75
    """
    there, absent = int(positive.sum()), int((~positive).sum())
    if not there or not absent:
        return 0.5
    ranks = rankdata(scores)
    return float((ranks[positive].sum() - there * (there + 1) / 2) / (there * absent))


def _f1(said: NDArray[np.bool_], positive: NDArray[np.bool_]) -> float:
    both = int((said & positive).sum())
    total = int(said.sum() + positive.sum())
    return 2 * both / total if total else 0.0


def utility(seeds: Sequence[Predictions]) -> dict[str, Interval]:
    """Return each measure's mean over seeds, with a bootstrap interval over patients."""
    values = [measure(one) for one in seeds]
    draws = list(_bootstrap([seeds]))
    return {
        name: _interval(
            float(np.mean([v[name] for v in values])), [draw[0][name] for draw in draws]
        )
        for name in MEASURES
    }


def cost(with_it: Sequence[Predictions], without: Sequence[Predictions]) -> dict[str, Interval]:
    """Return what a defense changes of each measure: the same patients are drawn for both."""
    mean = [_mean(list(map(measure, side))) for side in (with_it, without)]
    draws = list(_bootstrap([with_it, without]))
    return {
        name: _interval(mean[0][name] - mean[1][name], [a[name] - b[name] for a, b in draws])
        for name in MEASURES
    }


def _bootstrap(
    sides: Sequence[Sequence[Predictions]],
) -> Iterable[list[Mapping[str, float]]]:
    """Yield, for each draw of patients, each side's mean over seeds.

    A patient who is tested with several seeds is drawn for all of them: what networks say of one
    patient is no independent evidence. A seed with none of those drawn is left out of that draw.
    """
    rng = np.random.default_rng(0)
    places = [[_by_patient(one) for one in side] for side in sides]
    patients = sorted(set().union(*places[0]))
    for _ in range(DRAWS):
        picked = [patients[k] for k in rng.integers(len(patients), size=len(patients))]
        yield [
            _mean(
                [
                    measure(one, np.concatenate(drawn))
                    for one, own in zip(side, there, strict=True)
                    if (drawn := [own[p] for p in picked if p in own])
                ]
            )
            for side, there in zip(sides, places, strict=True)
        ]


def _by_patient(predictions: Predictions) -> dict[int, NDArray[np.intp]]:
    patients = predictions.patients.numpy()
    return {int(p): np.flatnonzero(patients == p) for p in np.unique(patients)}


def _mean(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([v[name] for v in values])) for name in MEASURES}


def _interval(value: float, draws: Sequence[float]) -> Interval:
    low, high = np.quantile(np.array(draws), [0.025, 0.975])
    return Interval(value, float(low), float(high))
