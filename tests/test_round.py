"""A round of the protocol: what clients compute, what the server sees, and what stays untouched."""

import copy
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import nn

from medbreach.case import Case, draw
from medbreach.components import Defense, Model, Planted, Server
from medbreach.datasets.dermoscopy import Dermoscopy
from medbreach.errors import ConfigError, ContractError, NotApplicable, Refused
from medbreach.models.small_cnn import SmallCNN
from medbreach.protocol import LocalNoise, User
from medbreach.randomness import Seeds
from medbreach.round import mean_update, play
from medbreach.servers.honest_but_curious import HonestServer
from medbreach.types import Change

CPU = torch.device("cpu")
AGGREGATE = {"user_type": "multiuser_aggregate", "user_range": (0, 2)}
CASE = Case("round", Dermoscopy(), SmallCNN(width=4))


@dataclass(frozen=True)
class NormalisedCNN(Model):
    """A network with batch normalisation."""

    name: ClassVar[str] = "normalised_cnn"
    source: ClassVar[str] = "tests"

    def build(self, spec, classes):
        convolution, norm = (
            (nn.Conv2d, nn.BatchNorm2d) if len(spec.space) == 2 else (nn.Conv3d, nn.BatchNorm3d)
        )
        return nn.Sequential(
            convolution(spec.channels, 4, 3),
            norm(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.LazyLinear(classes),
        )


def case_for(**changes):
    user = changes.pop("user", {})
    return replace(CASE, user=User(**({"num_data_points": 3} | user)), **changes)


@pytest.fixture
def sampled(collection):
    def sample_of(case, seed=0):
        return draw(case, collection, Seeds(seed), decoys=20, public=100)

    return sample_of


def exchange_of(case, sample, defenses=(), seed=0):
    (exchange,) = play(case, sample, defenses, Seeds(seed), CPU)
    return exchange


def gradient_by_hand(model, sample, batch):
    loss = nn.functional.cross_entropy(model(sample.spec.normalise(batch.images)), batch.labels)
    parameters = dict(model.named_parameters())
    return dict(zip(parameters, torch.autograd.grad(loss, parameters.values()), strict=True))


def assert_same(found, expected, **tolerance):
    assert list(found) == list(expected)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], **tolerance)


def test_a_gradient_is_that_of_the_mean_loss(sampled):
    case = case_for()
    sample = sampled(case)
    exchange = exchange_of(case, sample)
    assert exchange.update.kind is Change.GRADIENT
    assert_same(exchange.update.change, gradient_by_hand(exchange.model, sample, sample.batches[0]))


def test_local_training_is_plain_sgd_over_the_records_in_order(sampled):
    case = case_for(
        user={
            "user_type": "local_update",
            "num_data_points": 4,
            "num_local_epochs": 2,
            "num_data_per_local_update_step": 2,
            "local_learning_rate": 0.1,
            "provide_local_hyperparams": True,
        }
    )
    sample = sampled(case)
    exchange = exchange_of(case, sample)
    by_name = {name: p.detach().clone() for name, p in exchange.model.named_parameters()}
    optimizer = torch.optim.SGD(exchange.model.parameters(), lr=0.1)
    batch = sample.batches[0]
    for start in (0, 2, 0, 2):
        images, labels = batch.images[start : start + 2], batch.labels[start : start + 2]
        optimizer.zero_grad()
        outputs = exchange.model(sample.spec.normalise(images))
        nn.functional.cross_entropy(outputs, labels).backward()
        optimizer.step()
    expected = {n: p.detach() - by_name[n] for n, p in exchange.model.named_parameters()}
    assert exchange.update.kind is Change.DIFFERENCE
    assert_same(exchange.update.change, expected, rtol=1e-4, atol=1e-6)
    assert (exchange.update.recipe.steps, exchange.update.recipe.lr) == (4, 0.1)
    assert [y.tolist() for y in exchange.update.recipe.labels[:2]] == [
        sorted(batch.labels[:2].tolist()),
        sorted(batch.labels[2:].tolist()),
    ]


