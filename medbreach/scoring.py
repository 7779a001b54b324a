"""Claims against the truth: who is identified, and how good the likeness is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from medbreach.case import Sample
from medbreach.components import Metric
from medbreach.errors import NotApplicable
from medbreach.metrics.ssim import pairwise_ssim
from medbreach.randomness import Seeds
from medbreach.statistics import chance, wilson
from medbreach.types import ImageSpec, Rate, Reconstruction
from medbreach.whitening import Whitening, correlation

SSIM_BUDGET = 10**9  # intensities to compare: about half a minute on two cores

Likeness = Float[Tensor, "claims images"]


class Identification(NamedTuple):
    """Which records the claims give away.

    Attributes:
        matched: For each record, its claim, or None; no claim serves two records.
        identified: For each record, whether its claim resembles it more than any claim resembles
            any decoy.
        similarity: For each record, the likeness of its claim, or None.
        nearest_decoy: For each record, the likeness of its claim to the nearest decoy, or None.
        decoy_index: For each record, which decoy that is, or None.
    """

    matched: tuple[int | None, ...]
    identified: tuple[bool, ...]
    similarity: tuple[float | None, ...]
    nearest_decoy: tuple[float | None, ...]
    decoy_index: tuple[int | None, ...]


def identify(
    to_truth: Float[Tensor, "claims records"], to_decoys: Float[Tensor, "claims decoys"]
) -> Identification:
    """Match claims to records one to one and tell which records are identified.

    Records and decoys are treated alike but for the matching, which can only take hits away. So if
    the claims are independent of the records, each record is identified with probability at most
    ``1 / (decoys + 1)``, whatever the number of claims.
    """
    records = to_truth.shape[1]
    pairs = linear_sum_assignment(to_truth.numpy(), maximize=True)
    claim_of: dict[int, int] = {int(j): int(i) for i, j in zip(*pairs, strict=True)}
    best_decoy = float(to_decoys.max()) if to_decoys.numel() else float("inf")
    matched = tuple(claim_of.get(j) for j in range(records))
    similarity = tuple(None if i is None else float(to_truth[i, j]) for j, i in enumerate(matched))
    return Identification(
        matched=matched,
        identified=tuple(s is not None and s > best_decoy for s in similarity),
        similarity=similarity,
        nearest_decoy=tuple(None if i is None else float(to_decoys[i].max()) for i in matched),
        decoy_index=tuple(None if i is None else int(to_decoys[i].argmax()) for i in matched),
    )


class Score(NamedTuple):
    """Everything that scoring says about one reconstruction; fields as in `Finding`."""

    identification: Identification
    scores: Mapping[str, tuple[float | None, ...]]
    baselines: Mapping[str, Mapping[str, float]]
    identified_by: Mapping[str, int]


@dataclass(frozen=True)
class Scorer:
    """Scores reconstructions of one sample; fitted on its public images, before any attack.

    Attributes:
        sample: The images of the attempt.
        metrics: Scores of likeness to describe each matched claim by.
        whitening: The map behind the likeness that decides.
        gallery: The records and then the decoys, whitened.
    """

    sample: Sample
    metrics: tuple[Metric, ...]
    whitening: Whitening
    gallery: Float[Tensor, "images voxels"]

    @classmethod
    def fit(cls, sample: Sample, metrics: Sequence[Metric], share: float) -> "Scorer":
        """Return a scorer for a sample.

        Args:
            sample: The images of the attempt.
            metrics: Descriptive scores.
            share: Share of public variance that the whitened axes hold.
        """
        whitening = Whitening.fit(sample.public, share)
        gallery = whitening(torch.cat([sample.truth.images, sample.decoys]))
        return cls(sample, tuple(metrics), whitening, gallery)

    def likeness(self, claims: Float[Tensor, "claims channels *space"]) -> Likeness:
        """Return the whitened correlation of each claim with each record and decoy."""
        return correlation(self.whitening(claims), self.gallery)

    def score(self, claim: Reconstruction) -> Score:
        """Score one reconstruction."""
        truth = self.sample.truth.images
        records = len(truth)
        likeness = self.likeness(claim.images)
        found = identify(likeness[:, :records], likeness[:, records:])
        paired = [(i, j) for j, i in enumerate(found.matched) if i is not None]
        scores: dict[str, tuple[float | None, ...]] = {}
        for metric in self.metrics:
            try:
                values = metric(
                    claim.images[[i for i, _ in paired]],
                    truth[[j for _, j in paired]],
                    self.sample.spec,
                )
            except NotApplicable:
                continue
            by_record = dict(zip([j for _, j in paired], values.tolist(), strict=True))
            scores[metric.name] = tuple(by_record.get(j) for j in range(records))
        return Score(found, scores, self.baselines(), self._identified_by(claim.images))

    def baselines(self) -> Mapping[str, Mapping[str, float]]:
        """Return the median score of images that show nothing of a record.

        ``black``: least intensity everywhere; ``mean``: the mean public image; ``nearest_decoy``:
        for each record, the decoy with the least mean squared error.
        """
        truth, spec = self.sample.truth.images, self.sample.spec
        mse = torch.cdist(truth.flatten(1), self.sample.decoys.flatten(1))
        nothing = {
            "black": torch.full_like(truth, spec.bounds[0]),
            "mean": self.sample.public.mean(0).expand_as(truth),
            "nearest_decoy": self.sample.decoys[mse.argmin(1)],
        }
        found: dict[str, dict[str, float]] = {}
        for metric in self.metrics:
            try:
                found[metric.name] = {
                    name: float(metric(image, truth, spec).median())
                    for name, image in nothing.items()
                }
            except NotApplicable:
                continue
        return found

    def null(self, kind: str, draws: int, seeds: Seeds) -> Rate:
        """Return how often blind claims identify a record, over many draws.

        Each draw deals the parts of truth and decoys anew among the same images, so that the
        expectation under blindness is the chance level itself.

        Args:
            kind: ``"random"``: as many random public images as there are records; ``"mean"``: the
                mean public image.
            draws: Number of draws.
            seeds: The attempt's seeds.
        """
        rng = seeds.stream(f"null/{kind}")
        public, records = self.sample.public, len(self.sample.truth.labels)
        claims = public.mean(0, keepdim=True) if kind == "mean" else public
        likeness = self.likeness(claims)
        count = 0
        for _ in range(draws):
            rows = torch.randperm(len(claims), generator=rng)[:records]
            columns = torch.randperm(likeness.shape[1], generator=rng)
            drawn = likeness[rows][:, columns]
            count += sum(identify(drawn[:, :records], drawn[:, records:]).identified)
        return wilson(count, draws * records)

    @property
    def chance(self) -> float:
        """Probability that blind claims identify a given record."""
        return chance(len(self.sample.decoys))

    def _identified_by(self, claims: Tensor) -> Mapping[str, int]:
        images = torch.cat([self.sample.truth.images, self.sample.decoys])
        records = len(self.sample.truth.labels)
        found = {}
        for name, likeness in OTHER_LIKENESSES.items():
            if name == "ssim" and len(claims) * images.numel() > SSIM_BUDGET:
                continue
            s = likeness(claims, images, self.sample.spec)
            found[name] = sum(identify(s[:, :records], s[:, records:]).identified)
        return found


def _negative_mse(claims: Tensor, images: Tensor, spec: ImageSpec) -> Likeness:
    del spec
    return -torch.cdist(claims.flatten(1), images.flatten(1))


def _correlation(claims: Tensor, images: Tensor, spec: ImageSpec) -> Likeness:
    del spec
    return correlation(claims.flatten(1), images.flatten(1))


OTHER_LIKENESSES: Mapping[str, Callable[[Tensor, Tensor, ImageSpec], Likeness]] = {
    "mse": _negative_mse,
    "correlation": _correlation,
    "ssim": pairwise_ssim,
}
"""Likenesses that decide nothing and are reported beside the one that does."""
