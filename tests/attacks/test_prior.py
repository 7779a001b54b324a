"""Public images as a Gaussian prior, against closed forms and on real patches."""

import math

import pytest
import torch

from medbreach.attacks.prior import Prior
from medbreach.datasets.dermoscopy import Dermoscopy


@pytest.fixture(scope="module")
def patches():
    """Patches of 150 lesions for the public, and of 20 others."""
    collection = Dermoscopy().open()
    return collection.images(tuple(range(0, 1500, 5))), collection.images(
        tuple(range(1700, 1900, 10))
    )


def error(images, truth):
    return float((images - truth).square().mean())


def test_it_is_the_posterior_mean_of_a_gaussian():
    """Along the only axis, of variance v, noise s leaves v / (v + s^2) of the deviation."""
    rng = torch.Generator().manual_seed(0)
    axis = torch.tensor([0.6, 0.8, 0.0, 0.0])
    public = 2 + 3 * torch.randn(2000, 1, generator=rng) * axis
    public = public + 0.01 * torch.randn(2000, 4, generator=rng)
    prior = Prior.fit(public)
    image = (2 + 5 * axis)[None]
    restored = prior.restore(image, torch.tensor([2.0]))
    wanted = prior.mean + 5 * 9 / (9 + 4) * axis
    assert torch.allclose(restored[0], wanted, atol=0.25)
    assert torch.allclose(prior.restore(image, torch.tensor([0.0])), image, atol=1e-3)


def test_what_is_missing_is_filled_in_from_what_is_seen():
    rng = torch.Generator().manual_seed(0)
    amount = torch.randn(500, 1, generator=rng)
    public = amount * torch.ones(1, 6) + 0.05 * torch.randn(500, 6, generator=rng)
    noise = torch.tensor([[0.0, 0.0, math.inf, math.inf, math.inf, math.inf]])
    restored = Prior.fit(public).restore(torch.tensor([[1.5, 1.5, 9.0, 9.0, 9.0, 9.0]]), noise)
    assert torch.allclose(restored, torch.full((1, 6), 1.5), atol=0.15)


def test_of_what_nothing_was_seen_is_the_mean():
    public = torch.randn(20, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    prior = Prior.fit(public)
    restored = prior.restore(torch.full((1, 1, 4, 4), 9.0), torch.full((1, 16), math.inf))
    assert torch.equal(restored, prior.mean.reshape(1, 1, 4, 4))


@pytest.mark.parametrize("noise", [0.1, 0.5, 2.0])
def test_noise_is_estimated_and_taken_off_real_images(patches, noise):
    public, private = patches
    prior = Prior.fit(public)
    noisy = private + noise * torch.randn(private.shape, generator=torch.Generator().manual_seed(1))
    assert prior.noise_of(noisy).mean().item() == pytest.approx(noise, rel=0.15)
    mean = prior.mean.reshape(private.shape[1:]).expand_as(private)
    restored = prior.restore(noisy)
    assert error(restored, private) < error(noisy, private) / 5
    assert error(restored, private) < error(mean, private) / 1.2, "and it is more than the mean"


def test_what_has_no_noise_stays_as_it_is(patches):
    public, private = patches
    restored = Prior.fit(public).restore(private, torch.zeros(len(private)))
    assert error(restored, private) < 1e-10


def test_the_evidence_tells_amounts_and_noise(patches):
    """Rows that hold a third of an image, or nothing."""
    public, private = patches
    flat = private.flatten(1)
    prior = Prior.fit(public)
    rng = torch.Generator().manual_seed(2)
    rows = torch.cat([flat[:5] / 3, -flat[5:8], torch.zeros(4, flat.shape[1])])
    rows = rows + 0.02 * torch.randn(rows.shape, generator=rng)
    amounts = torch.tensor([0.0, 1 / 30, 1 / 3, 1.0, 3.0, -1.0]).expand(len(rows), -1)
    likely = prior.evidence(rows, amounts, 0.02)
    assert likely.argmax(1).tolist() == [2] * 5 + [5] * 3 + [0] * 4


def test_the_evidence_is_the_density_of_the_gaussian():
    rng = torch.Generator().manual_seed(0)
    public = torch.randn(400, 5, generator=rng) * torch.tensor([3.0, 2.0, 0.5, 0.5, 0.5]) + 1
    prior, noise, amount = Prior.fit(public), 0.7, 1.6
    covariance = prior.axes.T @ torch.diag(prior.variances - prior.floor) @ prior.axes
    covariance = covariance + prior.floor * torch.eye(5)
    density = torch.distributions.MultivariateNormal(
        (amount * prior.mean).double(),
        (amount**2 * covariance + noise**2 * torch.eye(5)).double(),
    )
    rows = torch.randn(3, 5, generator=rng)
    found = prior.evidence(rows, torch.full((3, 1), amount), noise)[:, 0]
    wanted = density.log_prob(rows.double()) + 5 / 2 * math.log(2 * math.pi)
    assert torch.allclose(found, wanted, rtol=1e-4)
