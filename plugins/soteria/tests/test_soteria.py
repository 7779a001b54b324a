"""Soteria: its mask against the released code's way, and an attacker who sees it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from medbreach import ModelError, Seeds, choices, config, mean_gradient, plugins
from medbreach.attacks.known_defenses import KnownDefenses
from medbreach.errors import ConfigError
from medbreach.models.mlp import MLP
from medbreach.protocol import User
from medbreach.settings import build
from medbreach.testing import FORMS, check, tiny_exchange, tiny_sample, tiny_task
from medbreach_soteria import Soteria
from medbreach_soteria.sensitivity import gradient_norms, kept

HEAD = "7.weight"  # of the tiny network
PICTURES, VOLUMES = ((16, 16), 3), ((8, 16, 16), 1)
TWO_STEPS = User(
    "local_update", num_data_points=2, num_local_updates=2, num_data_per_local_update_step=1,
    local_learning_rate=0.01, provide_labels=True, provide_local_hyperparams=True,
)  # fmt: skip


def test_it_keeps_the_contract():
    check(Soteria)


def test_it_keeps_the_contract_in_another_layer():
    check(Soteria, {"pruning_rate": 95, "layer": "7"}, forms=FORMS[:1])


def test_medbreach_finds_it_by_name():
    assert plugins.defenses()["soteria"] is Soteria
    assert "soteria" in choices.names("defense")
    chosen = config.read_choice("defense", "soteria")
    settings = {key: value for key, value in chosen.items() if key != "name"}
    assert build(Soteria, settings, "defense") == Soteria()


def one_feature_after_the_other(task, rate):
    """Scores and mask by one backward pass a feature, and NumPy's percentile."""
    images = task.spec.normalise(task.batch.images).requires_grad_()
    features = task.model[:-1](images)
    scores = torch.zeros(features.shape[1], dtype=torch.double)
    for f in range(features.shape[1]):
        (slope,) = torch.autograd.grad(features[:, f].sum(), images, retain_graph=True)
        norms = slope.flatten(1).norm(dim=1).double()
        scores[f] = (norms / (features[:, f].detach().double() + 0.1)).sum()
    threshold = np.percentile(scores.numpy(), rate)
    return torch.from_numpy(np.where(np.abs(scores.numpy()) < threshold, 0.0, 1.0)).float()


@pytest.mark.parametrize("form", [PICTURES, VOLUMES], ids=str)
@pytest.mark.parametrize("rate", [60.0, 90.0])
def test_it_prunes_what_the_released_code_prunes(form, rate):
    task = tiny_task(*form)
    found = Soteria(rate).step(mean_gradient)(task, task.batch)
    plain = mean_gradient(task, task.batch)
    mask = one_feature_after_the_other(task, rate)
    assert torch.equal(found[HEAD], plain[HEAD] * mask)
    assert mask.mean().item() == pytest.approx(1 - rate / 100, abs=0.01)
    assert all(torch.equal(found[name], plain[name]) for name in plain if name != HEAD)
    assert list(found) == list(plain)


def test_the_ends_of_the_rate():
    task = tiny_task()
    plain = mean_gradient(task, task.batch)[HEAD]
    assert torch.equal(Soteria(0).step(mean_gradient)(task, task.batch)[HEAD], plain)
    highest = Soteria(100).step(mean_gradient)(task, task.batch)[HEAD]
    assert (highest != 0).any(0).sum() == 1


def test_norms_in_closed_form():
    """Of a linear map, the norm of a feature's gradient is that of its row of weights."""
    rng = torch.Generator().manual_seed(0)
    weight = torch.randn(19, 12, generator=rng)
    images = torch.randn(2, 1, 3, 4, generator=rng).requires_grad_()
    norms = gradient_norms(images.flatten(1) @ weight.T, images)
    assert torch.allclose(norms, weight.norm(dim=1).expand(2, -1))


def test_scores_have_the_sign_of_their_features_until_they_are_summed():
    features = torch.tensor([[0.9, -1.1, 0.9, 0.0], [0.9, 0.9, 0.9, 0.0]])
    norms = torch.tensor([[1.0, 1.0, 3.0, 0.0], [1.0, 1.0, 3.0, 0.0]])
    # scores: 2, |-1 + 1| = 0, 6, 0
    assert kept(features, norms, 70.0).tolist() == [False, False, True, False]
    infinite = kept(torch.tensor([[-0.1, 0.9]]), torch.ones(1, 2), 60.0)
    assert infinite.tolist() == [True, False]


