"""Defenses around Flower apps that know nothing of medbreach."""

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import fixedclipping_mod
from flwr.serverapp.strategy import FedAvg, FedMedian
from flwr.supercore.task_identity import TaskIdentity
from torch import nn

from medbreach import Defense
from medbreach.errors import ConfigError, ContractError
from medbreach_compression import TopK
from medbreach_differential_privacy import DPSGD, GaussianNoise, UpdateClipping
from medbreach_federation import DefendedStrategy, DefenseMod
from medbreach_secure_aggregation import SecureAggregation

BEFORE = {
    "0.weight": torch.linspace(-1, 1, 6).reshape(2, 3),
    "1.running_mean": torch.zeros(2),
    "1.num_batches_tracked": torch.tensor(3),
    "2.bias": torch.zeros(2),
}


@pytest.fixture(autouse=True)
def identity(monkeypatch):
    """Let messages be made where no federation runs."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def app(*mods, push=1.0, names=None, records=7):
    """Return somebody's app, that adds to each weight."""
    made = ClientApp(mods=list(mods))

    @made.train()
    def train(message, context):
        arrays = message.content["arrays"].to_torch_state_dict()
        after = {name: tensor + torch.tensor(push).to(tensor) for name, tensor in arrays.items()}
        after = {names.get(name, name): t for name, t in after.items()} if names else after
        metrics = MetricRecord({"num-examples": records, "loss": 0.25})
        return Message(RecordDict({"arrays": ArrayRecord(after), "m": metrics}), reply_to=message)

    @made.evaluate()
    def evaluate(message, context):
        return Message(
            RecordDict({"m": MetricRecord({"seen": 1.0, "num-examples": 7})}), reply_to=message
        )

    return made


def node(number=0):
    return Context(1, 100 + number, {"partition-id": number}, RecordDict(), {})


def asked(kind="train", **config):
    content = RecordDict({"arrays": ArrayRecord(dict(BEFORE)), "config": ConfigRecord(config)})
    return Message(content, dst_node_id=1, message_type=kind)


def sent(made, context=None, **config):
    """Return what a client sends back."""
    reply = made(asked(**config), context or node())
    return dict(reply.content["arrays"].to_torch_state_dict())


def test_clipping_is_what_flowers_own_mod_does():
    """On arrays that are all trained, which is what Flower's mod takes them for."""
    clipping = UpdateClipping(clip_norm=0.5)
    ours = sent(app(DefenseMod([clipping], buffers=["tracked"])))
    everything = {n: t for n, t in BEFORE.items() if t.is_floating_point()}
    content = RecordDict(
        {"arrays": ArrayRecord(everything), "config": ConfigRecord({"clipping_norm": 0.5})}
    )
    message = Message(content, dst_node_id=1, message_type="train")
    theirs = app(fixedclipping_mod)(message, node()).content["arrays"].to_torch_state_dict()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-6, atol=1e-7)


def test_buffers_pass_as_the_client_sends_them():
    after = sent(app(DefenseMod([UpdateClipping(clip_norm=0.5)])))
    change = torch.cat([(after[n] - BEFORE[n]).flatten() for n in ("0.weight", "2.bias")])
    assert float(change.norm()) == pytest.approx(0.5, rel=1e-6)
    torch.testing.assert_close(after["1.running_mean"], torch.ones(2))
    assert after["1.num_batches_tracked"] == 4
    assert after["1.num_batches_tracked"].dtype == torch.long
    assert list(after) == list(BEFORE)


def test_noise_repeats_by_seed_alone():
    def noisy(seed, number=0):
        return sent(app(DefenseMod([GaussianNoise()], seed=seed)), node(number))["0.weight"]

    assert torch.equal(noisy(1), noisy(1))
    assert not torch.equal(noisy(1), noisy(2))
    assert not torch.equal(noisy(1), noisy(1, number=1)), "clients draw their own"
    assert not torch.equal(noisy(None), noisy(None)), "nobody can foresee it"


def test_each_round_has_its_noise():
    made, context = app(DefenseMod([GaussianNoise()], seed=0)), node()
    assert not torch.equal(sent(made, context)["0.weight"], sent(made, context)["0.weight"])


def test_what_is_kept_back_is_sent_in_the_end():
    """Error feedback needs the client's memory: of equal changes, none is held back for good."""
    made, context = app(DefenseMod([TopK(keep=0.25)])), node()
    total = sum(sent(made, context)["0.weight"] - BEFORE["0.weight"] for _ in range(40))
    assert float((total / 40 - 1).abs().max()) < 0.1
    fresh = sum(sent(made)["0.weight"] - BEFORE["0.weight"] for _ in range(40))
    assert float((fresh / 40 - 1).abs().max()) == 1, "without memory, some never are"


def test_an_evaluation_is_left_alone():
    reply = app(DefenseMod([GaussianNoise()]))(asked("evaluate"), node())
    assert reply.content["m"]["seen"] == 1.0


class Bigger(Defense):
    """Wants other records."""

    name = "bigger"

    def wrap(self, train):
        from dataclasses import replace

        return lambda task: train(replace(task, model=nn.Linear(1, 1)))


