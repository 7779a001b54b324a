"""What each variant's tables say, from a trade-off that was carried out."""

import statistics
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from medbreach import Finding, Seeds
from medbreach.plan import UNDEFENDED, is_adaptive
from medbreach.record import Images
from medbreach.record import Line as Recorded
from medbreach.round import honest_network
from medbreach.statistics import wilson
from medbreach.tradeoff.points import Point
from medbreach.tradeoff.run import Tradeoff
from medbreach.types import Rate, Role

ATTACKERS: Final = ("plain", "adaptive")


class Attacked(NamedTuple):
    """What one attacker made of one variant's updates.

    Attributes:
        identified: Records told from their decoys.
        psnr: Mean over records of the PSNR in dB, in image units.
        mse: Mean squared error in image units.
        mse_normalised: The same of normalised images, as published.
        recognised: Reconstructions whose class the clean classifier says.
    """

    identified: Rate
    psnr: float
    mse: float
    mse_normalised: float
    recognised: Rate


class Baseline(NamedTuple):
    """What an image that shows nothing of the record scores.

    Attributes:
        name: What it is.
        psnr: In dB, mean over records.
        mse_normalised: Of normalised images.
        recognised: Images whose class the clean classifier says.
    """

    name: str
    psnr: float
    mse_normalised: float
    recognised: Rate


class Classifier:
    """The network that was trained without defense, by seed: what tells reconstructions' classes.

    Where a seed was not trained for, it is the first one's.
    """

    def __init__(self, made: Tradeoff) -> None:
        self._made = made
        self._networks: dict[int, nn.Module] = {}

    def __call__(self, seed: int, normalised: Tensor) -> Tensor:
        """Return the class of each image."""
        with torch.no_grad():
            classes: Tensor = self._network(seed)(normalised).argmax(1)
        return classes

    def _network(self, seed: int) -> nn.Module:
        trained = self._made.trained_seeds
        seed = seed if seed in trained else trained[0]
        if seed not in self._networks:
            case, sample = self._made.session.plan.case, self._made.session.sample
            network = honest_network(case, sample, Seeds(0))
            file = self._made.weights(UNDEFENDED, seed)
            network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
            self._networks[seed] = network.eval()
        return self._networks[seed]


def attacked(made: Tradeoff, point: Point, classifier: Classifier) -> dict[str, Attacked]:
    """Return what the plain and the adaptive attacker made of a variant."""
    found: dict[str, list[tuple[Finding, Images]]] = {name: [] for name in ATTACKERS}
    for line, images in _recorded(made):
        finding = line.finding
        stack = "+".join(finding.defenses) or UNDEFENDED
        if finding.role is Role.ATTACK and stack == point.stack:
            found[ATTACKERS[is_adaptive(finding.attack)]].append((finding, images))
    return {name: _attacked(some, classifier) for name, some in found.items() if some}


def baselines(made: Tradeoff, classifier: Classifier) -> list[Baseline]:
    """Return what a constant image, uniform noise and the true image score on the same records."""
    batches = [
        (line.finding.seed, images)
        for line, images in _recorded(made)
        if line.finding.role is Role.ATTACK and not line.finding.defenses
    ]
    rng = torch.Generator().manual_seed(0)
    made_up = {
        "constant image (mean of the public's)": _constant,
        "uniform noise": lambda images: _uniform(images, rng),
        "the record itself": lambda images: images.truth,
    }
    return [
        _baseline(name, [(seed, images, make(images)) for seed, images in batches], classifier)
        for name, make in made_up.items()
    ]


def _recorded(made: Tradeoff) -> Iterator[tuple[Recorded, Images]]:
    record = made.run_record()
    for line in record.lines():
        images = record.images(line)
        if images is not None:
            yield line, images


def _attacked(found: Sequence[tuple[Finding, Images]], classifier: Classifier) -> Attacked:
    right = records = 0
    scores: dict[str, list[float]] = {"psnr": [], "mse": [], "mse_normalised": []}
    for finding, images in found:
        for name, values in scores.items():
            values += [s for s in finding.scores.get(name, ()) if s is not None]
        pairs = [(k, m) for k, m in enumerate(finding.matched) if m is not None]
        claims = images.claims[[m for _, m in pairs]]
        said = classifier(finding.seed, images.spec.normalise(claims))
        right += int((said == images.labels[[k for k, _ in pairs]]).sum())
        records += len(images.truth)
    identified = sum(sum(finding.identified) for finding, _ in found)
    means = {name: statistics.fmean(values) if values else 0.0 for name, values in scores.items()}
    return Attacked(wilson(identified, records), **means, recognised=wilson(right, records))


def _baseline(
    name: str, batches: Sequence[tuple[int, Images, Tensor]], classifier: Classifier
) -> Baseline:
    errors, normalised, right, records = [], [], 0, 0
    for seed, images, guess in batches:
        spec, apart = images.spec, guess - images.truth
        errors += (apart / spec.range).square().flatten(1).mean(1).tolist()
        both = spec.normalise(guess) - spec.normalise(images.truth)
        normalised += both.square().flatten(1).mean(1).tolist()
        right += int((classifier(seed, spec.normalise(guess)) == images.labels).sum())
        records += len(images.truth)
    decibels = [-10 * torch.log10(torch.tensor(max(e, 1e-30))).item() for e in errors]
    return Baseline(
        name, statistics.fmean(decibels), statistics.fmean(normalised), wilson(right, records)
    )


def _constant(images: Images) -> Tensor:
    mean = torch.tensor(images.spec.mean, dtype=images.truth.dtype)
    return mean.reshape(1, -1, *[1] * (images.truth.dim() - 2)).expand_as(images.truth)


def _uniform(images: Images, rng: torch.Generator) -> Tensor:
    low, high = images.spec.bounds
    return low + (high - low) * torch.rand(images.truth.shape, generator=rng)