def test_more_dead_features_than_the_rate_mask_nothing():
    """As published: the threshold is then zero, and no score lies below it."""
    norms = torch.tensor([[0.0, 0.0, 0.0, 1.0]])
    assert kept(norms, norms, 60.0).all()


def test_batch_statistics_stay():
    """In training mode, the forward pass for the scores must not count in BatchNorm's buffers."""

    def pruned(gradient):
        task = tiny_task()
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(784, 2)
        )
        found = gradient(replace(task, model=network, training=True), task.batch)
        return found, dict(network.named_buffers())

    plain, buffers = pruned(mean_gradient)
    found, after = pruned(Soteria().step(mean_gradient))
    assert all(torch.equal(after[name], buffer) for name, buffer in buffers.items())
    assert torch.equal(found["0.weight"], plain["0.weight"])
    assert (found["4.weight"] == 0).all(0).float().mean().item() == pytest.approx(0.6, abs=0.01)


def simulated(exchange, form, user):
    truth = tiny_sample(*form, user=user).batches[0]
    images = truth.images.clone().requires_grad_()
    rng = Seeds(0).stream("attack")
    return KnownDefenses(exchange).change(exchange.model, images, truth.labels, rng)


def distance(found, sent):
    found, sent = (torch.cat([g.flatten() for g in change.values()]) for change in (found, sent))
    return ((found - sent).norm() / sent.norm()).item()


@pytest.mark.parametrize("form", [PICTURES, VOLUMES], ids=str)
def test_who_sees_the_mask_simulates_the_update_that_was_sent(form):
    user = User(num_data_points=2, provide_labels=True)
    exchange = tiny_exchange(*form, defenses=[Soteria(90)], user=user)
    sent = exchange.update.change
    assert distance(simulated(exchange, form, user), sent) < 1e-5
    blind = replace(exchange, defenses=())
    assert distance(simulated(blind, form, user), sent) > 0.1


def test_mixed_masks_drop_the_layer_from_the_match():
    exchange = tiny_exchange(defenses=[Soteria()], user=TWO_STEPS)
    found = simulated(exchange, PICTURES, TWO_STEPS)
    assert torch.equal(found[HEAD], exchange.update.change[HEAD])
    assert distance(found, exchange.update.change) < 1e-2, "the true images give what was sent"
    secure = User("multiuser_aggregate", aggregation="secure", num_data_points=1)
    exchange = tiny_exchange(defenses=[Soteria()], user=secure)
    change = {name: g + 1 for name, g in exchange.update.change.items()}
    found = Soteria().simulate_update(change, exchange.update)
    assert torch.equal(found[HEAD], exchange.update.change[HEAD])
    assert all(found[name] is change[name] for name in change if name != HEAD)


def test_another_layer_can_be_pruned():
    task = tiny_task(model=MLP(width=20, hidden=2))
    plain = mean_gradient(task, task.batch)
    found = Soteria(50, "3").step(mean_gradient)(task, task.batch)
    changed = [name for name in plain if not torch.equal(plain[name], found[name])]
    assert changed == ["3.weight"]


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [("head", "layer names 'head'; the network's linear layers are 1, 3, 5"), ("", None)],
)
def test_layers_that_are_not_there(layer, sentence):
    task = tiny_task(model=MLP(width=4, hidden=2))
    if sentence is None:
        assert Soteria().remodel(task.model, task.spec, 2) is task.model
        return
    with pytest.raises(ModelError, match=sentence):
        Soteria(layer=layer).remodel(task.model, task.spec, 2)


class OnTokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(16, 2)

    def forward(self, images):
        return self.mix(images[:, 0]).mean(1)


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (nn.Sequential(nn.Conv2d(3, 2, 16), nn.Flatten()), "soteria needs a linear layer, and"),
        (OnTokens(), "takes one vector for each record; mix does not"),
        (nn.Sequential(OnTokens(), nn.Embedding(2, 2)), "that of 1, which is no linear layer"),
    ],
    ids=["convolutional", "tokens", "embedding"],
)
def test_networks_that_it_cannot_protect(network, sentence):
    with pytest.raises(ModelError, match=sentence):
        Soteria().remodel(network, tiny_task().spec, 2)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"pruning_rate": -1}, "pruning_rate must lie from 0 to 100, got -1"),
        ({"pruning_rate": 101}, "pruning_rate must lie from 0 to 100, got 101"),
        ({"threshold": 50}, "defense has no key 'threshold'"),
    ],
)
def test_settings_that_make_no_sense(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build(Soteria, settings, "defense")
