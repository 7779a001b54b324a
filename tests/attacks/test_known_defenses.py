"""What an attacker simulates is what the client sends, and can be searched with."""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from medbreach import Defense, Seeds
from medbreach.attacks.known_defenses import KnownDefenses
from medbreach.breaching_bridge.objectives import Adaptive
from medbreach.breaching_bridge.values import shared_data
from medbreach.protocol import User
from medbreach.round import play
from medbreach.testing import tiny_case, tiny_sample

CPU = torch.device("cpu")
STEPS = User(
    "local_update", num_data_points=2, num_local_updates=3, num_data_per_local_update_step=1,
    local_learning_rate=0.1, provide_labels=True, provide_local_hyperparams=True,
)  # fmt: skip
USERS = {
    "gradient": User(num_data_points=2, provide_labels=True),
    "steps": STEPS,
    "two clients": replace(STEPS, user_type="multiuser_aggregate"),
}


@dataclass(frozen=True)
class Scaled(Defense):
    """Scale each step by a random factor, and send a third of the entries."""

    name: ClassVar[str] = "scaled"
    source: ClassVar[str] = "test"
    spread: float = 0.0

    def step(self, gradient):
        def stepped(task, batch):
            factor = 3 + self.spread * float(torch.randn((), generator=task.rng))
            return {n: factor * g for n, g in gradient(task, batch).items()}

        return stepped

    def wrap(self, train):
        def trained(task):
            update = train(task)
            kept = {n: g * (torch.arange(g.numel()) % 3 == 0).reshape(g.shape)
                    for n, g in update.change.items()}  # fmt: skip
            return replace(update, change=kept)

        return trained

    def simulate_step(self, gradient, seen):
        return self.step(gradient)

    def simulate_update(self, change, seen):
        return {n: g * (seen.change[n] != 0) for n, g in change.items()}


def simulated(user, defense, draws=1, space=(16, 16), channels=3):
    form = (space, channels)
    case, sample = tiny_case(*form, user=user), tiny_sample(*form, user=user)
    exchange = play(case, sample, [defense], Seeds(0), CPU)[0]
    images = sample.truth.images.clone().requires_grad_()
    known = KnownDefenses(exchange, draws)
    rng = torch.Generator().manual_seed(5)
    return exchange, images, known.change(exchange.model, images, sample.truth.labels, rng)


@pytest.mark.parametrize("user", USERS.values(), ids=USERS)
@pytest.mark.parametrize(("space", "channels"), [((16, 16), 3), ((8, 16, 16), 1)], ids=["2D", "3D"])
def test_the_true_records_give_the_update_that_was_sent(user, space, channels):
    exchange, images, change = simulated(user, Scaled(), space=space, channels=channels)
    for name, sent in exchange.update.change.items():
        assert torch.allclose(change[name], sent, rtol=1e-3, atol=1e-6), name
    (by_images,) = torch.autograd.grad(sum(g.square().sum() for g in change.values()), images)
    assert bool((by_images.flatten(1).abs().amax(1) > 0).all()), "every record counts"


def test_the_network_is_left_as_it_was():
    exchange, _, _ = simulated(STEPS, Scaled())
    before = {n: p.detach().clone() for n, p in exchange.model.named_parameters()}
    simulated(STEPS, Scaled())
    for name, p in exchange.model.named_parameters():
        assert isinstance(p, torch.nn.Parameter)
        assert torch.equal(p, before[name])


def test_noise_averages_out_over_draws():
    def off(draws):
        noiseless = simulated(USERS["gradient"], Scaled())[2]
        noisy = simulated(USERS["gradient"], Scaled(spread=1.0), draws)[2]
        name = next(iter(noisy))
        return float(
            (noisy[name] - noiseless[name]).detach().norm() / noiseless[name].detach().norm()
        )

    assert off(400) < 0.05
    assert off(1) > 0.05


@dataclass(frozen=True)
class Halved(Defense):
    """Send what lowers weights only."""

    name: ClassVar[str] = "halved"
    source: ClassVar[str] = "test"

    def wrap(self, train):
        def trained(task):
            update = train(task)
            return replace(update, change={n: g.clamp_max(0) for n, g in update.change.items()})

        return trained

    def simulate_update(self, change, seen):
        return {n: g.clamp_max(0) for n, g in change.items()}


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_change_of_weights_whose_recipe_is_withheld_points_the_right_way(rounds):
    """One step: the simulated update is the one that was seen, but for the rate."""
    user = replace(STEPS, num_local_updates=1, num_data_per_local_update_step=2)
    user = replace(user, provide_local_hyperparams=False)
    case, sample = tiny_case(user=user), tiny_sample(user=user)
    case = replace(case, server=replace(case.server, num_queries=rounds))
    (exchange,) = play(case, sample, [Halved()], Seeds(0), CPU)
    truth, known, rng = sample.truth, KnownDefenses(exchange), Seeds(0).stream("attack")
    seen = exchange.rounds[-1]
    found = known.change(seen.model, truth.images, truth.labels, rng, seen)
    for name, sent in seen.update.change.items():
        assert torch.allclose(0.1 * found[name], sent, rtol=1e-3, atol=1e-7), name
    containers = [SimpleNamespace(model=r.model) for r in exchange.rounds]
    step, _ = Adaptive(known, containers).step(
        SimpleNamespace(task_regularization=0), containers[-1],
        exchange.spec.normalise(truth.images), truth.labels,
    )  # fmt: skip
    for mine, passed_on in zip(step, shared_data(exchange)[-1]["gradients"], strict=True):
        assert torch.allclose(0.1 * mine, passed_on, rtol=1e-3, atol=1e-7)
