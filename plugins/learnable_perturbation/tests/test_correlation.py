"""Pearson's correlation against other implementations, its gradient, and where it is undefined."""

import numpy as np
import pytest
import torch
from scipy import stats

from medbreach.testing import tiny_sample
from medbreach_learnable_perturbation.correlation import correlation


@pytest.mark.parametrize("form", [((16, 16), 3), ((8, 16, 16), 1)], ids=str)
def test_it_is_pearsons_of_each_image(form):
    images = tiny_sample(*form).public[:4]
    others = images.roll(1, 0)
    expected = [
        stats.pearsonr(a.flatten().numpy(), b.flatten().numpy()).statistic
        for a, b in zip(images, others, strict=True)
    ]
    assert correlation(images, others).numpy() == pytest.approx(np.array(expected), abs=1e-5)


def test_scale_and_shift_do_not_count():
    images = tiny_sample().public[:3]
    assert correlation(images, 5 * images - 2).tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    assert correlation(images, -images / 5).tolist() == pytest.approx([-1, -1, -1], abs=1e-5)


def test_the_gradient_is_the_derivative():
    a, b = torch.randn(2, 2, 1, 3, 4, dtype=torch.double).requires_grad_().unbind()
    assert torch.autograd.gradcheck(correlation, (a, b))


def test_a_constant_image_correlates_with_nothing():
    constant = torch.ones(1, 1, 4, 4, requires_grad=True)
    found = correlation(constant, torch.arange(16.0).reshape(1, 1, 4, 4))
    assert found.tolist() == [0.0]
    assert torch.autograd.grad(found.sum(), constant)[0].isfinite().all()
