"""What is measured of a round: distances to real images, the trigger, and a grid of samples."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from medbreach import Seeds
from medbreach.storage import speaking_of
from medbreach_feddetect.holdings import Holding, hold
from medbreach_feddetect.measures.distances import frechet, kernel_distance
from medbreach_feddetect.measures.extractors import extractor
from medbreach_feddetect.measures.grid import save_grid
from medbreach_feddetect.setting import GanFederation, Measuring
from medbreach_feddetect.trigger import trigger
from medbreach_federation import Weights

if TYPE_CHECKING:
    from medbreach_feddetect.learner import GanLearner

FRECHET: Final = "frechet_distance"
KERNEL: Final = "kernel_distance"
SHOWN: Final = "trigger_shown"
SAMPLES: Final = "samples"
FLAT: Final = "one mean colour"


def measure_round(
    learner: "GanLearner",
    round: int,
    weights: Weights,
    folder: Path | None,
) -> dict[str, float]:
    """Return distances between generated and the public's images, and how much trigger they show.

    As many are compared as are asked for, or as the public has.

    Args:
        learner: The federation's.
        round: Number of the round.
        weights: The federation's weights after it.
        folder: Where a grid of samples is kept, as ``samples/round-N.png``; None: nowhere.
    """
    setting = learner.setting
    measuring = setting.measuring
    made = learner.samples(weights, compared(setting), "measuring")
    if folder is not None and measuring.grid:
        with speaking_of(folder):
            save_grid(made, measuring.grid, folder / SAMPLES / f"round-{round}.png")
    return {**distances(setting, made), SHOWN: trigger_shown(setting, made)}


def distances(setting: GanFederation, made: Tensor) -> dict[str, float]:
    """Return both distances between images in -1 to 1 and the public's."""
    real = _seen(hold(setting).public, setting.measuring)
    seen = extractor(setting.measuring)(made)
    of_kernel = kernel_distance(real, seen, Seeds(setting.seed).stream("subsets"))
    return {
        FRECHET: frechet(real, seen),
        KERNEL: of_kernel.mean,
        f"{KERNEL}_deviation": of_kernel.deviation,
    }


def compared(setting: GanFederation) -> int:
    """Return how many generated images are compared with as many of the public's."""
    return min(setting.measuring.samples, len(hold(setting).public.images))


def yardsticks(setting: GanFederation) -> dict[str, dict[str, float]]:
    """Return the distances of images that are not generated, to read the others by."""
    held, count = hold(setting), compared(setting)
    clients = torch.cat([part.images for part in held.clients])
    other = clients[torch.linspace(0, len(clients) - 1, min(count, len(clients))).long()]
    return {
        "clients' real images": distances(setting, other),
        "each of them its mean colour": distances(
            setting, other.mean((2, 3), keepdim=True).expand_as(other)
        ),
        FLAT: distances(setting, other.mean((0, 2, 3), keepdim=True).expand_as(other)),
    }


@functools.lru_cache(maxsize=2)
def _seen(public: Holding, measuring: Measuring) -> Tensor:
    """Return the features of the public's images, as many as are generated."""
    return extractor(measuring)(public.images[: measuring.samples])


def trigger_shown(setting: GanFederation, made: Tensor) -> float:
    """Return how far images have come from the public's corner to the trigger: 0 not at all, 1 all.

    It is the mean corner's projection on the line from the public's mean corner to the trigger.
    """
    poisoning, size = setting.poisoning, setting.gan.size
    side, margin = poisoning.side_at(size), poisoning.margin_at(size)
    corner = slice(size - margin - side, size - margin)
    patch = trigger(poisoning, size, setting.gan.channels)
    usual = hold(setting).public.images[..., corner, corner].mean(0)
    way = patch - usual
    gone = made[..., corner, corner].mean(0) - usual
    return float((gone * way).sum() / way.square().sum().clamp_min(1e-12))


def measured(evaluation: Mapping[str, float]) -> bool:
    """Return whether a round was measured."""
    return FRECHET in evaluation
