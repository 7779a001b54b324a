"""The unmixing behind ``cpa`` against closed forms and scikit-learn's FastICA."""

import math

import pytest
import torch
from sklearn.decomposition import FastICA
from torch import nn

from medbreach.attacks.cocktail_party import CocktailParty, Weights, _log_cosh_of_gaussian
from medbreach.models.mlp import MLP
from medbreach.testing.examples import tiny_exchange, tiny_sample
from medbreach.types import Exchange, ImageSpec, Round, Update

FORMS = {"2D RGB": ((16, 16), 3), "2D grey": ((32, 32), 1), "3D": ((8, 16, 16), 1)}
each_form = pytest.mark.parametrize(("space", "channels"), FORMS.values(), ids=FORMS)
PURE = Weights(total_variation=0.0, decorrelation=0.1)


def mixed(images, spec, rows=40):
    """Return an exchange whose layer's gradient is a random mixture of images."""
    rng = torch.Generator().manual_seed(1)
    network = MLP(width=rows, hidden=1)(spec, 3, torch.Generator().manual_seed(0))
    inputs = spec.normalise(images).flatten(1)
    mixing = torch.randn(rows, len(images), generator=rng)
    change = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    change |= {"1.weight": mixing @ inputs, "1.bias": mixing.sum(1)}
    update = Update(change, count=len(images))
    return Exchange(spec, 3, nn.CrossEntropyLoss(), (Round(network, update),), images[:0])


def unmixed(exchange, **settings):
    return CocktailParty(**settings)(exchange, torch.Generator().manual_seed(0)).images


def likeness(claims, images):
    """Return each image's correlation with the claim that is most like it."""
    both = torch.corrcoef(torch.cat([claims.flatten(1), images.flatten(1)]))
    return both[: len(claims), len(claims) :].max(0).values


def sparse(space, channels, count=6):
    """Return independent images with a few bright and dark points on grey."""
    rng = torch.Generator().manual_seed(0)
    uniform = torch.rand(count, channels, *space, generator=rng) - 0.5
    laplacian = -uniform.sign() * (1 - 2 * uniform.abs()).log()
    return (0.5 + 0.05 * laplacian).clamp(0, 1), ImageSpec(
        channels, space, mean=(0.5,) * channels, std=(0.07,) * channels
    )


@each_form
def test_independent_images_are_found_as_by_fastica(space, channels):
    images, spec = sparse(space, channels)
    exchange = mixed(images, spec)
    ours = unmixed(exchange, differences=False, weight=PURE)
    gradient = exchange.update.change["1.weight"].double().numpy()
    ica = FastICA(len(images), fun="logcosh", whiten="unit-variance", random_state=0, max_iter=500)
    theirs = torch.tensor(ica.fit_transform(gradient.T).T).float()
    by_them = likeness(torch.cat([theirs, -theirs]), images)
    by_us = likeness(ours, images)
    assert by_us.min() > 0.99
    assert by_us.min() > by_them.min() - 0.01


@each_form
@pytest.mark.parametrize("differences", [True, False])
def test_sign_and_scale_are_the_images(space, channels, differences):
    """Up to the order: what unmixes an image adds the bias's gradient up to its weight."""
    images, spec = sparse(space, channels)
    settings = {"differences": differences, "weight": PURE, "contrast": 10.0}
    claims = unmixed(mixed(images, spec), **settings)
    apart = (claims[:, None] - images[None]).flatten(2).square().mean(2).sqrt()
    assert apart.min(0).values.max() < 0.04  # others are 0.1 apart
    assert sorted(apart.argmin(0).tolist()) == list(range(len(images)))


@each_form
def test_real_images_are_separated_by_their_differences_better_than_by_intensities(space, channels):
    sample = tiny_sample(space, channels)
    exchange = mixed(sample.decoys[:4], sample.spec)
    by_differences = likeness(unmixed(exchange), sample.decoys[:4])
    by_intensities = likeness(unmixed(exchange, differences=False), sample.decoys[:4])
    assert by_differences.median() > 0.95
    assert by_differences.mean() > by_intensities.mean()


def test_the_mean_log_cosh_of_noise():
    noise = torch.randn(10**6, generator=torch.Generator().manual_seed(0)).double()
    for a in (1.0, 3.0):
        drawn = float((a * noise).cosh().log().mean()) / a
        assert _log_cosh_of_gaussian(a) == pytest.approx(drawn, rel=1e-3)
    assert _log_cosh_of_gaussian(1e4) == pytest.approx(math.sqrt(2 / math.pi), rel=1e-3)


def test_another_network_of_the_same_shape_earns_no_confidence():
    """Claims that fit the gradient fit the network that made it."""
    exchange = tiny_exchange((16, 16), 3, model=MLP(width=256, hidden=2))
    other = MLP(width=256, hidden=2)(exchange.spec, 3, torch.Generator().manual_seed(9))
    swapped = Exchange(
        exchange.spec, exchange.classes, exchange.loss, (Round(other, exchange.update),),
        exchange.public,
    )  # fmt: skip
    attack = CocktailParty(steps=300)
    sure, unsure = (
        attack(e, torch.Generator().manual_seed(0)).confidence for e in (exchange, swapped)
    )
    assert sure.min() > 2 * unsure.max()