@pytest.mark.parametrize(
    ("defenses", "words"),
    [
        ([DPSGD()], "dp_sgd changes the network"),
        ([SecureAggregation()], "around the server's strategy, with DefendedStrategy"),
        ([TopK(), TopK(keep=0.5)], "only once"),
        ([], "give one at least"),
    ],
)
def test_defenses_that_cannot_work_from_there_are_refused(defenses, words):
    with pytest.raises(ConfigError, match=words):
        DefenseMod(defenses)


def test_a_defense_that_changes_local_training_is_found_out():
    with pytest.raises(ContractError, match="changes the model of local training"):
        sent(app(DefenseMod([Bigger()])))


def test_replies_that_cannot_be_defended_are_refused():
    with pytest.raises(ContractError, match="other names or shapes"):
        sent(app(DefenseMod([GaussianNoise()]), names={"2.bias": "3.bias"}))
    with pytest.raises(ContractError, match="must say records in its metrics"):
        sent(app(DefenseMod([GaussianNoise()], counted_by="records")))
    with pytest.raises(ContractError, match="num-examples must be a positive number"):
        sent(app(DefenseMod([GaussianNoise()]), records=0))
    with pytest.raises(ContractError, match="not finite"):
        sent(app(DefenseMod([GaussianNoise()]), push=float("nan")))


def test_buffers_that_are_not_finite_are_left_out(caplog):
    """They would be averaged with the others'."""
    strategy = started(DefendedStrategy(FedAvg(), [Doubling()]))
    bad = app(push=1.0)(asked(), node())
    arrays = bad.content["arrays"].to_torch_state_dict()
    arrays["1.running_mean"] = torch.full((2,), torch.nan)
    bad.content["arrays"] = ArrayRecord(arrays)
    made, _ = strategy.aggregate_train(1, [bad, *replies(1.0, 1.0)])
    assert made.to_torch_state_dict()["1.running_mean"].isfinite().all()
    assert "left out: the client's reply is not finite" in caplog.text


class TwoNodes:
    """As much of Flower's grid as a strategy asks for."""

    def get_node_ids(self):
        return [1, 2]


def replies(*pushes):
    return [app(push=push)(asked(), node(k)) for k, push in enumerate(pushes)]


def started(strategy):
    list(strategy.configure_train(1, ArrayRecord(dict(BEFORE)), ConfigRecord(), TwoNodes()))
    return strategy


def test_a_secure_sum_gives_the_mean_and_no_clients_numbers():
    """What Flower's own mean is of the same replies, to the rounding of the integers."""
    plain, _ = started(FedAvg()).aggregate_train(1, replies(1.0, 2.0))
    secure = started(DefendedStrategy(FedAvg(), [SecureAggregation(min_clients=2)]))
    made, metrics = secure.aggregate_train(1, replies(1.0, 2.0))
    theirs, ours = plain.to_torch_state_dict(), made.to_torch_state_dict()
    for name in ("0.weight", "2.bias", "1.running_mean"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-5)
    assert "loss" not in metrics


class Doubling(Defense):
    """Doubles each update at the server."""

    name = "doubling"

    def aggregate(self, updates):
        from dataclasses import replace

        return [replace(u, change={n: 2 * g for n, g in u.change.items()}) for u in updates]


def test_another_rule_sees_each_clients_defended_update():
    strategy = started(DefendedStrategy(FedMedian(), [Doubling()]))
    made, metrics = strategy.aggregate_train(1, replies(1.0, 2.0, 5.0))
    torch.testing.assert_close(
        made.to_torch_state_dict()["2.bias"], torch.full((2,), 4.0)
    )  # twice the middle one
    assert metrics["loss"] == 0.25


def test_a_reply_that_is_not_finite_is_left_out_by_name(caplog):
    strategy = started(DefendedStrategy(FedAvg(), [Doubling()]))
    made, _ = strategy.aggregate_train(1, replies(1.0, float("nan"), 1.0))
    torch.testing.assert_close(made.to_torch_state_dict()["2.bias"], torch.full((2,), 2.0))
    assert "left out: the client's reply is not finite" in caplog.text


def test_a_clients_defense_is_refused_at_the_server():
    with pytest.raises(ConfigError, match="around clients, with DefenseMod"):
        DefendedStrategy(FedAvg(), [GaussianNoise()])


@pytest.mark.slow
def test_in_a_running_federation():
    """Two clients, three rounds: clipped and pooled, each round moves the mean by the norm."""
    from flwr.serverapp import ServerApp
    from flwr.simulation import run_simulation

    server, seen = ServerApp(), []

    @server.main()
    def main(grid, context):
        strategy = DefendedStrategy(FedAvg(), [SecureAggregation(min_clients=2)])
        result = strategy.start(grid, ArrayRecord(dict(BEFORE)), num_rounds=3)
        seen.append(result.arrays.to_torch_state_dict())

    mods = DefenseMod([UpdateClipping(clip_norm=0.5), TopK(keep=1.0)])
    run_simulation(server, app(mods), 2, backend_config={"init_args": {"num_cpus": 2}})
    moved = torch.cat([(seen[0][n] - BEFORE[n]).flatten() for n in ("0.weight", "2.bias")])
    assert float(moved.norm()) == pytest.approx(1.5, abs=1e-4)
