"""An attack that is stopped at any iteration and goes on finds what it would have found."""

from dataclasses import replace

import pytest
import torch
from test_everywhere import NETWORKS

from medbreach import config
from medbreach.assembly import assemble
from medbreach.attacks.cocktail_party import CocktailParty
from medbreach.attacks.feature_recovery import FeatureRecovery
from medbreach.audit import _run
from medbreach.models.mlp import MLP
from medbreach.models.small_cnn import SmallCNN
from medbreach.models.user_network import UserNetwork
from medbreach.progress import FileWatch, watched_by
from medbreach.protocol import User
from medbreach.randomness import Seeds
from medbreach.round import play
from medbreach.servers.fishing import FishingServer
from medbreach.testing.examples import tiny_case, tiny_exchange, tiny_sample

DESCENTS = {
    "Adam": ("invertinggradients", {}),
    "Adam, warm-up, cosine decay": ("modern", {"optim.warmup": 2}),
    "Adam, warm-up, linear decay": (
        "legacy", {"optim.warmup": 2, "optim.step_size_decay": "linear", "init": "randn"}
    ),
    "Adam, noise": ("seethroughgradients", {"optim.langevin_noise": 1.0}),
    "L-BFGS": ("wei", {}),
    "momentum": ("legacy", {"optim.optimizer": "momgd", "init": "rand"}),
    "restarts": ("invertinggradients", {"restarts.num_trials": 3}),
    "noise, restarts": (
        "seethroughgradients", {"restarts.num_trials": 2, "optim.langevin_noise": 1.0}
    ),
    "images and labels": ("deepleakage", {}),
    "random labels": ("invertinggradients", {"label_strategy": "random"}),
    "scales, random shifts and colours": (
        "multiscale_ghiasi", {"num_stages": 2}
    ),
    "dropout and batch statistics": ("legacy", {}),
}  # fmt: skip
STEPS = 3


class Stopped(BaseException):
    """The process is gone."""


class Stopping(FileWatch):
    """Keeps a checkpoint at each iteration and stops after some of them."""

    def __init__(self, file, after, error=Stopped):
        super().__init__(lambda done, total: None, file, seconds=0.0)
        self.left, self.error, self.steps = after, error, []

    def step(self, done, total):
        self.steps.append((done, total))
        if len(self.steps) > self.left:
            raise self.error


def attack_of(name, settings):
    given = {"optim.max_iterations": STEPS, **settings}
    overrides = [f"attack.{key}={value}" for key, value in given.items()]
    return assemble(config.load([f"attack={name}", *overrides])).attacks[name]


def seen(kind):
    """Return a small round; of a network with dropout in training mode where that is meant."""
    if kind == "dropout and batch statistics":
        model = UserNetwork(NETWORKS, "attention")
        server = replace(tiny_case().server, provide_public_buffers=False)
        return tiny_exchange((8, 8), 3, model=model, server=server, user=User(provide_labels=True))
    return tiny_exchange((8, 8), 3, model=SmallCNN(width=2, pool=2), user=User(num_data_points=2))


def same(one, other):
    return torch.equal(one.images, other.images) and (
        one.labels is other.labels is None or torch.equal(one.labels, other.labels)
    )


@pytest.mark.parametrize("kind", DESCENTS)
def test_stopped_at_any_iteration(kind, tmp_path):
    attack, exchange = attack_of(*DESCENTS[kind]), seen(kind)

    def run(watch):
        with watched_by(watch):
            return attack(exchange, torch.Generator().manual_seed(5))

    whole = Stopping(tmp_path / "whole", after=10**6)
    expected = run(whole)
    for stop in range(1, len(whole.steps)):
        file = tmp_path / f"{stop}"
        with pytest.raises(Stopped):
            run(Stopping(file, after=stop))
        resumed = Stopping(file, after=10**6)
        assert same(run(resumed), expected)
        assert resumed.steps == whole.steps[stop:]  # nothing is done twice


@pytest.mark.parametrize(
    ("attack", "model"),
    [
        (CocktailParty(steps=STEPS), MLP(width=8, hidden=1)),
        (FeatureRecovery(steps=STEPS), SmallCNN(width=2, pool=2)),
    ],
    ids=["cpa", "feature_recovery"],
)
def test_our_own_descents_stopped_at_any_iteration(attack, model, tmp_path):
    exchange = tiny_exchange((8, 8), 3, model=model)

    def run(watch):
        with watched_by(watch):
            return attack(exchange, torch.Generator().manual_seed(5))

    whole = Stopping(tmp_path / "whole", after=10**6)
    expected = run(whole)
    assert whole.steps == [(k + 1, STEPS) for k in range(STEPS)]
    for stop in range(1, STEPS):
        with pytest.raises(Stopped):
            run(Stopping(tmp_path / f"{stop}", after=stop))
        resumed = Stopping(tmp_path / f"{stop}", after=10**6)
        assert same(run(resumed), expected)
        assert resumed.steps == whole.steps[stop:]


