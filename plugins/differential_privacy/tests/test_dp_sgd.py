"""DP-SGD: Opacus' gradients, one record's influence, and the attacker who knows of it."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import nn

from medbreach import Batch, Defense, ModelError, Recipe, Refused, mean_gradient, trainable
from medbreach.attacks.known_defenses import KnownDefenses
from medbreach.errors import ConfigError
from medbreach.protocol import LocalNoise, User
from medbreach.randomness import Seeds
from medbreach.settings import build
from medbreach.testing import check, tiny_exchange, tiny_sample, tiny_task
from medbreach.training import LocalTrainer
from medbreach_differential_privacy import DPSGD, GaussianNoise

STEPS = User(
    "local_update", num_data_points=4, num_local_updates=3, num_data_per_local_update_step=2,
    local_learning_rate=0.1, provide_labels=True, provide_local_hyperparams=True,
)  # fmt: skip


def entries(change):
    return torch.cat([tensor.flatten() for tensor in change.values()])


def of_several(task, count=6):
    """Return a task with more records, of other places."""
    other = task.others(count - len(task.batch.labels))
    both = (torch.cat([getattr(task.batch, k), getattr(other, k)]) for k in ("images", "labels"))
    return replace(task, batch=Batch(*both))


@pytest.mark.parametrize(
    "settings",
    [None, {"noise_multiplier": 0.01, "accountant": "rdp"}, {"batch_norm": "convert"}],
    ids=str,
)
def test_it_keeps_the_contract(settings):
    check(DPSGD, settings)


def opacus(task, batches, sigma, bound, lr, rng):
    """Train with Opacus, and return the last gradient and the change of weights."""
    module = GradSampleModule(task.model).train()  # which its hooks need
    before = {name: p.detach().clone() for name, p in trainable(task.model).items()}
    optimizer = DPOptimizer(
        torch.optim.SGD(module.parameters(), lr=lr), noise_multiplier=sigma, max_grad_norm=bound,
        expected_batch_size=len(batches[0].labels), generator=rng,
    )  # fmt: skip
    for batch in batches:
        optimizer.zero_grad()
        loss = task.loss(module(task.spec.normalise(batch.images)), batch.labels)
        loss.backward()
        optimizer.step()
    gradient = {name: p.grad for name, p in trainable(task.model).items()}
    change = {name: p.detach() - before[name] for name, p in trainable(task.model).items()}
    return gradient, change


@pytest.mark.filterwarnings("ignore:Full backward hook:UserWarning")
@pytest.mark.parametrize("sigma", [0.0, 0.7])
@pytest.mark.parametrize("form", [((16, 16), 3), ((8, 16, 16), 1)], ids=str)
def test_a_gradient_is_opacus(form, sigma):
    """With a bound that clips some of the records and not others, and the same noise."""
    task = of_several(tiny_task(*form))
    singles = [
        mean_gradient(task, Batch(task.batch.images[i : i + 1], task.batch.labels[i : i + 1]))
        for i in range(6)
    ]
    norms = torch.stack([entries(g).norm() for g in singles])
    bound = norms.median().item() * 1.001
    assert 0 < (norms > bound).sum() < 6
    made = DPSGD(noise_multiplier=sigma, max_grad_norm=bound)
    own = replace(task, rng=torch.Generator().manual_seed(3))
    ours = made.step(mean_gradient)(own, task.batch)
    theirs, _ = opacus(task, [task.batch], sigma, bound, 0.0, torch.Generator().manual_seed(3))
    assert entries(ours).allclose(entries(theirs), rtol=1e-4, atol=1e-6 * bound)
    plain = entries(mean_gradient(task, task.batch))
    assert not entries(ours).allclose(plain, rtol=0.01), "the bound did something"


@pytest.mark.filterwarnings("ignore:Full backward hook:UserWarning")
def test_local_training_is_opacus():
    task = of_several(tiny_task(recipe=Recipe(steps=3, records_per_step=2, lr=0.5)))
    made = DPSGD(noise_multiplier=0.5, max_grad_norm=0.2)

    drawn = torch.Generator().manual_seed(1)
    stepping = replace(task, gradient=made.step(mean_gradient), rng=drawn)
    twin = torch.Generator().manual_seed(1)
    theirs = tiny_task()
    batches = [Batch(task.batch.images[i : i + 2], task.batch.labels[i : i + 2]) for i in (0, 2, 4)]
    _, change = opacus(theirs, batches, 0.5, 0.2, 0.5, twin)
    ours = LocalTrainer()(stepping)
    assert entries(ours.change).allclose(entries(change), rtol=1e-3, atol=1e-5)
    assert entries(change).norm() > 0.1


def test_breaching_can_be_set_to_it():
    """Its keys take the noise on the mean: for B records, multiplier times norm over B."""
    noise = LocalNoise(
        gradient_noise=0.7 * 0.3 / 2, distribution="gaussian", per_example_clipping=0.3
    )
    user = User(num_data_points=2)
    breaching = tiny_exchange(user=replace(user, local_diff_privacy=noise)).update.change
    ours = tiny_exchange(user=user, defenses=[DPSGD(0.7, 0.3)]).update.change
    assert entries(ours).allclose(entries(breaching), rtol=1e-4, atol=1e-6)


def test_one_record_changes_the_sum_by_at_most_the_norm():
    task = of_several(tiny_task())
    loud = task.batch.images.clone()
    loud[0] *= 1000
    made = DPSGD(noise_multiplier=0.0, max_grad_norm=0.05)

    def total(images):
        records = Batch(images, task.batch.labels[: len(images)])
        return len(images) * entries(made.step(mean_gradient)(task, records))

    def without_first():
        rest = Batch(task.batch.images[1:], task.batch.labels[1:])
        return 5 * entries(made.step(mean_gradient)(task, rest))

    assert (total(loud) - without_first()).norm() <= 0.05 * 1.0001
    assert (total(loud) - without_first()).norm() > 0.04, "it counts at all"


def test_the_noise_has_the_deviation():
    bare = tiny_exchange(defenses=[DPSGD(0.0, 0.5)]).update
    noisy = tiny_exchange(defenses=[DPSGD(2.0, 0.5)]).update
    noise = entries(noisy.change) - entries(bare.change)
    expected = 2.0 * 0.5 / 2  # on the mean of two records
    assert noise.std().item() == pytest.approx(expected, rel=0.03)
    assert DPSGD(2.0, 0.5).noise(noisy) == pytest.approx(expected)
    assert DPSGD(2.0, 0.5).noise(replace(noisy, count=None)) == pytest.approx(expected), "labels"
    nothing = replace(noisy, count=None, labels=None)
    assert DPSGD(2.0, 0.5).noise(nothing) == pytest.approx(2 * expected), "one record at least"


def test_an_attacker_knows_the_noise_on_local_training():
    user = replace(STEPS, num_data_points=3)  # steps of 2, 1 and 2 records
    bare = tiny_exchange(user=user, defenses=[DPSGD(0.0, 0.01)]).update
    noisy = tiny_exchange(user=user, defenses=[DPSGD(0.5, 0.01)]).update
    noise = entries(noisy.change) - entries(bare.change)
    expected = 0.1 * 0.5 * 0.01 * math.sqrt(1 / 4 + 1 + 1 / 4)
    assert DPSGD(0.5, 0.01).noise(noisy) == pytest.approx(expected)
    assert noise.std().item() == pytest.approx(expected, rel=0.05)
    sizes = replace(noisy, recipe=replace(noisy.recipe, labels=None))
    assert DPSGD(0.5, 0.01).noise(sizes) == pytest.approx(0.1 * 0.5 * 0.01 * math.sqrt(3 / 4))
    assert DPSGD(0.5, 0.01).noise(replace(noisy, recipe=None)) == 0.0


def test_an_attacker_knows_the_noise_on_an_aggregate():
    user = User("multiuser_aggregate", num_data_points=2, aggregation="secure")
    bare = tiny_exchange(user=user, defenses=[DPSGD(0.0, 1.0)]).update
    noisy = tiny_exchange(user=user, defenses=[DPSGD(1.0, 1.0)]).update
    noise = entries(noisy.change) - entries(bare.change)
    assert DPSGD().noise(noisy) == pytest.approx(0.5 / math.sqrt(2))
    assert noise.std().item() == pytest.approx(0.5 / math.sqrt(2), rel=0.03)


@pytest.mark.parametrize("user", [User(num_data_points=4, provide_labels=True), STEPS], ids=str)
def test_an_attacker_with_the_true_images_finds_what_was_sent(user):
    exchange = tiny_exchange(user=user, defenses=[DPSGD(0.0, 0.05)])
    truth = tiny_sample(user=user).batches[0]
    pairs = [2 * i + truth.labels[2 * i : 2 * i + 2].argsort() for i in range(2)]
    order = torch.cat(pairs)  # steps' labels are known in ascending order
    images, labels = truth.images[order], truth.labels[order]
    rng = Seeds(0).stream("attack")
    known = KnownDefenses(exchange).change(exchange.model, images, labels, rng)
    sent = entries(exchange.update.change)
    assert entries(known).allclose(sent, rtol=1e-4, atol=1e-6)
    bare = replace(exchange, defenses=())
    unaware = KnownDefenses(bare).change(exchange.model, images, labels, rng)
    assert (entries(unaware) - sent).norm() > 0.5 * sent.norm()


def normalised(kind=nn.BatchNorm2d, **settings):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), kind(8, **settings), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 196, 2)
    )


SPEC = tiny_task().spec


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (normalised(), "the layer 1: BatchNorm mixes the records"),
        (normalised(affine=False, track_running_stats=False), "the layer 1: BatchNorm"),
        (normalised(nn.InstanceNorm2d, track_running_stats=True), "the buffer 1.running_mean"),
    ],
    ids=["BatchNorm", "without weights", "InstanceNorm with statistics"],
)
def test_statistics_of_records_are_refused(network, sentence):
    with pytest.raises(ModelError, match=sentence):
        DPSGD().remodel(network, SPEC, 2)
    with pytest.raises(Refused, match=sentence):
        DPSGD().vet(network, SPEC)


def test_buffers_that_do_not_depend_on_records_pass():
    network = normalised(nn.InstanceNorm2d, affine=True)
    network.register_buffer("steps", torch.zeros(1))
    nn.utils.parametrizations.spectral_norm(network[0])
    assert DPSGD().remodel(network, SPEC, 2) is network


def test_batch_norm_becomes_group_norm():
    network = DPSGD(batch_norm="convert").remodel(normalised(), SPEC, 2)
    assert isinstance(network[1], nn.GroupNorm)
    assert network[1].num_channels == 8
    with pytest.raises(ModelError, match="if it has weights"):
        DPSGD(batch_norm="convert").remodel(normalised(affine=False), SPEC, 2)


@dataclass(frozen=True)
class Mixup(Defense):
    """Stand in for a defense of that name."""

    name: ClassVar[str] = "mixup"
    source: ClassVar[str] = "none"


@dataclass(frozen=True)
class LooksAgain(Defense):
    """Stand in for a defense that reads a step's records, as one that masks a layer does."""

    name: ClassVar[str] = "looks_again"
    source: ClassVar[str] = "none"

    def step(self, gradient):
        return gradient


def test_what_contradicts_it():
    made = DPSGD()
    assert made.conflict([made]) == ""
    assert made.conflict([made, GaussianNoise()]) == ""
    assert "stands in it twice" in made.conflict([made, DPSGD(0.5)])
    for stack in ([Mixup(), made], [made, Mixup()]):
        assert made.conflict(stack).startswith("mixup mixes records with each other")
    assert made.conflict([LooksAgain(), made]) == "", "then it sees one record at a time"
    assert "looks_again around dp_sgd is given the records" in made.conflict([made, LooksAgain()])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"noise_multiplier": -1.0}, "noise_multiplier must not be negative"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be positive"),
        ({"delta": 0.0}, "delta must lie above 0 and below 1"),
        ({"delta": 1.0}, "delta must lie above 0 and below 1"),
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"sample_rate": 1.5}, "sample_rate must lie above 0"),
        ({"accountant": "moments"}, "defense.accountant must be"),
        ({"batch_norm": "keep"}, "defense.batch_norm must be"),
    ],
)
def test_settings_that_make_no_sense(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build(DPSGD, settings, "defense")
