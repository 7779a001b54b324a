"""Outpost: its pruning and noise against the released code's way, its decay, and who knows it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from medbreach import Seeds, choices, config, mean_gradient, plugins, trainable
from medbreach.attacks.known_defenses import KnownDefenses
from medbreach.errors import ConfigError
from medbreach.protocol import User
from medbreach.settings import build
from medbreach.testing import FORMS, check, tiny_exchange, tiny_sample, tiny_task
from medbreach_outpost import Outpost
from medbreach_outpost.perturbation import noisy_positions, percentile, pruned, risk

PICTURES, VOLUMES = ((16, 16), 3), ((8, 16, 16), 1)
BATCH = User(num_data_points=2, provide_labels=True)


def flat(change):
    return torch.cat([g.flatten() for g in change.values()])


def test_it_keeps_the_contract():
    check(Outpost)


def test_it_keeps_the_contract_without_noise():
    check(Outpost, {"beta": 0, "phi": 0, "noise_base": 0}, forms=FORMS[:1])


@pytest.mark.parametrize(
    ("name", "made"), [("outpost", Outpost()), ("outpost_weak", Outpost(phi=10, noise_base=0.1))]
)
def test_medbreach_finds_it_by_name(name, made):
    assert plugins.defenses()["outpost"] is Outpost
    assert name in choices.names("defense")
    chosen = config.read_choice("defense", name)
    settings = {key: value for key, value in chosen.items() if key != "name"}
    assert build(Outpost, settings, "defense") == made


@pytest.mark.parametrize("percent", [0, 33.3, 60, 80, 100])
@pytest.mark.parametrize("count", [1, 2, 7, 1000])
def test_percentiles_are_numpys(percent, count):
    values = torch.randn(count, generator=torch.Generator().manual_seed(count))
    wanted = np.percentile(values.numpy(), percent)
    assert percentile(values, percent).item() == pytest.approx(wanted, rel=1e-5, abs=1e-7)


def test_risk_is_the_variance_up_to_one():
    assert risk(torch.tensor([0.0, 1.0])) == pytest.approx(0.5)
    assert risk(torch.tensor([0.0, 9.0])) == 1.0
    assert risk(torch.tensor([4.0])) == 0.0


def released(gradients, phi, prune_base):
    """The released code's pruned gradients and masks, in NumPy."""
    arrays = {name: g.numpy() for name, g in gradients.items()}
    information = {name: np.square(a).mean(0) for name, a in arrays.items()}
    every = np.concatenate([i.flatten() for i in information.values()])
    threshold = np.percentile(every, 100 - phi)
    small = {name: np.percentile(np.abs(a), prune_base) for name, a in arrays.items()}
    kept = {name: np.where(np.abs(a) < small[name], 0, a) for name, a in arrays.items()}
    masks = {
        name: np.broadcast_to(np.where(information[name] < threshold, 0, 1), a.shape)
        for name, a in arrays.items()
    }
    return kept, masks


@pytest.mark.parametrize("form", [PICTURES, VOLUMES], ids=str)
@pytest.mark.parametrize(("phi", "prune_base"), [(40.0, 80.0), (10.0, 50.0)])
def test_it_perturbs_as_the_released_code_did(form, phi, prune_base):
    task = tiny_task(*form)
    plain = mean_gradient(task, task.batch)
    kept, masks = released(plain, phi, prune_base)
    found = Outpost(0.0, phi, prune_base, 1.0).step(mean_gradient)(task, task.batch)
    assert list(found) == list(plain)
    for name, sent in found.items():
        noise = (sent - torch.from_numpy(kept[name])).numpy()
        assert np.array_equal(noise != 0, masks[name] == 1), name
        if masks[name].sum() > 200:
            std = trainable(task.model)[name].var().item()
            assert noise[masks[name] == 1].std() == pytest.approx(std, rel=0.2)


def test_positions_are_shares_of_the_whole_gradient():
    gradients = {"large": torch.ones(2, 30), "small": 0.1 * torch.ones(5, 70)}
    masks = noisy_positions(gradients, 29)
    assert masks["large"].all()
    assert not masks["small"].any()
    assert noisy_positions(gradients, 100)["small"].all()


