"""Networks and losses."""

import pytest
import torch
from torch import nn

from medbreach_feddetect.losses import discriminator_loss, generator_loss, gradient_penalty
from medbreach_feddetect.networks import Discriminator, Generator, initialise
from medbreach_feddetect.setting import Gan


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("loss", ["bce", "wgan_gp"])
@pytest.mark.parametrize("classes", [0, 3])
def test_shapes(size, channels, loss, classes):
    gan = Gan(size=size, channels=channels, loss=loss, classes=classes, width=2, latent=5)
    labels = torch.tensor([0, 2]) if classes else None
    made = Generator(gan)(torch.randn(2, 5), labels)
    assert made.shape == (2, channels, size, size)
    assert made.abs().max() <= 1
    assert Discriminator(gan)(made, labels).shape == (2,)


def test_the_released_discriminator_at_64_pixels():
    """Convolutions of 4 x 4 that double their channels from 64 on; its normalisation by loss."""
    layers = list(Discriminator(Gan(size=64)).layers)
    convolutions = [m for m in layers if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [64, 128, 256, 512, 1]
    assert [m.stride[0] for m in convolutions] == [2, 2, 2, 2, 1]
    assert all(m.bias is None and m.kernel_size == (4, 4) for m in convolutions)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in layers) == 3
    assert not any(isinstance(m, nn.Sigmoid) for m in layers)
    penalised = list(Discriminator(Gan(size=64, loss="wgan_gp")).layers)
    assert sum(isinstance(m, nn.InstanceNorm2d) and m.affine for m in penalised) == 4
    assert not any(isinstance(m, nn.BatchNorm2d) for m in penalised)


def test_the_class_matters_where_it_is_told():
    gan = Gan(width=2, latent=5, classes=2)
    generator, discriminator = Generator(gan).eval(), Discriminator(gan).eval()
    latent = torch.randn(3, 5)
    made = [generator(latent, torch.full((3,), c)) for c in (0, 1)]
    assert not torch.allclose(made[0], made[1])
    said = [discriminator(made[0], torch.full((3,), c)) for c in (0, 1)]
    assert not torch.allclose(said[0], said[1])


def test_weights_are_drawn_from_the_stream():
    one, other = (Generator(Gan(width=4)) for _ in range(2))
    for network in (one, other):
        initialise(network, torch.Generator().manual_seed(3))
    same = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    first = one.layers[0].weight
    assert first.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("interpolation", ["normal", "uniform"])
def test_the_penalty_of_a_linear_judge_is_known(interpolation):
    """Its gradient is its weights, everywhere: (|w| - 1)^2."""
    weights = torch.randn(3 * 8 * 8, generator=torch.Generator().manual_seed(0))
    real, made = torch.randn(5, 3, 8, 8), torch.randn(5, 3, 8, 8)
    found = gradient_penalty(
        lambda x: x.flatten(1) @ weights, real, made, interpolation, torch.Generator()
    )
    assert found.item() == pytest.approx((weights.norm().item() - 1) ** 2, rel=1e-5)


@pytest.mark.parametrize("interpolation", ["normal", "uniform"])
def test_the_penalty_is_taken_where_it_should_be(interpolation):
    """A judge |x|^2 / 2 has gradient x: the points themselves come out."""
    real, made = torch.randn(6, 1, 4, 4), torch.randn(6, 1, 4, 4)
    found = gradient_penalty(
        lambda x: x.flatten(1).square().sum(1) / 2,
        real,
        made,
        interpolation,
        torch.Generator().manual_seed(5),
    )
    draw = torch.randn if interpolation == "normal" else torch.rand
    a = draw(6, 1, 1, 1, generator=torch.Generator().manual_seed(5))
    points = a * real + (1 - a) * made
    assert found.item() == pytest.approx(
        (points.flatten(1).norm(dim=1) - 1).square().mean().item(), rel=1e-5
    )


def test_the_penalty_trains_the_judge():
    layer = nn.Linear(16, 1, bias=False)
    found = gradient_penalty(
        lambda x: layer(x.flatten(1))[:, 0],
        torch.randn(4, 1, 4, 4),
        torch.randn(4, 1, 4, 4),
        "uniform",
        torch.Generator(),
    )
    found.backward()
    norm = layer.weight.detach().norm()
    assert torch.allclose(
        layer.weight.grad, 2 * (norm - 1) * layer.weight.detach() / norm, atol=1e-6
    )


def test_losses_in_closed_form():
    """A judge that says 0 of everything: twice ln 2, and ln 2; Wasserstein: nothing but penalty."""
    rng, images = torch.Generator(), torch.randn(4, 1, 32, 32)

    def nothing(x):
        return 0 * x.flatten(1).sum(1)

    plain, wasserstein = Gan(), Gan(loss="wgan_gp", penalty=7.0)
    assert discriminator_loss(plain, nothing, images, images, rng).item() == pytest.approx(1.386294)
    assert generator_loss(plain, torch.zeros(4)).item() == pytest.approx(0.693147)
    assert discriminator_loss(wasserstein, nothing, images, images, rng).item() == pytest.approx(
        7.0
    )
    assert generator_loss(wasserstein, torch.tensor([1.0, 3.0])).item() == -2.0
