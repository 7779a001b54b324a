"""The parts of a federation that need no Flower to run."""

import json

import pytest
import torch
from torch import nn

from medbreach import Batch, Defense
from medbreach.components import mean_gradient
from medbreach.errors import ConfigError, ContractError, DataError, RecordError
from medbreach.models.user_network import UserNetwork
from medbreach.models.weights import load_weights
from medbreach.settings import build
from medbreach.testing import tiny_task
from medbreach_federation import FlowerRule, Instruction, Mean, Result, Strength
from medbreach_federation.capture import check_capture, rounds_in
from medbreach_federation.defended_rule import DefendedRule
from medbreach_federation.memory import Memories
from medbreach_federation.prepare import prepare_federation
from medbreach_federation.proximal import Proximal
from medbreach_federation.record import RoundLine, State, taken, write_state
from medbreach_federation.setting import Setting
from medbreach_federation.strategy import unfit
from medbreach_secure_aggregation import SecureAggregation

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


def test_a_client_that_ends_late_does_not_forget_what_came_after(tmp_path):
    memories = Memories(tmp_path)
    for number, visits in ((1, 1), (3, 2), (2, 99)):
        memories.keep(0, number, {"visits": visits})
    assert memories.before(0, 4)["visits"] == 2
    assert memories.before(0, 3)["visits"] == 1


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


@pytest.fixture
def network():
    return nn.Linear(2, 1)


def test_a_rule_that_compares_clients_is_refused_where_a_defense_leaves_one(network):
    krum = DefendedRule(FlowerRule("krum", Strength(malicious=1)), [Halve()], network)
    with pytest.raises(ConfigError, match="halve makes 1 of 5 clients' updates, and krum compares"):
        krum.check(5, 1.0)
    DefendedRule(FlowerRule("fedadam"), [Halve()], network).check(5, 1.0)


class Shrinks(Defense):
    """Leaves one update, and knows networks with a bias only."""

    name, source = "shrinks", "these tests"

    def aggregate(self, updates):
        if "bias" not in updates[0].change:
            raise LookupError("bias")
        return updates[:1]


def test_what_cannot_be_known_before_is_found_in_the_round():
    network = nn.Linear(3, 1)
    rule = DefendedRule(FlowerRule("median"), [Shrinks()], network)
    rule.check(4, 1.0)
    before = {n: t.clone() for n, t in network.state_dict().items()}
    with pytest.raises(ContractError, match="makes 1 of 4 clients' updates, and median compares 3"):
        rule.aggregate(1, before, {k: Result(before, 1) for k in range(4)})


def test_a_defense_that_needs_more_clients_says_so_before(network):
    rule = DefendedRule(Mean(), [SecureAggregation(min_clients=3)], network)
    with pytest.raises(ConfigError, match="2 of 2 clients are left, and secure_aggregation asks"):
        rule.check(2, 1.0)
    with pytest.raises(ConfigError, match="and there is one: raise the number of clients or the"):
        rule.check(3, 0.3)
    rule.check(3, 1.0)


class Tied(nn.Module):
    """Uses one matrix twice, and has a buffer that no state dict has."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(2, 2), nn.Linear(2, 2)
        self.last.weight = self.first.weight
        self.register_buffer("scratch", torch.zeros(1), persistent=False)


def test_a_shared_parameter_stays_one():
    network = Tied()
    before = {n: t.detach().clone() for n, t in network.state_dict().items()}
    assert set(before) == {"first.weight", "first.bias", "last.weight", "last.bias"}
    sent = {k: Result({n: t + k for n, t in before.items()}, 1) for k in range(3)}
    made = DefendedRule(Mean(), [Halve()], network).aggregate(1, before, sent).weights
    assert torch.allclose(made["first.weight"], before["first.weight"] + 0.5)
    assert torch.equal(made["first.weight"], made["last.weight"])


FACTORY = """
from torch import nn
import torch
class Net(nn.Module):
    def __init__(self, inputs, classes):
        super().__init__()
        self.first, self.middle = nn.Linear(inputs, 4), nn.Linear(4, 4)
        self.twice, self.last = nn.Linear(4, 4), nn.Linear(4, classes)
        self.twice.weight = self.middle.weight
        self.register_buffer("scratch", torch.ones(1), persistent=False)
    def forward(self, images):
        return self.last(self.twice(self.middle(self.first(images.flatten(1))).relu()))
def make(channels, space, classes):
    import math
    return Net(channels * math.prod(space), classes)
