"""Attacks against networks whose worst perturbation is known in closed form."""

import pytest
import torch
from torch import nn

from medbreach import ConfigError, ImageSpec
from medbreach.settings import build
from medbreach_fedsafe.evasion import Evasion, Seen, predicted

SPEC = ImageSpec(2, (4, 5), bounds=(-10.0, 30.0), mean=(3.0, 5.0), std=(8.0, 2.0))
VOLUMES = ImageSpec(1, (4, 5, 6))
METHODS = "fgsm", "bim", "pgd", "apgd"


def linear(spec, seed=0, classes=2):
    rng = torch.Generator().manual_seed(seed)
    layer = nn.Linear(_size(spec), classes)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=rng))
        layer.bias.copy_(torch.randn(layer.bias.shape, generator=rng))
    return nn.Sequential(nn.Flatten(), layer)


def _size(spec):
    return int(torch.tensor(spec.shape).prod())


def some(spec, n=6, seed=1, inside=0.5):
    """Images around the middle of the bounds."""
    rng = torch.Generator().manual_seed(seed)
    middle = (spec.bounds[0] + spec.bounds[1]) / 2
    return middle + inside * spec.range * (torch.rand(n, *spec.shape, generator=rng) - 0.5)


def run(evasion, networks, images, spec, labels=None, **more):
    labels = torch.zeros(len(images), dtype=torch.long) if labels is None else labels
    return evasion(networks, images, labels, spec, torch.Generator().manual_seed(3), **more)


def margin(network, images, spec):
    said = network(spec.normalise(images))
    return said[:, 0] - said[:, 1]


