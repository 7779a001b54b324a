"""Claims against the truth: who is identified, and how good the likeness is."""

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from medbreach.case import Sample
from medbreach.components import Metric
from medbreach.errors import ContractError, NotApplicable
from medbreach.metrics.ssim import pairwise_ssim
from medbreach.randomness import Seeds
from medbreach.statistics import middle, wilson
from medbreach.text import in_a_line
from medbreach.types import ImageSpec, Rate, Reconstruction
from medbreach.whitening import Whitening, correlation

log = logging.getLogger(__name__)

SSIM_BUDGET = 10**8  # intensities to compare: some seconds on two cores

Likeness = Float[Tensor, "claims images"]


class Identification(NamedTuple):
    """Which records the claims give away.

    Attributes:
        matched: For each record, its claim, or None; no claim serves two records.
        identified: For each record, whether its claim resembles it more than any claim resembles
            any decoy of its class.
        similarity: For each record, the likeness of its claim, or None.
        nearest_decoy: For each record, its claim's likeness to the nearest such decoy, or None.
        decoy_index: For each record, which decoy that is, or None.
        threshold: For each record, the highest likeness of any claim to any such decoy, or None.
    """

    matched: tuple[int | None, ...]
    identified: tuple[bool, ...]
    similarity: tuple[float | None, ...]
    nearest_decoy: tuple[float | None, ...]
    decoy_index: tuple[int | None, ...]
    threshold: tuple[float | None, ...]


def identify(
    to_truth: Float[Tensor, "claims records"],
    to_decoys: Float[Tensor, "claims decoys"],
    rivals: Bool[Tensor, "records decoys"],
) -> Identification:
    """Match claims to records one to one and tell which records are identified.

    Records and decoys of a class are treated alike but for the matching, which can only take hits
    away. So if the claims are independent of the records, each record is identified with
    probability at most ``1 / (its decoys + 1)``, whatever the number of claims.

    Args:
        to_truth: Likeness of each claim to each record.
        to_decoys: Likeness of each claim to each decoy.
        rivals: Which decoys each record is told apart from; at least one each.
    """
    records = to_truth.shape[1]
    nobody = (None,) * records
    if not len(to_truth):
        return Identification(nobody, (False,) * records, nobody, nobody, nobody, nobody)
    pairs = linear_sum_assignment(to_truth.numpy(), maximize=True)
    claim_of: dict[int, int] = {int(j): int(i) for i, j in zip(*pairs, strict=True)}
    matched = tuple(claim_of.get(j) for j in range(records))
    similarity = tuple(None if i is None else float(to_truth[i, j]) for j, i in enumerate(matched))
    lowest = to_decoys.new_tensor(-torch.inf)
    to_rivals = torch.where(rivals[:, None], to_decoys[None], lowest)  # records, claims, decoys
    threshold = to_rivals.flatten(1).max(1).values.tolist()
    nearest = [None if i is None else to_rivals[j, i].max(0) for j, i in enumerate(matched)]
    return Identification(
        matched=matched,
        identified=tuple(
            s is not None and s > t for s, t in zip(similarity, threshold, strict=True)
        ),
        similarity=similarity,
        nearest_decoy=tuple(None if n is None else float(n.values) for n in nearest),
        decoy_index=tuple(None if n is None else int(n.indices) for n in nearest),
        threshold=tuple(threshold),
    )


class Score(NamedTuple):
    """Everything that scoring says about one reconstruction; fields as in `Finding`.

    Attributes:
        problems: Why a metric has no scores, by its name, where it failed.
    """

    identification: Identification
    scores: Mapping[str, tuple[float | None, ...]]
    baselines: Mapping[str, Mapping[str, float]]
    identified_by: Mapping[str, int]
    problems: Mapping[str, str]


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
        found = identify(likeness[:, :records], likeness[:, records:], self.sample.rivals)
        paired = [(i, j) for j, i in enumerate(found.matched) if i is not None]
        claims = claim.images[[i for i, _ in paired]]
        shown = truth[[j for _, j in paired]]
        scores: dict[str, tuple[float | None, ...]] = {}
        baselines, problems = {}, {}
        for metric in self.metrics:
            try:
                values = metric(claims, shown, self.sample.spec).tolist()
                baselines[metric.name] = self.baseline(metric)
            except NotApplicable:
                continue
            except Exception as error:  # a broken description must not cost the attack's claims
                log.debug("%s failed", metric.name, exc_info=True)
                problems[metric.name] = in_a_line(error)
                continue
            by_record = dict(zip([j for _, j in paired], values, strict=True))
            scores[metric.name] = tuple(by_record.get(j) for j in range(records))
        return Score(found, scores, baselines, self._identified_by(claim.images), problems)

    def baseline(self, metric: Metric) -> Mapping[str, float]:
        """Return the median score of images that show nothing of a record.

        ``black``: least intensity everywhere; ``mean``: the mean public image; ``nearest_decoy``:
        for each record, the decoy with the least mean squared error. One that the metric has no
        number for is absent.

        Raises:
            NotApplicable: The metric does not work on such images.
        """
        truth, spec = self.sample.truth.images, self.sample.spec
        mse = torch.cdist(truth.flatten(1), self.sample.decoys.flatten(1))
        nothing = {
            "black": torch.full_like(truth, spec.bounds[0]),
            "mean": self.sample.public.mean(0).expand_as(truth),
            "nearest_decoy": self.sample.decoys[mse.argmin(1)],
        }
        found = {}
        for name, image in nothing.items():
            with contextlib.suppress(ContractError):
                found[name] = middle(metric(image, truth, spec).tolist(), metric.better)
        return found

    def null(self, pool: Float[Tensor, "pool channels *space"], draws: int, seeds: Seeds) -> Rate:
        """Return how often blind claims identify a record, over many draws.

        Each draw deals the parts of record and decoy anew among the images of each class.

        Args:
            pool: Images made without the update; each draw claims as many as there are records,
                or all of them if there are fewer.
            draws: Number of draws.
            seeds: The attempt's seeds.
        """
        rng = seeds.stream("null")
        sample, records = self.sample, len(self.sample.truth.labels)
        likeness = self.likeness(pool)
        groups = torch.cat([sample.groups, sample.decoy_groups])
        members = [(groups == group).nonzero().flatten() for group in set(sample.groups.tolist())]
        count = 0
        for _ in range(draws):
            rows = torch.randperm(len(pool), generator=rng)[:records]
            columns = torch.arange(len(groups))
            for own in members:
                columns[own] = own[torch.randperm(len(own), generator=rng)]
            drawn = likeness[rows][:, columns]
            found = identify(drawn[:, :records], drawn[:, records:], sample.rivals)
            count += sum(found.identified)
        return wilson(count, draws * records)

    def _identified_by(self, claims: Tensor) -> Mapping[str, int]:
        images = torch.cat([self.sample.truth.images, self.sample.decoys])
        records = len(self.sample.truth.labels)
        found = {}
        for name, likeness in OTHER_LIKENESSES.items():
            if name == "ssim" and len(claims) * images.numel() > SSIM_BUDGET:
                continue
            s = likeness(claims, images, self.sample.spec)
            told = identify(s[:, :records], s[:, records:], self.sample.rivals)
            found[name] = sum(told.identified)
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
