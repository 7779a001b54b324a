"""The parts of a federation that need no Flower to run."""

import json

import pytest
import torch
from torch import nn

from medbreach import Batch, Defense
from medbreach.components import mean_gradient
from medbreach.errors import ConfigError, DataError
from medbreach.settings import build
from medbreach.testing import tiny_task
from medbreach_federation import Mean, Result
from medbreach_federation.capture import rounds_in
from medbreach_federation.defended_rule import DefendedRule
from medbreach_federation.memory import Memories
from medbreach_federation.prepare import prepare_federation
from medbreach_federation.proximal import Proximal
from medbreach_federation.record import RoundLine
from medbreach_federation.setting import Setting
from medbreach_federation.strategy import unfit

CPU = torch.device("cpu")


def test_a_client_finds_what_it_kept_before_a_round(tmp_path):
    """A round that is played again finds what it found the first time."""
    memories = Memories(tmp_path)
    assert memories.before(3, 1) == {}
    for number in (1, 2, 5):
        memories.keep(3, number, {"visits": number, "noise": torch.ones(2)})
    memories.keep(31, 5, {"visits": 99})
    assert memories.before(3, 6)["visits"] == 5
    assert memories.before(3, 5)["visits"] == 2
    assert len(list((tmp_path / "clients").glob("3-*.pt"))) == 2, "older ones are dropped"
    memories.forget_after(2)
    assert memories.before(3, 6)["visits"] == 2
    assert memories.before(31, 6) == {}


def test_a_client_without_memory_leaves_no_files(tmp_path):
    Memories(tmp_path).keep(0, 1, {})
    assert not list(tmp_path.iterdir())


def test_the_pull_of_fedprox_is_the_gradient_of_the_distance():
    task = tiny_task()
    sent = {name: p.detach() + 0.5 for name, p in task.model.named_parameters()}
    plain = mean_gradient(task, task.batch)
    pulled = Proximal(0.2, sent).step(mean_gradient)(task, task.batch)
    for name, gradient in plain.items():
        assert torch.allclose(pulled[name], gradient - 0.2 * 0.5, atol=1e-6)


class Halve(Defense):
    """Leaves one update of all, half as large."""

    name, source = "halve", "these tests"

    def aggregate(self, updates):
        from dataclasses import replace

        from medbreach import mean_update

        mean = mean_update(updates)
        return [replace(mean, change={n: g / 2 for n, g in mean.change.items()})]


def test_defenses_that_aggregate_come_before_the_rule():
    network = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
    before = {n: t.detach().clone() for n, t in network.state_dict().items()}
    sent = {
        k: Result({n: t + (k + 1) if t.is_floating_point() else t for n, t in before.items()}, 4)
        for k in range(3)
    }
    made = DefendedRule(Mean(), [Halve()], network).aggregate(1, before, sent).weights
    assert torch.allclose(made["0.weight"], before["0.weight"] + 1.0)
    assert torch.allclose(made["1.running_mean"], before["1.running_mean"] + 2.0)
    assert torch.equal(made["1.num_batches_tracked"], before["1.num_batches_tracked"])


def test_weights_that_do_not_fit_are_told():
    wanted = {"a": torch.zeros(2), "b": torch.zeros(1)}
    assert unfit(wanted, wanted) == ""
    assert "other tensors" in unfit({"a": torch.zeros(2)}, wanted)
    assert "shape (3,) instead of (2,)" in unfit({**wanted, "a": torch.zeros(3)}, wanted)
    bad = {**wanted, "b": torch.tensor([torch.nan])}
    assert unfit(bad, wanted) == "it returned b with values that are not finite"


def test_a_line_comes_back_as_it_was():
    line = RoundLine(2, {"auc": 0.5}, {}, {0: {"loss": 1.0}}, {3: "it failed: no"}, 1.5)
    assert RoundLine.of(json.loads(json.dumps(line.__dict__))) == line


@pytest.mark.parametrize("text", ["0", "4", "1,,2", "some", "-1"])
def test_rounds_that_are_not_there(text):
    with pytest.raises(ConfigError, match="is no round of 1 to 3"):
        rounds_in(text, 3)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"fraction": 0.0}, "fraction must lie above 0"),
        ({"strategy": "best"}, "strategy"),
        ({"trimmed": 0.5}, "trimmed must lie from 0 to below 0.5"),
        ({"malicious": -1}, "malicious must not be negative"),
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"speed": 1}, "federation has no key 'speed'"),
    ],
)
def test_settings_that_cannot_be(values, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build(Setting, values, "federation")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["attack=invertinggradients"], "attack has no effect on a federation"),
        (["case.user.num_data_points=3"], "case.user.num_data_points has no effect"),
        (["federation.rounds=1", "federation.rounds=2"], "is given twice"),
        (["defense=[none,example_sign]"], "one stack of defenses"),
        (["federation.clients=0"], "federation.clients must be at least 1"),
        (["federation.strategy=krum"], "krum needs 5 clients a round, and 4 of 4 take part"),
    ],
)
def test_settings_that_have_no_place(settings, sentence, tmp_path):
    with pytest.raises(ConfigError, match=sentence):
        prepare_federation(settings, CPU, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_learner_trains_as_an_audit_does(tmp_path):
    """The change is that of plain SGD over the client's records, written out."""
    made = prepare_federation(["federation.batch_size=32", "federation.clients=8"], CPU, tmp_path)
    from medbreach_federation import Instruction

    learner = made.learner
    first = learner.first()
    result = learner.train(Instruction(2, 1, first))
    batch, order = learner.images.records(2), learner.order(2, 1)
    network = learner.network_with(first)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05)
    shuffled = Batch(batch.images[order], batch.labels[order])
    for start in range(0, len(order), 32):
        part = slice(start, start + 32)
        outputs = network(learner.images.sample.spec.normalise(shuffled.images[part]))
        optimiser.zero_grad()
        nn.functional.cross_entropy(outputs, shuffled.labels[part]).backward()
        optimiser.step()
    for name, weight in network.named_parameters():
        assert torch.allclose(result.weights[name], weight.detach(), atol=1e-6)
    assert result.records == len(order)
    assert all(torch.equal(first[name], w) for name, w in learner.first().items())


def test_clients_without_patients_are_found_before_anything_is_written(tmp_path):
    dealt = ["federation.clients=100", "federation.partition=random"]
    with pytest.raises(
        DataError, match=r"clients would have no patients \(client \d+ is the first"
    ):
        prepare_federation(dealt, CPU, tmp_path / "run")
    assert not list(tmp_path.iterdir())
