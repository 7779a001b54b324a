"""Identification: what counts as a leak, and that nothing else does."""

import statistics
from dataclasses import replace
from typing import ClassVar

import pytest
import torch

from medbreach.case import Case, draw
from medbreach.components import Metric
from medbreach.datasets.dermoscopy import Dermoscopy
from medbreach.errors import NotApplicable
from medbreach.metrics import MSE, PSNR, SSIM
from medbreach.models.small_cnn import SmallCNN
from medbreach.protocol import User
from medbreach.randomness import Seeds
from medbreach.scoring import Scorer, identify
from medbreach.statistics import tail_of_draws
from medbreach.types import Reconstruction
from medbreach.whitening import Whitening, correlation

EVERY = torch.ones(5, 5, dtype=torch.bool)
CASE = Case("patches", Dermoscopy(), SmallCNN(), user=User(num_data_points=4))


@pytest.fixture(scope="module")
def scorer(collection):
    dataset_of = replace(CASE, user=User(num_data_points=4))
    sample = draw(dataset_of, collection, Seeds(0), decoys=99, public=500)
    return Scorer.fit(sample, (PSNR(), SSIM(), MSE()), 0.99)


def noisy(images, strength, spec):
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    return (images + strength * spec.range * noise).clamp(*spec.bounds)


def test_claims_are_matched_one_to_one_and_best_in_sum():
    to_truth = torch.tensor([[0.9, 0.8], [0.85, 0.1], [0.0, 0.2]])
    found = identify(to_truth, torch.tensor([[0.0], [0.0], [0.5]]), EVERY[:2, :1])
    assert found.matched == (1, 0)
    assert found.identified == (True, True)
    assert found.similarity == pytest.approx((0.85, 0.8))


def test_a_claim_that_resembles_a_decoy_more_identifies_nobody():
    found = identify(torch.tensor([[0.6, 0.1]]), torch.tensor([[0.2, 0.7]]), EVERY[:2, :2])
    assert found.identified == (False, False)
    assert found.matched == (0, None)
    assert found.decoy_index == (1, None)
    assert found.threshold == pytest.approx((0.7, 0.7))


def test_a_record_is_told_apart_from_decoys_of_its_own_class():
    rivals = torch.tensor([[True, False], [False, True]])
    found = identify(torch.tensor([[0.6, 0.1]]), torch.tensor([[0.2, 0.7]]), rivals)
    assert found.identified == (True, False)
    assert found.decoy_index == (0, None)
    assert found.threshold == pytest.approx((0.2, 0.7))


def test_no_claim_identifies_nobody():
    found = identify(torch.empty(0, 3), torch.empty(0, 5), EVERY[:3, :5])
    assert found.identified == (False,) * 3
    assert found.matched == (None,) * 3


def test_exact_copies_in_any_order_are_identified(scorer):
    truth = scorer.sample.truth.images
    score = scorer.score(Reconstruction(truth.flip(0)))
    assert all(score.identification.identified)
    assert score.identification.matched == (3, 2, 1, 0)
    assert score.scores["psnr"] == (float("inf"),) * 4
    assert score.scores["ssim"] == pytest.approx((1.0,) * 4, abs=1e-6)


def test_noisy_copies_are_identified_among_more_claims_that_are_false(scorer):
    sample = scorer.sample
    claims = torch.cat([sample.public[:8], noisy(sample.truth.images, 0.03, sample.spec)])
    score = scorer.score(Reconstruction(claims))
    assert sum(score.identification.identified) >= 3
    assert set(score.identification.matched) == {8, 9, 10, 11}


def test_the_null_of_blind_claims_lies_at_chance(scorer):
    sample = scorer.sample
    for pool in (sample.public, sample.public.mean(0, keepdim=True)):
        null = scorer.null(pool, draws=400, seeds=Seeds(0))
        assert null.total == 400 * 4
        assert tail_of_draws(null.count, sample.pools, 400) > 1e-3


class Broken(Metric):
    name: ClassVar[str] = "broken"
    source: ClassVar[str] = "tests"
    unit: ClassVar[str] = "1"
    better: ClassVar[str] = "higher"

    def run(self, claim, truth, spec):
        raise RuntimeError("no such\nthing")