def test_stopped_again_and_again(tmp_path):
    attack, exchange = attack_of(*DESCENTS["noise, restarts"]), seen("noise, restarts")
    expected = attack(exchange, torch.Generator().manual_seed(5))
    for _ in range(2 * STEPS - 1):
        with watched_by(Stopping(tmp_path / "kept", after=1)), pytest.raises(Stopped):
            attack(exchange, torch.Generator().manual_seed(5))
    with watched_by(Stopping(tmp_path / "kept", after=10**6)):
        assert same(attack(exchange, torch.Generator().manual_seed(5)), expected)


def test_ctrl_c_gets_past_breaching_which_swallows_it(tmp_path):
    attack, exchange = attack_of(*DESCENTS["Adam"]), seen("Adam")
    watch = Stopping(tmp_path / "kept", after=1, error=KeyboardInterrupt)
    with watched_by(watch), pytest.raises(KeyboardInterrupt):
        attack(exchange, torch.Generator().manual_seed(5))


def test_progress_counts_every_step_of_every_descent(tmp_path):
    kind = "scales, random shifts and colours"
    attack, exchange = attack_of(*DESCENTS[kind]), seen(kind)
    watch = Stopping(tmp_path / "kept", after=10**6)
    with watched_by(watch):
        attack(exchange, torch.Generator().manual_seed(5))
    total = len([4, 8]) * STEPS
    assert watch.steps == [(k, total) for k in range(1, total + 1)]


@pytest.mark.parametrize("stop", [2, STEPS, STEPS + 2, 2 * STEPS + 1])
def test_updates_that_the_server_tells_apart(stop, tmp_path):
    """Three clients' updates are attacked in turn; a checkpoint is of one of them."""
    user = User(user_type="multiuser_aggregate", user_range=(0, 2), aggregation="plain")
    case = tiny_case((8, 8), 3, model=SmallCNN(width=2), user=user)
    sample = tiny_sample((8, 8), 3, user=user)
    exchanges = play(case, sample, (), Seeds(0), torch.device("cpu")) * 2
    attack = attack_of("invertinggradients", {})
    whole = Stopping(tmp_path / "whole", after=10**6)
    with watched_by(whole):
        expected = _run(attack, exchanges[:3], Seeds(0))
    with watched_by(Stopping(tmp_path / "kept", after=stop)), pytest.raises(Stopped):
        _run(attack, exchanges[:3], Seeds(0))
    resumed = Stopping(tmp_path / "kept", after=10**6)
    with watched_by(resumed):
        found = _run(attack, exchanges[:3], Seeds(0))
    assert same(found, expected)
    assert whole.steps == [(k, 3 * STEPS) for k in range(1, 3 * STEPS + 1)]
    assert resumed.steps == whole.steps[stop:]


@pytest.mark.parametrize("stop", [1, STEPS, STEPS + 2, 2 * STEPS + 1])
def test_records_that_one_attack_matches_in_turn(stop, tmp_path):
    """A fishing server's rounds show several records; a checkpoint is of one of them."""
    changes = {
        "model": SmallCNN(width=8),
        "user": User(num_data_points=6, provide_labels=True),
        "server": FishingServer(num_queries=12, expected_records=6),
    }
    exchanges = (tiny_exchange((12, 12), 3, **changes),) * 2
    attack = attack_of("clsattack", {"max_records": 1})
    whole = Stopping(tmp_path / "whole", after=10**6)
    with watched_by(whole):
        expected = _run(attack, exchanges, Seeds(0))
    records = len(expected.images) // 2
    assert records > 1
    assert whole.steps == [(k, 2 * records * STEPS) for k in range(1, 2 * records * STEPS + 1)]
    with watched_by(Stopping(tmp_path / "kept", after=stop)), pytest.raises(Stopped):
        _run(attack, exchanges, Seeds(0))
    resumed = Stopping(tmp_path / "kept", after=10**6)
    with watched_by(resumed):
        found = _run(attack, exchanges, Seeds(0))
    assert torch.equal(found.images, expected.images)
    assert torch.equal(found.confidence, expected.confidence)
    assert resumed.steps == whole.steps[stop:]


@pytest.mark.parametrize(
    "kind", ["noise, restarts", "random labels", "scales, random shifts and colours"]
)
def test_the_same_seed_twice(kind, untouched_randomness):
    attack, exchange = attack_of(*DESCENTS[kind]), seen(kind)
    claims = [attack(exchange, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)]
    assert same(claims[0], claims[1])
    assert not torch.equal(claims[0].images, claims[2].images)