def test_pruning_keeps_the_largest():
    gradient = torch.tensor([[3.0, -0.1], [0.2, -4.0], [0.3, 0.0]])
    assert pruned(gradient, 70).tolist() == [[3.0, 0.0], [0.0, -4.0], [0.0, 0.0]]
    assert torch.equal(pruned(gradient, 0), gradient)


def test_perturbations_become_rare():
    """With beta 1, the chances are 1/2, 1/3, 1/4; each round begins anew."""
    task = tiny_task()
    rng = Seeds(3).stream("rounds")
    plain = mean_gradient(task, task.batch)
    task = replace(task, rng=rng)
    rounds = 300
    perturbed = torch.zeros(3)
    for _ in range(rounds):
        gradient = Outpost(1.0, 0.0, 80.0, 0.0).step(lambda task, batch: plain)
        sent = [gradient(task, task.batch) for _ in range(3)]
        perturbed += torch.tensor([float(found is not plain) for found in sent])
    wanted = torch.tensor([1 / 2, 1 / 3, 1 / 4])
    deviations = (wanted * (1 - wanted) / rounds).sqrt()
    assert ((perturbed / rounds - wanted).abs() < 4 * deviations).all()


def test_a_step_may_be_left_as_it_is():
    task = tiny_task()
    found = Outpost(beta=1e9).step(mean_gradient)(task, task.batch)
    assert torch.equal(flat(found), flat(mean_gradient(task, task.batch)))


def simulated(exchange, form):
    truth = tiny_sample(*form, user=BATCH).batches[0]
    images = truth.images.clone().requires_grad_()
    rng = Seeds(0).stream("attack")
    found = KnownDefenses(exchange).change(exchange.model, images, truth.labels, rng)
    sent = flat(exchange.update.change)
    return ((flat(found) - sent).norm() / sent.norm()).item()


@pytest.mark.parametrize("form", [PICTURES, VOLUMES], ids=str)
def test_who_knows_it_simulates_the_update_that_was_sent(form):
    pruning = tiny_exchange(*form, defenses=[Outpost(0.0, 40, 95, 0.0)], user=BATCH)
    assert simulated(pruning, form) < 1e-5
    assert simulated(replace(pruning, defenses=()), form) > 0.1
    noisy = tiny_exchange(*form, defenses=[Outpost(0.0)], user=BATCH)
    assert simulated(noisy, form) < 0.7 * simulated(replace(noisy, defenses=()), form)
    spared = tiny_exchange(*form, defenses=[Outpost(1e9)], user=BATCH)
    assert simulated(spared, form) < 1e-5


def test_the_size_of_the_noise_follows_from_the_weights():
    made = Outpost(0.0, 40, 80, 10.0)
    exchange = tiny_exchange(defenses=[made], user=BATCH)
    without = tiny_exchange(defenses=[replace(made, noise_base=0.0)], user=BATCH)
    found = made.noise(exchange.update)
    for name, sent in exchange.update.change.items():
        noise = (sent - without.update.change[name]).square().mean().sqrt().item()
        assert noise <= 4 * found[name] + 1e-9, name
    whole = flat(exchange.update.change) - flat(without.update.change)
    told = sum(found[n] ** 2 * g.numel() for n, g in exchange.update.change.items()) / len(whole)
    assert told**0.5 == pytest.approx(whole.square().mean().sqrt().item(), rel=0.7)
    halved = made.noise(replace(exchange.update, clients=4))
    assert halved == {name: std / 2 for name, std in found.items()}
    assert made.noise(replace(exchange.update, hints={})) == {}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"beta": -1}, "beta and noise_base must not be negative, got -1"),
        ({"phi": 101}, "phi must lie from 0 to 100, got 101"),
        ({"prune_base": -1}, "prune_base must lie from 0 to 100, got -1"),
        ({"epsilon": 0.1}, "defense has no key 'epsilon'"),
    ],
)
def test_settings_that_make_no_sense(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build(Outpost, settings, "defense")