def test_a_secure_aggregate_is_the_exact_mean_and_nothing_else(sampled):
    case = case_for(
        user={"user_type": "multiuser_aggregate", "user_range": (0, 3), "num_data_points": 2}
    )
    sample = sampled(case)
    exchange = exchange_of(case, sample)
    each = [gradient_by_hand(exchange.model, sample, batch) for batch in sample.batches]
    mean = {n: torch.stack([g[n].double() for g in each]).mean(0).float() for n in each[0]}
    assert_same(exchange.update.change, mean, rtol=0, atol=1e-7)
    assert (exchange.update.clients, exchange.update.count) == (3, 6)
    assert sample.owners == (0, 0, 1, 1, 2, 2)
    # With equal counts that is also the gradient of everybody's records together.
    together = gradient_by_hand(exchange.model, sample, sample.truth)
    assert_same(exchange.update.change, together, rtol=1e-4, atol=1e-6)


def test_plain_aggregation_shows_each_update(sampled):
    user = {**AGGREGATE, "aggregation": "plain"}
    case = case_for(user=user)
    sample = sampled(case)
    seen = play(case, sample, (), Seeds(0), CPU)
    assert len(seen) == 2
    for exchange, batch in zip(seen, sample.batches, strict=True):
        assert_same(exchange.update.change, gradient_by_hand(exchange.model, sample, batch))


def test_the_mean_of_equal_updates_is_that_update(sampled):
    case = case_for()
    update = exchange_of(case, sampled(case)).update
    mean = mean_update([update] * 3)
    assert_same(mean.change, update.change, rtol=0, atol=0)
    assert (mean.buffers, mean.labels, mean.count, mean.clients) == (None, None, 9, 3)
    assert mean_update([mean]).clients == 3, "of clients, not of updates"


@pytest.mark.parametrize("told", [True, False])
def test_what_is_withheld_is_not_in_the_exchange(sampled, told):
    switches = dict.fromkeys(
        (
            "provide_labels",
            "provide_buffers",
            "provide_num_data_points",
            "provide_local_hyperparams",
        ),
        told,
    )
    case = case_for(user={"user_type": "local_update", **switches}, model=NormalisedCNN())
    update = exchange_of(case, sampled(case)).update
    for value in (update.labels, update.buffers, update.count, update.recipe):
        assert (value is not None) is told


def test_labels_are_told_without_their_order(sampled):
    case = case_for(user={"provide_labels": True, "num_data_points": 6})
    sample = sampled(case)
    assert exchange_of(case, sample).update.labels.tolist() == sorted(sample.truth.labels.tolist())


def test_public_statistics_are_used_and_left_alone(sampled):
    case = case_for(model=NormalisedCNN(), user={"provide_buffers": True})
    exchange = exchange_of(case, sampled(case))
    assert not exchange.rounds[0].training
    assert_same(exchange.update.buffers, dict(exchange.model.named_buffers()))


def test_a_batch_in_training_mode_gives_its_own_statistics_away(sampled):
    server = HonestServer(provide_public_buffers=False)
    case = case_for(model=NormalisedCNN(), server=server, user={"provide_buffers": True})
    sample = sampled(case)
    exchange = exchange_of(case, sample)
    assert exchange.rounds[0].training
    features = exchange.model[0](sample.spec.normalise(sample.truth.images))
    axes = (0, *range(2, features.ndim))
    torch.testing.assert_close(exchange.update.buffers["1.running_mean"], features.mean(axes))
    torch.testing.assert_close(
        exchange.update.buffers["1.running_var"], features.var(axes), rtol=1e-4, atol=1e-5
    )
    assert_same(
        exchange.update.change, gradient_by_hand(exchange.model.train(), sample, sample.truth)
    )


def test_the_network_that_was_sent_is_not_the_one_that_was_trained(sampled):
    case = case_for(user={"user_type": "local_update", "local_learning_rate": 1.0})
    exchange = exchange_of(case, sampled(case))
    again = exchange_of(case, sampled(case))
    assert_same(dict(exchange.model.named_parameters()), dict(again.model.named_parameters()))


NOISE = {
    "gradient": LocalNoise(gradient_noise=0.5),
    "input": LocalNoise(input_noise=0.5),
    "clipped": LocalNoise(per_example_clipping=1e-3),
}