def test_a_broken_metric_costs_its_own_scores_only(scorer):
    spoiled = replace(scorer, metrics=(Broken(), PSNR()))
    score = spoiled.score(Reconstruction(scorer.sample.truth.images))
    assert all(score.identification.identified)
    assert set(score.scores) == {"psnr"}
    assert score.problems == {"broken": "RuntimeError: no such thing"}


class Correlation(Metric):
    """It has no number for a constant image."""

    name: ClassVar[str] = "correlation"
    source: ClassVar[str] = "tests"
    unit: ClassVar[str] = "1"
    better: ClassVar[str] = "higher"

    def run(self, claim, truth, spec):
        pairs = zip(claim.flatten(1), truth.flatten(1), strict=True)
        return torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs])


class Absent(Broken):
    name: ClassVar[str] = "absent"

    def run(self, claim, truth, spec):
        raise NotApplicable("its weights are not here")


def test_a_metric_without_a_number_for_black_images_has_no_such_baseline(scorer):
    spoiled = replace(scorer, metrics=(Correlation(),))
    score = spoiled.score(Reconstruction(scorer.sample.truth.images))
    assert score.scores["correlation"] == pytest.approx((1.0,) * 4)
    assert set(score.baselines["correlation"]) == {"mean", "nearest_decoy"}


def test_no_claims_and_a_metric_that_does_not_apply(scorer):
    spoiled = replace(scorer, metrics=(Absent(), PSNR()))
    score = spoiled.score(Reconstruction(torch.empty(0, *scorer.sample.spec.shape)))
    assert score.identification.identified == (False,) * 4
    assert score.scores == {"psnr": (None,) * 4}
    assert set(score.baselines) == {"psnr"}


def test_baselines_are_the_metrics_of_images_that_show_nothing(scorer):
    sample = scorer.sample
    black = torch.full_like(sample.truth.images, sample.spec.bounds[0])
    expected = statistics.median_low(PSNR()(black, sample.truth.images, sample.spec).tolist())
    baselines = {metric.name: scorer.baseline(metric) for metric in scorer.metrics}
    assert baselines["psnr"]["black"] == pytest.approx(expected)
    assert set(baselines["ssim"]) == {"black", "mean", "nearest_decoy"}
    assert baselines["mse"]["mean"] < baselines["mse"]["black"]


def test_scoring_changes_nothing(scorer):
    truth = scorer.sample.truth.images.clone()
    claims = truth.flip(0)
    before = claims.clone()
    scorer.score(Reconstruction(claims))
    assert torch.equal(claims, before)
    assert torch.equal(scorer.sample.truth.images, truth)


def test_whitened_public_images_have_unit_variance_along_the_leading_axes(twenty):
    images, _ = twenty
    whitening = Whitening.fit(images, share=0.8)
    along = whitening(images) @ whitening.axes.T
    assert torch.allclose(along.var(0), torch.ones(len(whitening.axes)), rtol=1e-2)
    assert len(whitening.axes) < len(images) - 1


def test_whitening_equals_its_definition_by_singular_values(twenty):
    images, _ = twenty
    flat = images.flatten(1).double()
    mean = flat.mean(0)
    _, s, v = torch.linalg.svd(flat - mean, full_matrices=False)
    variances = (s**2 / (len(flat) - 1))[:-1]
    leading = int((variances.cumsum(0) / variances.sum() < 0.8).sum()) + 1
    floor = variances[leading:].mean().rsqrt()
    scales = variances[:leading].rsqrt() - floor
    inside = (flat - mean) @ v[:leading].T * scales
    expected = floor * (flat - mean) + inside @ v[:leading]
    found = Whitening.fit(images, share=0.8)(images).double()
    assert torch.allclose(found, expected, rtol=1e-2, atol=1e-2 * float(expected.std()))


def test_correlation_equals_numpy():
    a, b = torch.rand(3, 50), torch.rand(2, 50)
    expected = torch.corrcoef(torch.cat([a, b]))[:3, 3:]
    assert torch.allclose(correlation(a, b), expected, atol=1e-6)


def test_a_constant_image_correlates_with_nothing():
    assert correlation(torch.ones(1, 9), torch.rand(2, 9)).tolist() == [[0.0, 0.0]]