"""


def test_what_is_sent_is_the_networks_state_dict(tmp_path):
    """Names of shared parameters included, so that ``case.weights=`` takes it."""
    file = tmp_path / "net.py"
    file.write_text(FACTORY)
    made = prepare_federation([], CPU, tmp_path / "run", network=UserNetwork(file, "make"))
    learner = made.learner
    first = learner.first()
    assert list(first) == list(learner.network.state_dict())
    assert learner.buffers == frozenset()
    result = learner.train(Instruction(0, 1, first))
    assert torch.equal(result.weights["middle.weight"], result.weights["twice.weight"])
    assert not torch.equal(result.weights["middle.weight"], first["middle.weight"])
    torch.save(dict(result.weights), tmp_path / "weights.pt")
    load_weights(learner.network, tmp_path / "weights.pt")


def test_nobodys_memory_is_read_where_no_defense_deploys(tmp_path, monkeypatch):
    learner = prepare_federation([], CPU, tmp_path / "run").learner
    monkeypatch.setattr(Memories, "before", lambda *given: pytest.fail("it was read"))
    assert learner.evaluate(0, learner.first())


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
        (["case/user=local_updates"], "case/user has no effect on a federation"),
        (["case/server=malicious_model"], "case/server has no effect on a federation"),
        (["case.server.num_queries=2"], "case.server.num_queries has no effect"),
        (["federation.clients=5", "federation.clients=6"], "federation.clients is given twice"),
        (
            ["federation.clients=5", "case.data.default_clients=6"],
            "default_clients is given twice: federation.clients is the same setting",
        ),
        (
            ["case.data.partition=random", "federation.partition=random"],
            "federation.partition is given twice: case.data.partition is the same",
        ),
        (
            ["federation.trimmed=0.1"],
            "federation.strategy=fedavg: leave it out, or take trimmed_mean",
        ),
        (["federation.proximal_mu=0.1"], "federation.proximal_mu has no effect.*take fedprox"),
        (["federation.server_learning_rate=1"], "take fedadam or fedyogi or fedadagrad"),
        (["federation.malicious=1"], "take krum or multi_krum"),
        (
            ["federation.strategy=krum", "federation.selected=2"],
            "federation.selected has no effect with federation.strategy=krum",
        ),
        (
            ["federation.clients=9", "federation.partition=unique-class"],
            "federation.partition=unique-class has one client a class: set federation.clients to",
        ),
        (
            ["federation.clients=9", "case.data.partition=unique-class"],
            "case.data.partition=unique-class has one client a class: set federation.clients to",
        ),
        (["federation.clients=0"], "federation.clients must be at least 1"),
        (["federation.strategy=krum"], "krum needs 5 clients a round, and 4 of 4 take part"),
    ],
)
def test_settings_that_have_no_place(settings, sentence, tmp_path):
    with pytest.raises(ConfigError, match=sentence):
        prepare_federation(settings, CPU, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_settings_of_the_first_weights_have_effect(tmp_path):
    plain, changed = (
        prepare_federation(more, CPU, tmp_path / "run").learner.first()
        for more in ([], ["case.server.model_state=linearized"])
    )
    assert any(not torch.equal(plain[name], changed[name]) for name in plain)


def test_a_folder_is_claimed_once(tmp_path):
    """More rounds are written there, fewer than were played and other settings are not."""
    folder = tmp_path / "run"

    def claim(*settings):
        made = prepare_federation(settings, CPU, folder)
        made.check()
        with taken(folder):
            made.claim()
        return json.loads((folder / "setting.json").read_text())["federation"]["rounds"]

    assert claim("federation.rounds=3") == 3
    assert claim("federation.rounds=2") == 2, "none was played"
    write_state(folder, State({"w": torch.zeros(1)}, 2, {}))
    assert claim("federation.rounds=4") == 4
    with pytest.raises(RecordError, match="has played 2 rounds, more than the 1 that are asked"):
        claim("federation.rounds=1")
    with pytest.raises(RecordError, match="holds a federation of other settings"):
        claim("federation.rounds=4", "federation.seed=1")
    assert json.loads((folder / "setting.json").read_text())["federation"]["rounds"] == 4


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    made = prepare_federation([], CPU, tmp_path)
    with pytest.raises(RecordError, match="holds something else"):
        made.check()
    assert [file.name for file in tmp_path.iterdir()] == ["letter.txt"]


def test_rounds_that_were_played_cannot_be_captured(tmp_path):
    made = prepare_federation([], CPU, tmp_path / "run")
    check_capture(made, {1, 2})
    made.folder.mkdir()
    write_state(made.folder, State({"w": torch.zeros(1)}, 3, {}))
    (made.folder / "captured" / "round-2").mkdir(parents=True)
    check_capture(made, {2, 4})
    with pytest.raises(ConfigError, match=r"played without keeping them \(1, 3\): name later"):
        check_capture(made, {1, 2, 3, 4})


def test_a_learner_trains_as_an_audit_does(tmp_path):
    """The change is that of plain SGD over the client's records, written out."""
    made = prepare_federation(["federation.batch_size=32", "federation.clients=8"], CPU, tmp_path)
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