@pytest.mark.parametrize("kind", NOISE)
def test_a_clients_noise_leaves_the_truth_alone(sampled, kind):
    plain = case_for()
    noisy = replace(plain, user=replace(plain.user, local_diff_privacy=NOISE[kind]))
    sample = sampled(noisy)
    before = sample.truth.images.clone()
    changed = exchange_of(noisy, sample).update.change
    assert torch.equal(sample.truth.images, before)
    assert torch.equal(sampled(plain).truth.images, before)
    usual = exchange_of(plain, sample).update.change
    assert all(not torch.equal(changed[n], usual[n]) for n in usual)


@pytest.mark.parametrize(
    ("distribution", "deviation"), [("gaussian", 0.5), ("laplacian", 0.5 * 2**0.5)]
)
def test_gradient_noise_has_the_scale_that_is_asked_for(sampled, distribution, deviation):
    plain = case_for(model=SmallCNN(width=32))
    noise = LocalNoise(gradient_noise=0.5, distribution=distribution)
    noisy = replace(plain, user=replace(plain.user, local_diff_privacy=noise))
    sample = sampled(plain)
    usual, changed = (exchange_of(c, sample).update.change for c in (plain, noisy))
    added = torch.cat([(changed[n] - usual[n]).flatten() for n in usual])
    assert float(added.std()) == pytest.approx(deviation, rel=0.05)
    assert float(added.mean()) == pytest.approx(0, abs=4 * deviation / len(added) ** 0.5)


def test_clipping_is_of_each_records_gradient(sampled):
    plain = case_for()
    bound = LocalNoise(per_example_clipping=0.01)
    clipped = replace(plain, user=replace(plain.user, local_diff_privacy=bound))
    sample = sampled(plain)
    exchange = exchange_of(clipped, sample)
    expected = {}
    for image, label in zip(sample.truth.images, sample.truth.labels, strict=True):
        one = replace(sample.truth, images=image[None], labels=label[None])
        gradient = gradient_by_hand(exchange.model, sample, one)
        norm = torch.cat([g.flatten() for g in gradient.values()]).norm()
        for name, g in gradient.items():
            expected[name] = expected.get(name, 0) + g * min(1.0, 0.01 / float(norm)) / 3
    assert_same(exchange.update.change, expected, rtol=1e-3, atol=1e-8)
    total = torch.cat([g.flatten() for g in exchange.update.change.values()]).norm()
    assert float(total) <= 0.01 * (1 + 1e-5)


class Halving(Defense):
    """Send half of the update."""

    name: ClassVar[str] = "halving"
    source: ClassVar[str] = "tests"

    def wrap(self, train):
        def trained(task):
            update = train(task)
            return replace(update, change={n: g / 2 for n, g in update.change.items()})

        return trained


def test_attacks_and_defenses_never_change_who_is_drawn(sampled):
    case = case_for()
    sample = sampled(case)
    usual, halved = exchange_of(case, sample), exchange_of(case, sample, [Halving()])
    assert_same(
        halved.update.change, {n: g / 2 for n, g in usual.update.change.items()}, rtol=0, atol=0
    )
    assert torch.equal(sample.truth.images, sampled(case).truth.images)
    assert not torch.equal(sample.truth.images, sampled(case, seed=1).truth.images)


def test_a_defense_that_breaks_an_update_is_found_out(sampled):
    class Broken(Halving):
        name: ClassVar[str] = "broken"

        def wrap(self, train):
            def trained(task):
                update = train(task)
                return replace(update, change={n: g.sum() for n, g in update.change.items()})

            return trained

    case = case_for()
    with pytest.raises(ContractError, match="broken returned an update of other shapes"):
        play(case, sampled(case), [Broken()], Seeds(0), CPU)


def test_a_defense_that_leaves_nothing_to_aggregate_is_found_out(sampled):
    class Greedy(Halving):
        name: ClassVar[str] = "greedy"

        def aggregate(self, updates):
            return []

    case = case_for()
    with pytest.raises(ContractError, match="greedy left no update"):
        play(case, sampled(case), [Greedy()], Seeds(0), CPU)


def test_a_defense_may_refuse_what_the_server_sent(sampled):
    class Suspicious(Halving):
        name: ClassVar[str] = "suspicious"

        def vet(self, model, spec):
            raise Refused("too many parameters")

    case = case_for()
    with pytest.raises(Refused, match="too many parameters"):
        play(case, sampled(case), [Suspicious()], Seeds(0), CPU)


