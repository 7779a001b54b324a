"""Federated training: federated averaging by hand, defenses in it, and going on with it."""

import copy
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import nn

from medbreach import Defense, Guarantee, Seeds
from medbreach.errors import ContractError, Refused
from medbreach.testing import tiny_case, tiny_collection
from medbreach.tradeoff.images import DealtImages
from medbreach.tradeoff.training import FederatedTraining, Training

CPU = torch.device("cpu")
SHORT = Training(rounds=3, batch_size=8, learning_rate=0.05, local_epochs=2)


def federated(training=SHORT, defenses=(), form=((16, 16), 3), **changes):
    case = tiny_case(*form, **changes)
    images = DealtImages(case, tiny_collection(*form), Seeds(0), decoys=4, public=20)
    return FederatedTraining(case, training, defenses, images, Seeds(0), CPU)


def weights(state):
    return torch.cat([p.detach().flatten() for p in state.model.parameters()])


def trained(made):
    return made.go_on(made.start(), lambda _: None)


def test_it_is_federated_averaging():
    """One round of two clients, written out with torch's own optimiser."""
    made = federated(replace(SHORT, rounds=1))
    start = made.start()
    first = copy.deepcopy(start.model)
    changes = []
    for k in range(2):
        batch, model = made.images.records(k), copy.deepcopy(first)
        order = torch.randperm(len(batch.labels), generator=Seeds(0).stream(f"order/{k}/0"))
        images, labels = made.images.sample.spec.normalise(batch.images[order]), batch.labels[order]
        optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
        for _ in range(2):
            for i in range(0, len(labels), 8):
                optimiser.zero_grad()
                nn.functional.cross_entropy(model(images[i : i + 8]), labels[i : i + 8]).backward()
                optimiser.step()
        changes.append([p - q for p, q in zip(model.parameters(), first.parameters(), strict=True)])
    state = trained(made)
    by_hand = [q + (a + b) / 2 for q, a, b in zip(first.parameters(), *changes, strict=True)]
    by_hand = torch.cat([p.detach().flatten() for p in by_hand])
    assert torch.allclose(weights(state), by_hand, atol=1e-6)


@pytest.mark.parametrize("form", [((16, 16), 3), ((8, 16, 16), 1)], ids=["2D", "3D"])
def test_training_lowers_the_loss(form):
    made = federated(Training(rounds=15, learning_rate=0.1), form=form)
    before, after = made.start(), trained(made)

    def loss(state):
        batch = made.images.records(0)
        with torch.no_grad():
            outputs = state.model.eval()(made.images.sample.spec.normalise(batch.images))
        return float(nn.functional.cross_entropy(outputs, batch.labels))

    assert loss(after) < loss(before)
    said = made.predictions(after)
    assert len(said.labels) == len(made.images.dealt.public)
    assert torch.allclose(said.probabilities.sum(1), torch.ones(len(said.labels)), atol=1e-5)


@dataclass(frozen=True)
class Counting(Defense):
    """Keeps a count and a tensor in its memory and drifts with them."""

    name: ClassVar[str] = "counting"
    source: ClassVar[str] = "test"

    def wrap(self, train):
        def done(task):
            task.memory["counting.rounds"] = task.memory.get("counting.rounds", 0) + 1
            drift = task.memory.get("counting.drift", torch.zeros(1)) + torch.randn(
                1, generator=task.rng
            )
            task.memory["counting.drift"] = drift
            update = train(task)
            return replace(update, change={n: g + 0.01 * drift for n, g in update.change.items()})

        return done

    def guarantee(self, work):
        return Guarantee(
            float(work.rounds * work.steps), 0.0, "record", "replace one", 1, "counted"
        )

    def deploy(self, model, memory, rng):
        return nn.Sequential(model, nn.Linear(2, 2)) if memory["counting.rounds"] < 0 else model


def test_a_training_goes_on_where_it_was(tmp_path):
    whole = trained(federated(replace(SHORT, momentum=0.5), [Counting()]))
    made = federated(replace(SHORT, momentum=0.5), [Counting()])
    halves = made.start()

    def stop(state):
        if state.rounds == 2:
            torch.save(state.keep(), tmp_path / "kept")
            raise InterruptedError

    with pytest.raises(InterruptedError):
        made.go_on(halves, stop)
    again = made.start()
    again.go_on(torch.load(tmp_path / "kept", weights_only=True))
    assert torch.equal(weights(made.go_on(again, lambda _: None)), weights(whole))
    assert again.memories[0]["counting.rounds"] == 3


def test_defenses_count_the_rounds_and_are_deployed_for_each_client():
    made = federated(SHORT, [Counting()])
    most = max(map(len, made.images.dealt.clients))
    (given,) = made.guarantees()
    assert given.epsilon == 3 * 2 * -(-most // 8)
    assert len(made.deployed(trained(made))) == 2
    assert len(federated().deployed(trained(federated()))) == 1


def test_many_images_are_read_and_shown_some_at_a_time(monkeypatch):
    made = federated()
    said = made.predictions(made.start())
    monkeypatch.setattr("medbreach.tradeoff.images.KEPT_BYTES", 0)
    monkeypatch.setattr("medbreach.tradeoff.predictions.VALUES", 3 * 3 * 16 * 16)
    few = federated()
    assert max(map(len, few.images.tested())) == 3
    assert not few.images._parts
    again = few.predictions(few.start())
    assert torch.allclose(again.probabilities, said.probabilities, atol=1e-6)
    assert torch.equal(again.labels, said.labels)


def test_a_training_that_diverges_says_so():
    with pytest.raises(ContractError, match="not finite"):
        trained(federated(Training(rounds=5, learning_rate=1e20), [Counting()]))


@dataclass(frozen=True)
class Fixed(Defense):
    """Hands on updates, and deploys networks, as it is told."""

    name: ClassVar[str] = "fixed"
    source: ClassVar[str] = "test"
    aggregated: tuple = ()
    deployed: object = None

    def aggregate(self, updates):
        return [fit(updates[0]) for fit in self.aggregated]

    def deploy(self, model, memory, rng):
        return self.deployed or model


def cut(update):
    return replace(update, change={name: g[:1] for name, g in update.change.items()})


@pytest.mark.parametrize(
    ("defense", "sentence"),
    [
        (Fixed(), "fixed left no update to aggregate"),
        (Fixed((cut,)), "fixed returned an update of other shapes than the model"),
        (Fixed((lambda u: u,), "text"), "fixed deploys a str, no network"),
    ],
)
def test_what_a_defense_returns_is_checked(defense, sentence):
    made = federated(defenses=[defense])
    with pytest.raises(ContractError, match=sentence):
        made.predictions(trained(made))


def test_a_network_that_clients_refuse_is_not_trained():
    @dataclass(frozen=True)
    class Wary(Fixed):
        def vet(self, model, spec):
            raise Refused("it looks odd")

    with pytest.raises(Refused, match="it looks odd"):
        federated(defenses=[Wary()]).start()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"momentum": 0.5, "server_optimizer": "adam"}, "momentum has no effect with"),
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
        ({"momentum": 1.0}, "momentum must lie from 0 to below 1, got 1.0"),
    ],
)
def test_settings_that_make_no_sense(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        Training(**settings)
