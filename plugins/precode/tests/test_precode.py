"""PRECODE: its layer, its loss, and what an attacker drops who knows it."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from medbreach import Batch, ModelError, Seeds, choices, config, mean_gradient, plugins
from medbreach.attacks.known_defenses import KnownDefenses
from medbreach.errors import ConfigError
from medbreach.protocol import User
from medbreach.settings import build
from medbreach.testing import FORMS, check, tiny_exchange, tiny_sample, tiny_task
from medbreach_precode import Precode
from medbreach_precode.bottleneck import VariationalBottleneck, divergence

PICTURES, VOLUMES = ((16, 16), 3), ((8, 16, 16), 1)
BATCH = User(num_data_points=2, provide_labels=True)


def flat(change):
    return torch.cat([g.flatten() for g in change.values()])


def protected(defense, *form, **changes):
    """A client's task with the remodelled network."""
    task = tiny_task(*form, **changes)
    torch.manual_seed(0)
    return replace(task, model=defense.remodel(task.model, task.spec, task.classes))


def test_it_keeps_the_contract():
    check(Precode)


def test_it_keeps_the_contract_with_a_tight_bottleneck():
    check(Precode, {"size": 2, "beta": 1.0}, forms=FORMS[1:2])


def test_medbreach_finds_it_by_name():
    assert plugins.defenses()["precode"] is Precode
    assert "precode" in choices.names("defense")
    chosen = config.read_choice("defense", "precode")
    settings = {key: value for key, value in chosen.items() if key != "name"}
    assert build(Precode, settings, "defense") == Precode()