@dataclass(frozen=True)
class TwoFaced(Server):
    """A server that sends the first client a clean network and all others another."""

    name: ClassVar[str] = "two_faced"
    source: ClassVar[str] = "ours"

    def plant(self, model, spec, public, rng):
        for p in model.parameters():
            p.data.zero_()
        return Planted(model)

    def send(self, planted, client):
        if client:
            return planted.model
        clean = copy.deepcopy(planted.model)
        for p in clean.parameters():
            p.data.fill_(1.0)
        return clean


def test_each_network_that_a_client_receives_is_vetted(sampled):
    class Wary(Halving):
        name: ClassVar[str] = "wary"

        def vet(self, model, spec):
            if not any(p.any() for p in model.parameters()):
                raise Refused("it is empty")

    case = case_for(user=AGGREGATE, server=TwoFaced())
    with pytest.raises(Refused, match="it is empty"):
        play(case, sampled(case), [Wary()], Seeds(0), CPU)


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (nn.Linear(3, 2), "sent client 1 other parameters or buffers than it planted"),
        ({"0.weight": torch.zeros(1)}, "sent a dict, no network"),
    ],
)
def test_a_server_that_sends_a_client_something_else(sent, message, sampled):
    class Careless(TwoFaced):
        name: ClassVar[str] = "careless"

        def send(self, planted, client):
            return sent if client == 1 else planted.model

    case = case_for(user=AGGREGATE, server=Careless())
    with pytest.raises(ContractError, match=message):
        play(case, sampled(case), [], Seeds(0), CPU)


def test_rounds_that_do_not_fit_into_memory_are_refused(sampled, monkeypatch):
    case = case_for()
    monkeypatch.setattr("medbreach.round.available_memory", lambda device: 1000)
    with pytest.raises(
        NotApplicable, match=r"the network that honest_but_curious sends has 0\.0 GiB"
    ):
        play(case, sampled(case), [], Seeds(0), CPU)


def test_what_a_defense_does_while_it_vets_stays_with_the_client(sampled):
    class Wiping(Halving):
        name: ClassVar[str] = "wiping"

        def vet(self, model, spec):
            for p in model.parameters():
                p.data.zero_()

    case = case_for()
    (exchange,) = play(case, sampled(case), [Wiping()], Seeds(0), CPU)
    assert any(p.abs().sum() > 0 for p in exchange.model.parameters())


def test_a_server_that_returns_a_bare_network(sampled):
    class Bare(HonestServer):
        name: ClassVar[str] = "bare"

        def plant(self, model, spec, public, rng):
            return model

    case = case_for(server=Bare())
    with pytest.raises(ContractError, match=r"bare returned a .*, no Planted network"):
        play(case, sampled(case), [], Seeds(0), CPU)


def test_several_queries_are_several_rounds_over_the_same_records(sampled):
    case = case_for(server=HonestServer(num_queries=2))
    exchange = exchange_of(case, sampled(case))
    assert len(exchange.rounds) == 2
    assert_same(exchange.rounds[0].update.change, exchange.rounds[1].update.change)


def test_double_precision_is_finer(sampled):
    case = case_for()
    sample = sampled(case)
    single = exchange_of(case, sample).update.change
    double = exchange_of(replace(case, dtype=torch.float64), sample).update.change
    assert all(g.dtype == torch.float64 for g in double.values())
    assert_same({n: g.double() for n, g in single.items()}, double, rtol=1e-2, atol=1e-5)


def test_playing_leaves_the_global_generator_alone(sampled, untouched_randomness):
    case = case_for(server=HonestServer(model_state="orthogonal"))
    play(case, sampled(case), (), Seeds(0), CPU)


def test_clients_that_are_not_there_are_said(sampled):
    with pytest.raises(ConfigError, match=r"user_idx is 9.*clients 0 to 3"):
        sampled(case_for(user={"user_idx": 9}))
    with pytest.raises(ConfigError, match=r"user_range ends at 9.*gives 4 clients"):
        sampled(case_for(user={"user_type": "multiuser_aggregate", "user_range": (0, 9)}))


def test_without_external_data_the_attacker_holds_no_images(sampled):
    case = case_for(server=HonestServer(has_external_data=False))
    assert len(exchange_of(case, sampled(case)).public) == 0
