"""PSNR, SSIM and MSE against scikit-image and torchmetrics, on real images in 2D and 3D."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import structural_similarity_index_measure

from medbreach.datasets.brain_mr import BrainMR
from medbreach.errors import NotApplicable
from medbreach.metrics import LPIPS, MSE, PSNR, SSIM, NormalisedMSE
from medbreach.metrics.ssim import pairwise_ssim
from medbreach.types import ImageSpec


@pytest.fixture
def pairs(twenty):
    """Ten images, ten noisy copies of other strength each, and their spec."""
    images, spec = twenty
    truth = images[:10]
    strength = torch.linspace(0.01, 0.3, 10).reshape(-1, *[1] * (images.ndim - 1))
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    claim = (truth + spec.range * strength * noise).clamp(*spec.bounds)
    return claim, truth, spec


def by_scikit_image(function, claim, truth, spec, **settings):
    return [
        function(
            a.numpy().astype(float), b.numpy().astype(float), data_range=spec.range, **settings
        )
        for a, b in zip(truth, claim, strict=True)
    ]


def test_psnr_equals_scikit_image(pairs):
    expected = by_scikit_image(peak_signal_noise_ratio, *pairs)
    assert PSNR()(*pairs).tolist() == pytest.approx(expected, rel=1e-5)


def test_mse_is_the_mean_of_squares(pairs):
    claim, truth, spec = pairs
    expected = [
        float(((a - b).numpy().astype(float) ** 2).mean())
        for a, b in zip(claim, truth, strict=True)
    ]
    assert MSE()(*pairs).tolist() == pytest.approx(expected, rel=1e-5)
    scaled = replace(spec, mean=(0.2,) * spec.channels, std=(0.5 * spec.range,) * spec.channels)
    in_deviations = [e / (0.5 * spec.range) ** 2 for e in expected]
    assert NormalisedMSE()(claim, truth, scaled).tolist() == pytest.approx(in_deviations, rel=1e-4)


def test_ssim_equals_scikit_image(pairs):
    spec = pairs[2]
    # Blocks are thinner than the Gaussian window: scikit-image's uniform one, 7 wide, then serves.
    window = {"gaussian_weights": True, "sigma": 1.5} if min(spec.space) >= 11 else {"win_size": 7}
    expected = by_scikit_image(
        structural_similarity, *pairs, channel_axis=0, use_sample_covariance=False, **window
    )
    assert SSIM()(*pairs).tolist() == pytest.approx(expected, abs=1e-5)


def test_ssim_of_volumes_has_a_window_in_three_dimensions():
    collection = BrainMR(space=(16, 24, 24)).open()
    truth, spec = collection.images(range(4)), collection.spec
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    claim = (truth + 0.1 * spec.range * noise).clamp(*spec.bounds)
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = by_scikit_image(structural_similarity, claim, truth, spec, channel_axis=0, **window)
    assert SSIM()(claim, truth, spec).tolist() == pytest.approx(expected, abs=1e-5)
    by_slice = [
        float(
            SSIM()(
                a.movedim(1, 0), b.movedim(1, 0), replace(spec, space=(24, 24), spacing=None)
            ).mean()
        )
        for a, b in zip(claim, truth, strict=True)
    ]
    assert np.abs(np.subtract(by_slice, expected)).min() > 1e-3


def test_ssim_equals_torchmetrics(patches):
    volumes = BrainMR(space=(16, 24, 24)).open()
    for collection in (patches, volumes):
        truth, spec = collection.images(range(4)), collection.spec
        claim = truth.roll(1, dims=3)
        _, everywhere = structural_similarity_index_measure(
            *(claim - spec.bounds[0], truth - spec.bounds[0]),
            **{"sigma": 1.5, "data_range": spec.range, "return_full_image": True},
        )
        inside = everywhere[(..., *[slice(5, -5)] * len(spec.space))]  # windows over no edge
        expected = inside.flatten(1).mean(1).tolist()
        assert SSIM()(claim, truth, spec).tolist() == pytest.approx(expected, abs=1e-4)


def test_every_pair_of_images_has_the_same_ssim_as_alone(pairs):
    claim, truth, spec = pairs
    matrix = pairwise_ssim(claim[:3], truth[:4], spec)
    alone = [[float(SSIM()(a[None], b[None], spec)) for b in truth[:4]] for a in claim[:3]]
    assert np.allclose(matrix, alone, atol=1e-6)


def test_a_copy_scores_best(pairs):
    _, truth, spec = pairs
    assert all(math.isinf(v) for v in PSNR()(truth, truth, spec).tolist())
    assert SSIM()(truth, truth, spec).tolist() == pytest.approx([1.0] * 10, abs=1e-6)
    assert not MSE()(truth, truth, spec).any()


def test_ssim_says_where_it_is_undefined():
    spec = ImageSpec(1, (2, 8))
    image = torch.rand(1, 1, 2, 8)
    with pytest.raises(NotApplicable, match="at least 3 pixels"):
        SSIM()(image, image, spec)
    assert pairwise_ssim(image, image, spec).tolist() == [[-1.0]]


def test_lpips_is_absent_with_a_reason(blocks, patches, monkeypatch, tmp_path):
    block, patch = blocks.images([0]), patches.images([0])
    with pytest.raises(NotApplicable, match="2D only"):
        LPIPS()(block, block, blocks.spec)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(NotApplicable, match="lpips weights are not at"):
        LPIPS()(patch, patch, patches.spec)
