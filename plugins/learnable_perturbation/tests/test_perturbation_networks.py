"""Table I: the network, its decoder, and the kernels that are printed the wrong way round."""

import pytest
import torch
from torch import nn

from medbreach import ImageSpec, ModelError, Seeds
from medbreach.settings import build
from medbreach.testing import check, tiny_sample
from medbreach_learnable_perturbation import PerturbationConvNet
from medbreach_learnable_perturbation.decoder import Adversary, decoder_for, general, table_one
from medbreach_learnable_perturbation.latent import find_latent


def network(spec, **settings):
    return PerturbationConvNet(**settings)(spec, 8, Seeds(0).stream("model"))


@pytest.mark.parametrize("convolutions", [8, 9])
def test_the_network_keeps_the_contract(convolutions):
    check(PerturbationConvNet, {"width": 4, "convolutions": convolutions})


def test_the_network_is_table_ones():
    made = network(ImageSpec(3, (32, 32)))
    layers = [type(m).__name__ for m in made.modules() if not list(m.children())]
    convolution = ["Conv2d", "ReLU"]
    assert layers == [
        *6 * convolution, "MaxPool2d", *3 * convolution, "MaxPool2d", "Flatten", "Linear"
    ]  # fmt: skip
    channels = [m.out_channels for m in made.modules() if isinstance(m, nn.Conv2d)]
    assert channels == [64, 128, 128, 256, 256, 256, 256, 256, 256]
    assert made.predictor.linear.in_features == 2304
    assert len(network(ImageSpec(3, (32, 32)), width=4, convolutions=8).encoder) == 8 * 2 + 1


@pytest.mark.parametrize(
    ("spec", "latent"),
    [
        (ImageSpec(3, (32, 32)), (16, 10, 10)),
        (ImageSpec(1, (28, 28)), (16, 9, 9)),
        (ImageSpec(1, (9, 20, 32)), (16, 3, 6, 10)),
    ],
    ids=str,
)
def test_the_latent_is_the_encoders_output(spec, latent):
    assert find_latent(network(spec, width=4), spec) == ("encoder", latent)


@pytest.mark.parametrize(("side", "latent", "kernel"), [(32, 10, 4), (28, 9, 2)])
def test_the_decoder_makes_an_image_and_would_not_with_the_printed_kernel(side, latent, kernel):
    z = torch.zeros(2, 8, latent, latent)
    decoder = decoder_for((8, latent, latent), ImageSpec(3, (side, side)))
    assert decoder[-1].kernel_size == (kernel, kernel)
    assert decoder(z).shape == (2, 3, side, side)
    printed = {4: 2, 2: 4}[kernel]
    assert table_one(8, 3, printed)(z).shape == (2, 3, 30, 30)


def test_the_decoder_is_table_ones():
    decoder = decoder_for((256, 10, 10), ImageSpec(3, (32, 32)))
    assert [
        (m.out_channels, m.kernel_size[0], m.stride[0])
        for m in decoder
        if isinstance(m, nn.ConvTranspose2d)
    ] == [(256, 3, 1), (256, 4, 1), (3, 4, 2)]
    assert [type(m).__name__ for m in decoder[1:3]] == ["BatchNorm2d", "ReLU"]


@pytest.mark.parametrize(
    ("latent", "spec"),
    [
        ((5, 1, 1), ImageSpec(3, (32, 32))),
        ((5, 3, 7), ImageSpec(1, (20, 33))),
        ((5, 40, 40), ImageSpec(3, (32, 32))),
        ((5, 1, 2, 2), ImageSpec(1, (8, 16, 16))),
        ((5, 10, 10, 10), ImageSpec(1, (32, 32, 32))),
    ],
    ids=str,
)
def test_our_decoder_fits_any_latent(latent, spec):
    decoder = decoder_for(latent, spec)
    assert decoder(torch.zeros(1, *latent)).shape == (1, *spec.shape)


def test_the_network_refuses_what_its_poolings_would_leave_nothing_of():
    with pytest.raises(ModelError, match="at least 9 pixels"):
        network(ImageSpec(1, (8, 16, 16)))


@pytest.mark.parametrize("settings", [{"width": 0}, {"convolutions": 7}])
def test_settings_that_make_no_sense(settings):
    with pytest.raises(Exception, match=next(iter(settings))):
        build(PerturbationConvNet, settings, "model")


@pytest.fixture
def adversary():
    return Adversary(general((3, 8, 8), ImageSpec(3, (16, 16))), lr=0.01)


def test_a_decoder_learns_to_guess_images_that_it_has_not_seen(adversary):
    images = tiny_sample().public
    latents = nn.functional.avg_pool2d(images, 2)
    before = adversary.correlation(latents[10:], images[10:])
    for _ in range(30):
        adversary.learn(latents[:10], images[:10])
    after = adversary.correlation(latents[10:], images[10:])
    assert after > before + (1 - before) / 3
    assert after > 0.8


def test_learning_looks_at_no_gradient_of_latents_and_leaves_earlier_guesses_valid(adversary):
    images = tiny_sample().public[:4]
    latents = nn.functional.avg_pool2d(images, 2).requires_grad_()
    guessed = adversary.correlation(latents, images)
    (expected,) = torch.autograd.grad(guessed, latents, retain_graph=True)
    adversary.learn(latents, images)
    assert latents.grad is None
    assert torch.equal(torch.autograd.grad(guessed, latents)[0], expected)
