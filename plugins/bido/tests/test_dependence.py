"""HSIC and COCO: closed forms, an implementation with explicit inverses, and derivatives."""

import pytest
import torch

from medbreach_bido.dependence import (
    EPSILON,
    MEASURES,
    centred,
    gaussian_kernel,
    linear_kernel,
    normalised,
)

TWO_CLASSES = torch.eye(2, dtype=torch.double).repeat_interleave(4, 0)  # four records of each


def dependence(measure, first, second):
    prepare, compare = MEASURES[measure]
    return compare(prepare(first), prepare(second))


def naive_hsic(first, second):
    """The released code's way: centred from the right only, explicit inverses."""
    m = len(first)
    centring = torch.eye(m, dtype=torch.double) - 1 / m
    ridge = EPSILON * m * torch.eye(m, dtype=torch.double)
    a, b = first @ centring, second @ centring
    return torch.trace(a @ torch.inverse(a + ridge) @ b @ torch.inverse(b + ridge))


def naive_coco(first, second):
    m = len(first)
    centring = torch.eye(m, dtype=torch.double) - 1 / m
    return (
        torch.linalg.matrix_norm(centring @ first @ centring @ centring @ second @ centring).sqrt()
        / m
    )


NAIVE = {"hsic": naive_hsic, "coco": naive_coco}


@pytest.fixture
def data():
    rng = torch.Generator().manual_seed(3)
    return torch.randn(8, 5, generator=rng, dtype=torch.double)


@pytest.fixture
def other():
    rng = torch.Generator().manual_seed(4)
    return torch.randn(8, 3, generator=rng, dtype=torch.double)


@pytest.mark.parametrize("measure", MEASURES)
def test_it_is_what_explicit_inverses_give(measure, data, other):
    first, second = gaussian_kernel(data, 1.0), linear_kernel(other)
    found = dependence(measure, first, second)
    assert found.item() == pytest.approx(NAIVE[measure](first, second).item(), rel=1e-7)
    assert found.item() > 0


@pytest.mark.parametrize("measure", MEASURES)
def test_rank_deficient_kernels(measure, data):
    """Two directions in eight records, twice each: the naive inverse still works in double."""
    flat = data[:4, :2].repeat_interleave(2, 0)
    first, second = linear_kernel(flat), linear_kernel(TWO_CLASSES)
    assert torch.linalg.matrix_rank(first) == 2
    found = dependence(measure, first, second)
    assert found.item() == pytest.approx(NAIVE[measure](first, second).item(), rel=1e-6, abs=1e-9)


def test_two_balanced_classes_in_closed_form():
    """The centred kernel of m labels has the one eigenvalue m / 2."""
    labels = linear_kernel(TWO_CLASSES)
    eigenvalues = torch.linalg.eigvalsh(centred(labels))
    assert eigenvalues[-1].item() == pytest.approx(4.0)
    assert eigenvalues[:-1].abs().max() < 1e-12
    assert dependence("hsic", labels, labels).item() == pytest.approx((0.5 / (0.5 + EPSILON)) ** 2)
    assert dependence("coco", labels, labels).item() == pytest.approx(0.5)


def test_a_gaussian_label_kernel_in_closed_form():
    """Records of other classes are 2 apart in squares, so the eigenvalue is m (1 - k) / 2."""
    kernel = gaussian_kernel(TWO_CLASSES, 5.0)
    far = torch.exp(torch.tensor(-2 / (2 * 25 * 2))).item()
    assert kernel[0, -1].item() == pytest.approx(far)
    assert torch.equal(kernel.diagonal(), torch.ones(8, dtype=torch.double))
    assert dependence("coco", kernel, kernel).item() == pytest.approx((1 - far) / 2)


@pytest.mark.parametrize("measure", MEASURES)
def test_crossed_labels_are_independent(measure):
    alternating = torch.eye(2, dtype=torch.double).repeat(4, 1)
    found = dependence(measure, linear_kernel(TWO_CLASSES), linear_kernel(alternating))
    assert found.abs() < 1e-10


@pytest.mark.parametrize("measure", MEASURES)
def test_order_and_sides_do_not_matter(measure, data, other):
    first, second = linear_kernel(data[:, :2]), linear_kernel(other[:, :2])
    found = dependence(measure, first, second)
    assert torch.allclose(dependence(measure, second, first), found)
    order = torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])
    shuffled = dependence(measure, first[order][:, order], second[order][:, order])
    assert torch.allclose(shuffled, found)
    torn = dependence(measure, first[order][:, order], second)
    assert not torch.allclose(torn, found, rtol=1e-3), "pairs that are torn apart depend otherwise"


@pytest.mark.parametrize("measure", MEASURES)
def test_one_record_and_equal_records_depend_on_nothing(measure, data):
    for same in (data[:1], data[:1].expand(8, -1)):
        rows = same.clone().requires_grad_()
        kernel = gaussian_kernel(rows, 5.0)
        found = dependence(measure, kernel, linear_kernel(TWO_CLASSES[: len(same)]))
        (slope,) = torch.autograd.grad(found, rows)
        assert found.item() == 0
        assert torch.equal(slope, torch.zeros_like(slope))


def test_hsic_grows_to_the_number_of_independent_directions(data):
    """Eight records span seven: without the ridge that is what identical data give."""
    found = dependence("hsic", linear_kernel(100 * data), linear_kernel(100 * data)).item()
    assert found == pytest.approx(5, abs=1e-3)


def test_large_means_cost_no_digits(data):
    near = (data.float() + 1000).requires_grad_()
    assert torch.allclose(gaussian_kernel(near, 1.0), gaussian_kernel(data, 1.0), atol=1e-4)


@pytest.mark.parametrize("measure", MEASURES)
def test_first_and_second_derivatives(measure, data):
    """An attacker descends on images through a gradient, so through second derivatives."""
    rows = data[:5, :3].clone().requires_grad_()
    labels = linear_kernel(TWO_CLASSES[2:7])

    def through_both(rows):
        images = gaussian_kernel(rows, 1.0)
        features = gaussian_kernel(torch.tanh(rows[:, :2]), 1.0)
        return dependence(measure, features, images) - dependence(measure, features, labels)

    # the ridge makes the normalised kernel steep: its condition number is about 1e5
    assert torch.autograd.gradcheck(through_both, rows, eps=1e-7, atol=1e-4, rtol=1e-3)
    assert torch.autograd.gradgradcheck(through_both, rows, eps=1e-8, atol=1e-2, rtol=1e-2)


def test_what_is_prepared_has_eigenvalues_from_zero_to_one(data):
    eigenvalues = torch.linalg.eigvalsh(normalised(gaussian_kernel(data, 5.0)))
    assert eigenvalues.min() > -1e-9
    assert eigenvalues.max() < 1
