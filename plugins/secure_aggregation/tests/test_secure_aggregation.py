"""Secure aggregation: what the server sees of several clients, and when it sees nothing."""

import pytest
import torch

from medbreach import NotApplicable, Refused, config, mean_update, plugins
from medbreach.components import Defense
from medbreach.errors import ConfigError
from medbreach.federation import Federation
from medbreach.protocol import User
from medbreach.randomness import Seeds
from medbreach.round import play
from medbreach.settings import build
from medbreach.testing import check, tiny_case, tiny_exchange, tiny_sample
from medbreach.types import Change
from medbreach_secure_aggregation import SecureAggregation
from medbreach_secure_aggregation.masking import set_up


def several(clients=4, **changes):
    chosen = {"num_data_points": 2, "provide_labels": True, "provide_buffers": True, **changes}
    return {
        "user": User("multiuser_aggregate", user_range=(0, clients), **chosen),
        "federation": Federation(partition="random", default_clients=clients),
    }


def exchanges(changes, defenses=()):
    sample = tiny_sample(**changes)
    return play(tiny_case(**changes), sample, defenses, Seeds(0), torch.device("cpu"))


def flat(update):
    return torch.cat([tensor.flatten() for tensor in update.change.values()])


@pytest.fixture(scope="module")
def single():
    """The updates of four clients, each as it is."""
    return [exchange.update for exchange in exchanges(several(aggregation="plain"))]


@pytest.mark.parametrize(
    "settings", [None, {"rounding": "nearest", "quantization_range": 1000}], ids=str
)
def test_it_keeps_the_contract(settings):
    check(SecureAggregation, settings)


def test_medbreach_finds_it_by_name():
    chosen = config.read_choice("defense", "secure_aggregation")
    own = {k: v for k, v in chosen.items() if k != "name"}
    assert plugins.defenses()["secure_aggregation"] is SecureAggregation
    assert build(SecureAggregation, own, "defense") == SecureAggregation()


def test_the_server_sees_the_mean_up_to_rounding(single):
    (seen,) = SecureAggregation(rounding="nearest").aggregate(single)
    exact = mean_update(single)
    step = 2 * 8.0 / 2**22
    assert (flat(seen) - flat(exact)).abs().max() <= 0.51 * step
    assert (seen.clients, seen.count, seen.kind) == (4, 8, Change.GRADIENT)
    assert torch.equal(seen.labels, exact.labels)
    for name, buffer in exact.buffers.items():
        assert torch.equal(seen.buffers[name], buffer)


def test_zeros_stay_zeros(single):
    """Rows that nothing went through: half an even range is an integer."""
    dead = flat(mean_update(single)) == 0
    (seen,) = SecureAggregation().aggregate(single)
    assert dead.any()
    assert not flat(seen)[dead].any()


@pytest.mark.parametrize("rounding", ["stochastic", "nearest"])
def test_the_noise_is_that_of_rounding(single, rounding):
    defense = SecureAggregation(quantization_range=2**14, rounding=rounding, clipping_range=1.0)
    (seen,) = defense.aggregate(single)
    spread = torch.stack([flat(update) for update in single]).std(0) > 2 * 2.0 / 2**14
    error = (flat(seen) - flat(mean_update(single)))[spread]
    assert len(error) > 300
    assert abs(error.mean()) < 4 * error.std() / len(error) ** 0.5
    assert error.std().item() == pytest.approx(defense.noise(seen), rel=0.1)


def test_entries_are_clipped(single):
    bound = flat(mean_update(single)).abs().max().item() / 10
    (seen,) = SecureAggregation(bound).aggregate(single)
    clipped = torch.stack([flat(update).clamp(-bound, bound) for update in single]).mean(0)
    assert torch.allclose(flat(seen), clipped, atol=bound / 2**20)


@pytest.mark.parametrize(("dropout", "left"), [(0.0, 4), (0.25, 3), (0.5, 2)])
def test_who_drops_out_is_not_in_the_sum(single, dropout, left):
    defense = SecureAggregation(dropout=dropout, seed=3)
    (seen,) = defense.aggregate(single)
    assert (seen.clients, seen.count, len(seen.labels)) == (left, 2 * left, 2 * left)
    kept = defense._left(4, defense_stream(defense))
    assert torch.allclose(flat(seen), flat(mean_update([single[k] for k in kept])), atol=1e-5)
    if dropout:
        assert not torch.allclose(flat(seen), flat(mean_update(single)), atol=1e-5)


def defense_stream(defense):
    """Return the stream where the clients that are left are drawn: after the keys."""
    rng = torch.Generator().manual_seed(defense.seed)
    set_up(4, defense.min_clients, rng)
    return rng


def test_seeds_decide_who_drops_out(single):
    means = [flat(SecureAggregation(dropout=0.5, seed=k).aggregate(single)[0]) for k in range(8)]
    different = {tuple(mean[:20].mul(1e3).round().tolist()) for mean in means}
    assert len(different) > 2
    again = flat(SecureAggregation(dropout=0.5, seed=5).aggregate(single)[0])
    assert torch.equal(again, means[5])


def test_too_few_clients_are_refused(single):
    with pytest.raises(Refused, match=r"2 of 4 clients are left, .* asks for 3"):
        SecureAggregation(dropout=0.5, min_clients=3).aggregate(single)
    with pytest.raises(Refused, match=r"4 of 4 clients are left, .* asks for 9"):
        SecureAggregation(min_clients=9).aggregate(single)


def test_one_client_is_told_what_to_set():
    with pytest.raises(NotApplicable, match=r"set case\.user\.user_type=multiuser_aggregate"):
        tiny_exchange(defenses=[SecureAggregation()])


def test_a_sum_that_overflows_is_told_what_to_set(single):
    with pytest.raises(NotApplicable, match=r"4 clients' .* 23 bits: raise defense\.modulus_bits"):
        SecureAggregation(modulus_bits=23).aggregate(single)
    SecureAggregation(modulus_bits=25).aggregate(single)


@pytest.mark.parametrize("aggregation", ["secure", "plain"])
@pytest.mark.parametrize("steps", [1, 2])
def test_a_round_has_one_exchange_of_all_clients(aggregation, steps):
    changes = several(3, aggregation=aggregation, num_local_updates=steps)
    (seen,) = exchanges(changes, [SecureAggregation()])
    assert (seen.update.clients, seen.update.count) == (3, 6)
    bare = mean_update([e.update for e in exchanges(several(3, num_local_updates=steps))])
    assert torch.allclose(flat(seen.update), flat(bare), atol=4e-6)


class Looking(Defense):
    """Looks at each client's update."""

    name = "looking"
    source = "test"

    def aggregate(self, updates):
        return updates


def test_nothing_else_can_look_at_single_updates():
    own = SecureAggregation()
    assert "looking" in own.conflict([Looking(), own])
    assert own.conflict([own, own])
    assert not own.conflict([Defense(), own])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"clipping_range": 0.0}, "clipping_range must be positive and finite, got 0.0"),
        ({"quantization_range": 0}, r"quantization_range must lie from 1 to below 2\^32, got 0"),
        ({"modulus_bits": 64}, "modulus_bits must lie from 8 to 48, got 64"),
        ({"min_clients": 1}, "min_clients must be at least 2, got 1"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
        ({"rounding": "up"}, "defense.rounding must be"),
    ],
)
def test_settings_that_make_no_sense(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build(SecureAggregation, settings, "defense")