def test_the_divergence_is_torchs_in_bits():
    encoded = torch.randn(5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    code = torch.distributions.Normal(encoded[:, :3], nn.functional.softplus(encoded[:, 3:]))
    standard = torch.distributions.Normal(torch.zeros(5, 3), torch.ones(5, 3))
    wanted = torch.distributions.kl_divergence(code, standard).sum(1).mean() / math.log(2)
    assert divergence(encoded).item() == pytest.approx(wanted.item())


def test_the_divergence_in_closed_form():
    one = math.log(math.e - 1)  # softplus of it is 1
    encoded = torch.tensor([[0.0, 0.0, one, one], [2.0, 0.0, one, one]], dtype=torch.double)
    assert divergence(encoded[:1]).item() == pytest.approx(0, abs=1e-12)
    assert divergence(encoded).item() == pytest.approx(0.5 * 4 / 2 / math.log(2))
    certain = torch.tensor([[0.0, -200.0]]).requires_grad_()  # its deviation rounds to zero
    assert divergence(certain).isfinite()
    assert torch.autograd.grad(divergence(certain), certain)[0].isfinite().all()


def test_samples_have_the_moments_that_the_encoder_says():
    layer = VariationalBottleneck(3, 2)
    with torch.no_grad():
        layer.encoder.weight.zero_()
        layer.encoder.bias.copy_(torch.tensor([1.0, -2.0, 0.3, -1.0]))
        layer.decoder.weight.copy_(torch.eye(3)[:, :2])
        layer.decoder.bias.zero_()
        samples = layer.eval()(torch.ones(20_000, 3))[:, :2]
    std = nn.functional.softplus(torch.tensor([0.3, -1.0]))
    assert torch.allclose(samples.mean(0), torch.tensor([1.0, -2.0]), atol=0.04)
    assert torch.allclose(samples.std(0), std, rtol=0.03)
    assert abs(samples.T.corrcoef()[0, 1]) < 0.03


@pytest.mark.parametrize("form", [PICTURES, VOLUMES], ids=str)
def test_the_update_is_the_gradient_of_the_whole_loss(form):
    task = protected(Precode(16, 0.5), *form)
    torch.manual_seed(5)
    found = Precode(16, 0.5).step(mean_gradient)(task, task.batch)
    body, last = task.model[:-1], task.model[-1]
    features = body(task.spec.normalise(task.batch.images))
    encoded = last.precode.encoder(features)
    mean, std = encoded[:, :16], nn.functional.softplus(encoded[:, 16:])
    torch.manual_seed(5)
    outputs = last.layer(last.precode.decoder(mean + std * torch.randn(std.shape)))
    bits = 0.5 * (mean**2 + std**2 - 1 - 2 * std.log()).sum(1).mean() / math.log(2)
    loss = task.loss(outputs, task.batch.labels) + 0.5 * bits
    wanted = torch.autograd.grad(loss, task.model.parameters())
    assert torch.allclose(flat(found), torch.cat([g.flatten() for g in wanted]), atol=1e-6)


def test_every_step_draws_its_own_sample():
    task = protected(Precode())
    gradient = Precode().step(mean_gradient)
    first, second = (flat(gradient(task, task.batch)) for _ in range(2))
    assert (first - second).norm() > 0.05 * first.norm()
    sent = [flat(tiny_exchange(user=BATCH, defenses=[Precode()]).update.change) for _ in range(2)]
    assert torch.equal(*sent), "the core seeds the client's draws"


def test_the_bottleneck_stands_before_the_last_linear_layer():
    names = list(dict(protected(Precode(7)).model.named_parameters()))
    assert names[-6:] == [
        "7.precode.encoder.weight", "7.precode.encoder.bias",
        "7.precode.decoder.weight", "7.precode.decoder.bias",
        "7.layer.weight", "7.layer.bias",
    ]  # fmt: skip
    shapes = [tuple(p.shape) for p in protected(Precode(7)).model[-1].precode.parameters()]
    assert shapes == [(14, 128), (14,), (128, 7), (128,)]


@pytest.mark.parametrize(
    ("name", "settings", "form", "place"),
    [
        ("torchvision_resnet18", {}, ((32, 32), 3), "fc"),
        ("small_cnn", {"width": 4, "pool": 1}, VOLUMES, "8"),
        ("mlp", {"width": 10}, PICTURES, "7"),
    ],
)
def test_networks_with_a_last_linear_layer(name, settings, form, place):
    spec = tiny_task(*form).spec
    network = plugins.models()[name](**settings).build(spec, 3)
    network = Precode(5).remodel(network, spec, 3)
    assert isinstance(network.get_submodule(place + ".precode"), VariationalBottleneck)
    assert network.eval()(torch.zeros(2, *spec.shape)).shape == (2, 3)


def test_another_place():
    spec = tiny_task().spec
    network = plugins.models()["mlp"](width=10).build(spec, 3)
    network = Precode(5, layer="3").remodel(network, spec, 3)
    assert isinstance(network[3].precode, VariationalBottleneck)


def test_what_an_attacker_matches():
    """The bottleneck and what follows are taken as seen; what comes before is simulated."""
    exchange = tiny_exchange(defenses=[Precode()], user=BATCH)
    truth = tiny_sample(user=BATCH).batches[0]
    images = truth.images.clone().requires_grad_()

    def simulated(known, draws):
        rng = Seeds(0).stream("attack")
        found = KnownDefenses(known, draws).change(exchange.model, images, truth.labels, rng)
        assert exchange.model[-1].precode.sampling, "the network samples again"
        return found

    found, seen = simulated(exchange, 1), exchange.update.change
    later = [name for name in found if name.startswith("7.")]
    assert len(later) == 6
    assert all(torch.equal(found[name], seen[name]) for name in later)
    before = [name for name in found if name not in later]
    assert all(found[name].requires_grad for name in before)

    def similarity(found, names):
        pairs = [torch.cat([c[name].flatten() for name in names]) for c in (found, seen)]
        return torch.cosine_similarity(*pairs, dim=0).item()

    blind = simulated(replace(exchange, defenses=()), 1)
    assert similarity(blind, later) < 0.95, "the true images do not give what was sent there"
    assert similarity(found, before) > 0.8


def test_the_encoder_tells_one_records_features_whatever_the_sample():
    task = protected(Precode())
    one = Batch(task.batch.images[:1], task.batch.labels[:1])
    found = Precode().step(mean_gradient)(task, one)
    weight, bias = found["7.precode.encoder.weight"], found["7.precode.encoder.bias"]
    row = bias.abs().argmax()
    features = task.model[:-1](task.spec.normalise(one.images))
    assert torch.allclose(weight[row] / bias[row], features[0], atol=1e-5)


@pytest.mark.parametrize("form", [PICTURES, VOLUMES], ids=str)
def test_who_knows_it_simulates_what_one_record_sent(form):
    """Whatever the sample was; who does not know it misses the update."""
    user = User(num_data_points=1, provide_labels=True)
    exchange = tiny_exchange(*form, defenses=[Precode(beta=0.1)], user=user)
    truth = tiny_sample(*form, user=user).batches[0]
    images, seen = truth.images.clone().requires_grad_(), flat(exchange.update.change)

    def off(exchange, images):
        rng = Seeds(0).stream("attack")
        found = KnownDefenses(exchange).change(exchange.model, images, truth.labels, rng)
        return ((flat(found) - seen).norm() / seen.norm()).item()

    assert off(exchange, images) < 1e-5
    assert off(exchange, (images * 0.9).detach().requires_grad_()) > 0.01
    assert off(replace(exchange, defenses=()), images) > 0.1


def test_one_bottleneck_is_enough():
    assert Precode().conflict([Precode()]) == ""
    assert "more than once" in Precode().conflict([Precode(), Precode(8)])


@pytest.mark.parametrize(
    ("network", "layer", "sentence"),
    [
        (nn.Sequential(nn.Conv2d(3, 2, 16), nn.Flatten()), "", "needs a linear layer to stand"),
        (nn.Sequential(nn.Linear(16, 2), nn.Flatten()), "", "takes one vector for each record"),
        (nn.Sequential(nn.Flatten(), nn.Linear(768, 2)), "fc", "layer names 'fc'.*layers are 1"),
        (nn.Sequential(nn.Conv2d(3, 2, 16), nn.Flatten()), "0", "0 does not: name another"),
    ],
)
def test_networks_that_it_cannot_protect(network, layer, sentence):
    with pytest.raises(ModelError, match=sentence):
        Precode(layer=layer).remodel(network, tiny_task().spec, 2)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"size": 0}, "size must be at least 1, got 0"),
        ({"beta": -0.1}, "beta must not be negative, got -0.1"),
        ({"k": 256}, "defense has no key 'k'"),
    ],
)
def test_settings_that_make_no_sense(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build(Precode, settings, "defense")
