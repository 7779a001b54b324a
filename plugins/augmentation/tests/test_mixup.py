"""Mixup: its weights, its gradient, and what an attacker makes of it."""

from dataclasses import replace

import pytest
import torch
from scipy.stats import kstest
from torch import nn

from medbreach import Batch, config, plugins
from medbreach.attacks.known_defenses import KnownDefenses
from medbreach.components import mean_gradient
from medbreach.errors import ConfigError
from medbreach.randomness import Seeds
from medbreach.settings import build
from medbreach.testing import check, tiny_exchange, tiny_sample, tiny_task
from medbreach_augmentation import Mixup


@pytest.mark.parametrize("settings", [None, {"alpha": 0.2}], ids=str)
def test_it_keeps_the_contract(settings):
    check(Mixup, settings)


def test_medbreach_finds_it_by_name():
    chosen = config.read_choice("defense", "mixup")
    assert plugins.defenses()["mixup"] is Mixup
    assert build(Mixup, {k: v for k, v in chosen.items() if k != "name"}, "defense") == Mixup()


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_weights_are_of_the_beta_distribution(alpha):
    rng = Seeds(0).stream("client")
    drawn = [Mixup(alpha)._weight(rng) for _ in range(2000)]
    assert kstest(drawn, "beta", args=(alpha, alpha)).pvalue > 0.01


def noting(batches):
    """Return a step's gradient that notes what it is computed of."""

    def gradient(task, batch):
        batches.append(batch)
        return mean_gradient(task, batch)

    return gradient


def task_of(records, seed=0):
    sample = tiny_sample()
    images = torch.cat([sample.batches[0].images, sample.public])[:records]
    labels = torch.arange(records) % 2
    return replace(tiny_task(), batch=Batch(images, labels), rng=Seeds(seed).stream("client"))


def test_the_gradient_is_that_of_the_mixed_loss():
    """It is one loss with soft labels, since the cross entropy is linear in them."""
    task, batches = task_of(5), []
    found = Mixup().step(noting(batches))(task, task.batch)
    own, other = batches
    assert torch.equal(own.images, other.images)
    assert torch.equal(own.labels, task.batch.labels)
    assert torch.equal(other.labels.sort().values, task.batch.labels.sort().values)
    weight = Mixup()._weight(Seeds(0).stream("client"))
    outputs = task.model(task.spec.normalise(own.images))
    first, second = (
        nn.functional.one_hot(y, outputs.shape[1]).float() for y in (own.labels, other.labels)
    )
    soft = weight * first + (1 - weight) * second
    loss = nn.functional.cross_entropy(outputs, soft)
    expected = torch.autograd.grad(loss, list(task.model.parameters()))
    for tensor, gradient in zip(found.values(), expected, strict=True):
        assert torch.allclose(tensor, gradient, atol=1e-6)


def test_images_and_labels_are_mixed_with_the_same_partner():
    task, batches = task_of(6), []
    task = replace(task, batch=Batch(task.batch.images, torch.arange(6)))
    Mixup().step(lambda task, batch: batches.append(batch) or {})(task, task.batch)
    weight = Mixup()._weight(Seeds(0).stream("client"))
    mixture, partner = batches[0].images, batches[1].labels
    expected = weight * task.batch.images + (1 - weight) * task.batch.images[partner]
    assert torch.allclose(mixture, expected)
    assert sorted(partner.tolist()) == list(range(6))


def test_a_step_of_one_record_is_trained_on_as_it_is():
    task = task_of(1)
    found = Mixup().step(mean_gradient)(task, task.batch)
    for name, tensor in mean_gradient(task, task.batch).items():
        assert torch.allclose(found[name], tensor, atol=1e-6)


def test_each_step_draws_anew():
    task, batches = task_of(4), []
    for _ in range(2):
        Mixup().step(noting(batches))(task, task.batch)
    assert not torch.equal(batches[0].images, batches[2].images)


def test_the_true_images_fit_for_who_draws_as_the_client_did():
    exchange = tiny_exchange(defenses=[Mixup()])
    records = tiny_sample().batches[0]

    def off(seed, defenses=exchange.defenses):
        known = KnownDefenses(replace(exchange, defenses=defenses))
        found = known.change(
            exchange.model, records.images, records.labels, Seeds(seed).stream("attack")
        )
        gaps = [(g - exchange.update.change[name]).norm() for name, g in found.items()]
        return torch.stack(gaps).norm().item()

    distances = [off(seed) for seed in range(30)]
    assert min(distances) < 0.2 * off(0, defenses=()), "some draw comes near"
    assert max(distances) > 2 * min(distances), "but the attacker does not know which"


@pytest.mark.parametrize("alpha", [0.0, -1.0, 1e4])
def test_settings_that_make_no_sense(alpha):
    with pytest.raises(ConfigError, match=r"alpha must lie from 0\.01 to 1000"):
        build(Mixup, {"alpha": alpha}, "defense")
