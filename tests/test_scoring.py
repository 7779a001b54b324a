"""Identification: what counts as a leak, and that nothing else does."""

from dataclasses import replace

import pytest
import torch

from medbreach.case import Case, draw
from medbreach.datasets.dermoscopy import Dermoscopy
from medbreach.metrics import MSE, PSNR, SSIM
from medbreach.models.small_cnn import SmallCNN
from medbreach.protocol import User
from medbreach.randomness import Seeds
from medbreach.scoring import Scorer, identify
from medbreach.statistics import binomial_tail
from medbreach.types import Reconstruction
from medbreach.whitening import Whitening, correlation

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
    found = identify(to_truth, torch.tensor([[0.0], [0.0], [0.5]]))
    assert found.matched == (1, 0)
    assert found.identified == (True, True)
    assert found.similarity == pytest.approx((0.85, 0.8))


def test_a_claim_that_resembles_a_decoy_more_identifies_nobody():
    found = identify(torch.tensor([[0.6, 0.1]]), torch.tensor([[0.2, 0.7]]))
    assert found.identified == (False, False)
    assert found.matched == (0, None)
    assert found.decoy_index == (1, None)


def test_no_claim_identifies_nobody():
    found = identify(torch.empty(0, 3), torch.empty(0, 5))
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


def test_brightness_alone_identifies_by_mean_squared_error_but_hardly_by_the_headline(patches):
    sample = draw(CASE, patches, Seeds(0), decoys=99, public=500)
    scorer = Scorer.fit(sample, (), 0.99)
    shown = sample.truth.images
    mean_colour = shown.mean((2, 3), keepdim=True).expand_as(shown).clone()
    score = scorer.score(Reconstruction(mean_colour))
    assert score.identified_by["mse"] > sum(score.identification.identified)


@pytest.mark.parametrize("kind", ["mean", "random"])
def test_blind_claims_identify_as_rarely_as_chance_says(scorer, kind):
    null = scorer.null(kind, draws=400, seeds=Seeds(0))
    assert null.total == 400 * 4
    assert binomial_tail(null.count, null.total, scorer.chance) > 1e-3


def test_many_blind_claims_identify_no_more_than_chance(scorer):
    """A server that claims hundreds of images gains nothing by it."""
    likeness = scorer.likeness(scorer.sample.public)
    rng = torch.Generator().manual_seed(0)
    count, draws = 0, 300
    for _ in range(draws):
        drawn = likeness[:, torch.randperm(likeness.shape[1], generator=rng)]
        count += sum(identify(drawn[:, :4], drawn[:, 4:]).identified)
    assert binomial_tail(count, 4 * draws, scorer.chance) > 1e-3


def test_baselines_are_the_metrics_of_images_that_show_nothing(scorer):
    sample = scorer.sample
    black = torch.full_like(sample.truth.images, sample.spec.bounds[0])
    expected = float(PSNR()(black, sample.truth.images, sample.spec).median())
    baselines = scorer.baselines()
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