@pytest.mark.parametrize("spec", [SPEC, VOLUMES], ids=["2d", "3d"])
@pytest.mark.parametrize("method", ["fgsm", "bim", "pgd"])
def test_a_linear_network_loses_the_margin_that_its_weights_say(spec, method):
    """The worst change in the ball takes eps times the L1 norm of the margin's gradient."""
    network, images = linear(spec), some(spec)
    evasion = Evasion(method, eps=0.02, step=0.02, iterations=10)
    attacked = run(evasion, [network], images, spec)
    weight = (network[1].weight[0] - network[1].weight[1]).detach().reshape(spec.shape)
    std = torch.tensor(spec.std).reshape(-1, *[1] * len(spec.space))
    worst = 0.02 * spec.range * (weight / std).abs().sum()
    with torch.no_grad():
        before, after = margin(network, images, spec), margin(network, attacked, spec)
    torch.testing.assert_close(before - after, before.sign() * worst, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spec", [SPEC, VOLUMES], ids=["2d", "3d"])
def test_apgd_fools_wherever_it_can_be_done(spec):
    """It returns a random start where it fails; the others' worst change is known."""
    network, images = linear(spec), some(spec, 40)
    attacked = run(Evasion("apgd", eps=0.02, step=0.02, iterations=20), [network], images, spec)
    weight = (network[1].weight[0] - network[1].weight[1]).detach().reshape(spec.shape)
    std = torch.tensor(spec.std).reshape(-1, *[1] * len(spec.space))
    worst = 0.02 * spec.range * (weight / std).abs().sum()
    possible = margin(network, images, spec).detach().abs() < worst
    fooled = predicted([network], attacked, spec) != predicted([network], images, spec)
    assert 0 < possible.sum() < 40
    assert torch.equal(fooled, possible)


@pytest.mark.parametrize("method", [*METHODS, "random"])
def test_nothing_leaves_the_ball_or_the_bounds(method):
    """Images that reach the bounds; steps that would lead far out of the ball."""
    network, images = linear(SPEC), some(SPEC, inside=1.0)
    images[0, 0, 0, 0], images[1, 0, 0, 0] = SPEC.bounds
    attacked = run(Evasion(method, eps=0.1, step=0.07, iterations=5), [network], images, SPEC)
    assert (attacked - images).abs().max() <= 0.1 * SPEC.range * (1 + 1e-5)
    assert (attacked - images).abs().max() > 0.05 * SPEC.range
    assert attacked.min() >= SPEC.bounds[0]
    assert attacked.max() <= SPEC.bounds[1]
    assert attacked.shape == images.shape


def test_as_published_nothing_is_clamped():
    """In normalised space the ball is of that space, and images leave their bounds."""
    network = linear(SPEC)
    images = torch.full((2, *SPEC.shape), SPEC.bounds[1])
    attacked = run(Evasion("fgsm", eps=0.5, space="normalised"), [network], images, SPEC)
    apart = SPEC.normalise(attacked) - SPEC.normalise(images)
    torch.testing.assert_close(apart.abs(), torch.full_like(apart, 0.5))
    assert attacked.max() > SPEC.bounds[1] + 0.9


def test_fgsm_is_one_step_of_bim():
    network, images = (
        nn.Sequential(linear(SPEC)[0], nn.Linear(40, 8), nn.Tanh(), nn.Linear(8, 3)),
        some(SPEC),
    )
    once = run(Evasion("fgsm", eps=0.05), [network], images, SPEC)
    same = run(Evasion("bim", eps=0.05, step=0.05, iterations=1), [network], images, SPEC)
    torch.testing.assert_close(once, same, rtol=0, atol=1e-5)


def test_a_random_start_does_not_matter_to_a_step_across_the_ball():
    """Of a linear network, a step of 2 eps from anywhere ends in the same corner."""
    network, images = linear(SPEC), some(SPEC)
    once = run(Evasion("fgsm", eps=0.05), [network], images, SPEC)
    far = run(Evasion("pgd", eps=0.05, step=0.1, iterations=1), [network], images, SPEC)
    torch.testing.assert_close(once, far, rtol=0, atol=1e-5)


def test_the_direction_is_away_from_the_prediction_or_from_the_truth():
    """Where the network errs, the two go opposite ways."""
    network, images = linear(SPEC), some(SPEC)
    wrong = 1 - predicted([network], images, SPEC)
    away = run(Evasion("fgsm"), [network], images, SPEC, wrong)
    true = run(Evasion("fgsm", labels="true"), [network], images, SPEC, wrong)
    torch.testing.assert_close(away - images, images - true, rtol=0, atol=1e-4)


def test_random_starts_depend_on_the_generator_alone():
    network, images = linear(SPEC), some(SPEC)
    short = Evasion("pgd", eps=0.05, step=0.001, iterations=1)
    first, again = (run(short, [network], images, SPEC) for _ in range(2))
    assert torch.equal(first, again)
    labels = torch.zeros(6, dtype=torch.long)
    other = short([network], images, labels, SPEC, torch.Generator().manual_seed(4))
    assert not torch.equal(first, other)


def test_several_networks_are_attacked_along_the_mean_of_their_gradients():
    networks = [
        nn.Sequential(nn.Flatten(), nn.Linear(40, 5), nn.Tanh(), nn.Linear(5, 3)) for _ in range(4)
    ]
    images, labels = some(SPEC), torch.tensor([0, 1, 2, 0, 1, 2])
    inputs = ((images - SPEC.bounds[0]) / SPEC.range).requires_grad_()
    nn.functional.nll_loss(
        Seen(networks, SPEC, "pixels", centralise=False)(inputs), labels
    ).backward()
    own = []
    for network in networks:
        leaf = inputs.detach().clone().requires_grad_()
        said = network(SPEC.normalise(leaf * SPEC.range + SPEC.bounds[0]))
        nn.functional.cross_entropy(said, labels).backward()
        own.append(leaf.grad)
    torch.testing.assert_close(inputs.grad, torch.stack(own).mean(0))


def test_centralised_gradients_have_no_spatial_mean():
    """A change that is the same everywhere in a channel no longer pays."""
    inputs = torch.rand(2, *SPEC.shape, requires_grad=True)
    seen = Seen([linear(SPEC)], SPEC, "normalised", centralise=True)
    seen(inputs)[:, 0].sum().backward()
    torch.testing.assert_close(inputs.grad.mean((2, 3)), torch.zeros(2, 2), atol=1e-6, rtol=0)
    assert inputs.grad.abs().max() > 0.01


def test_past_networks_are_where_the_attack_starts():
    """One step that is too short to matter: what is left is what past networks added up."""
    now, then, images = linear(SPEC, 0), linear(SPEC, 9), some(SPEC)
    short = Evasion("bim", eps=0.04, step=1e-6, iterations=1)
    attacked = run(short, [now], images, SPEC, past=[then])
    weight = (then[1].weight[0] - then[1].weight[1]).detach().reshape(SPEC.shape)
    sign = -torch.where(predicted([now], images, SPEC) == 0, 1.0, -1.0).reshape(-1, 1, 1, 1)
    wanted = 0.04 * SPEC.range * sign * weight.sign()
    torch.testing.assert_close(attacked - images, wanted, rtol=0, atol=1e-3)
    long = run(Evasion("bim", eps=0.04, step=0.01, iterations=9), [now], images, SPEC, past=[then])
    direct = run(Evasion("bim", eps=0.04, step=0.04, iterations=1), [now], images, SPEC)
    torch.testing.assert_close(long, direct, rtol=0, atol=1e-3)


def test_carlini_wagner_crosses_the_boundary_with_a_small_change():
    """Of a linear network the least L2 change is the margin over the weight's norm."""
    spec = ImageSpec(1, (4, 4))
    network, images = linear(spec), some(spec, 4)
    with torch.no_grad():
        network[1].bias.zero_()
        network[1].weight.mul_(0.2)
        network[1].bias[1] = margin(network, images, spec).mean()
    attacked = run(Evasion("cw", iterations=50), [network], images, spec)
    changed = predicted([network], attacked, spec) != predicted([network], images, spec)
    weight = (network[1].weight[0] - network[1].weight[1]).detach()
    least = margin(network, images, spec).detach().abs() / weight.norm()
    assert changed.all()
    made = (attacked - images).flatten(1).norm(dim=1)
    assert (made >= least * 0.99).all()
    assert made.max() < 1.5


def test_networks_are_left_as_they_were():
    network = linear(SPEC).train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    run(Evasion("pgd"), [network], some(SPEC), SPEC)
    assert network.training
    assert network[1].training
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "gradient"}, "method"),
        ({"eps": 0.0}, "eps must be positive"),
        ({"step": -1.0}, "step must be positive"),
        ({"iterations": 0}, "iterations must be at least 1"),
        ({"space": "lab"}, "space"),
    ],
)
def test_settings_that_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        build(Evasion, settings, "attack")
