"""What Flower and NVFlare ship, against their algorithms written down a second time in NumPy."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from medbreach import Update, Workload
from medbreach.attacks.known_defenses import KnownDefenses
from medbreach.errors import ConfigError, NotApplicable
from medbreach.models.small_cnn import SmallCNN
from medbreach.protocol import User
from medbreach.randomness import Seeds
from medbreach.settings import build
from medbreach.testing import check, tiny_exchange, tiny_sample, tiny_task
from medbreach_differential_privacy import FlowerLocalDP, NVFlarePercentile, NVFlareSVT

STEPS = User(
    "local_update", num_data_points=2, num_local_updates=2, num_data_per_local_update_step=1,
    local_learning_rate=0.1, provide_labels=True, provide_local_hyperparams=True,
)  # fmt: skip
ROUND = Workload(steps=1, records_per_step=2, records=2)


def entries(exchange):
    return torch.cat([tensor.flatten() for tensor in exchange.update.change.values()])


def filtered(defense, change):
    """Return what a defense makes of a change, be it of a network or not."""
    update = Update({name: torch.as_tensor(value) for name, value in change.items()})
    return defense.wrap(lambda task: update)(tiny_task()).change


@pytest.mark.parametrize("defense", [FlowerLocalDP, NVFlarePercentile, NVFlareSVT])
def test_they_keep_the_contract(defense):
    check(defense)


def test_svt_keeps_the_contract_without_replacement():
    check(NVFlareSVT, {"replace": False, "epsilon_release": 10.0, "epsilon_query": 0.05})


def test_flower_clips_and_adds_its_noise():
    bare = entries(tiny_exchange())
    bound = bare.norm().item() / 4
    made = FlowerLocalDP(clipping_norm=bound, sensitivity=0.1, epsilon=2.0, delta=1e-6)
    exchange = tiny_exchange(defenses=[made])
    noise = entries(exchange) - bare / 4
    expected = 0.1 * np.sqrt(2 * np.log(1.25 / 1e-6)) / 2.0
    assert noise.std().item() == pytest.approx(expected, rel=0.03)
    assert made.noise(exchange.update) == pytest.approx(expected)
    assert made.noise(replace(exchange.update, clients=4)) == pytest.approx(expected / 2)


def percentile_of_nvflare(change, percentile, gamma, steps):
    one = {name: value / steps for name, value in change.items()}
    cutoff = np.percentile(np.concatenate([np.abs(v).ravel() for v in one.values()]), percentile)
    sent = {}
    for name, value in one.items():
        kept = np.where((value > -cutoff) & (value < cutoff), 0.0, value)
        sent[name] = (np.clip(kept, -gamma, gamma) if value.ndim else value) * steps
    return sent


@pytest.mark.parametrize("percentile", [0.0, 10.0, 83.0, 100.0])
def test_percentile_is_nvflares(percentile):
    rng = np.random.default_rng(0)
    change = {
        "weight": rng.normal(size=(7, 5)).astype(np.float32),
        "scalar": np.asarray(0.001, np.float32),  # is sent as it is
        "bias": rng.normal(size=9).astype(np.float32),
    }
    ours = filtered(NVFlarePercentile(percentile, gamma=0.8), change)
    theirs = percentile_of_nvflare(change, percentile, 0.8, 1)
    for name, value in theirs.items():
        assert np.allclose(ours[name].numpy(), value, rtol=1e-6), name


def test_percentile_does_not_depend_on_the_number_of_steps():
    bare = tiny_exchange(user=STEPS)
    ours = tiny_exchange(user=STEPS, defenses=[NVFlarePercentile(50.0, 0.001)]).update.change
    change = {name: value.numpy() for name, value in bare.update.change.items()}
    theirs = percentile_of_nvflare(change, 50.0, 0.001, steps=2)
    for name, value in theirs.items():
        assert np.allclose(ours[name].numpy(), value, rtol=1e-5), name
    assert max(float(v.abs().max()) for v in ours.values()) == pytest.approx(0.002)


@pytest.mark.parametrize("user", [User(num_data_points=2, provide_labels=True), STEPS], ids=str)
def test_an_attacker_with_the_true_images_finds_what_percentile_sent(user):
    exchange = tiny_exchange(user=user, defenses=[NVFlarePercentile(60.0, 0.002)])
    truth = tiny_sample(user=user).batches[0]
    known = KnownDefenses(exchange).change(
        exchange.model, truth.images, truth.labels, Seeds(0).stream("attack")
    )
    for name, sent in exchange.update.change.items():
        assert known[name].allclose(sent, rtol=1e-4, atol=1e-7), name
    withheld = replace(exchange.update, recipe=None)
    again = NVFlarePercentile(60.0, 0.002).simulate_update(known, withheld)
    for name, sent in exchange.update.change.items():
        assert again[name].allclose(sent, rtol=1e-4, atol=1e-7), name


def resemblance_of_inversion(exchange, truth):
    """Return the correlation with a record of what 500 steps of Adam make of its gradient."""
    images = torch.rand(truth.shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    optimiser = torch.optim.Adam([images], lr=0.03)
    seen, rng = entries(exchange), Seeds(0).stream("attack")
    for _ in range(500):
        known = KnownDefenses(exchange).change(exchange.model, images, exchange.update.labels, rng)
        found = torch.cat([tensor.flatten() for tensor in known.values()])
        roughness = sum(images.diff(dim=axis).abs().mean() for axis in (2, 3))
        loss = 1 - torch.nn.functional.cosine_similarity(found, seen, dim=0) + 1e-3 * roughness
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            images.clamp_(0, 1)
    flat = [(x - x.mean((2, 3), keepdim=True)).flatten() for x in (images.detach(), truth)]
    return float(torch.corrcoef(torch.stack(flat))[0, 1])


@pytest.mark.slow
def test_knowing_of_percentile_undoes_most_of_it():
    """Measured: 0.54 for who knows, 0.18 for who does not, and 0.59 without the defense."""
    user = User(num_data_points=1, provide_labels=True)
    truth = tiny_sample(user=user).batches[0].images
    exchange = tiny_exchange(user=user, model=SmallCNN(32), defenses=[NVFlarePercentile()])
    unaware = resemblance_of_inversion(replace(exchange, defenses=()), truth)
    assert unaware < 0.3
    assert resemblance_of_inversion(exchange, truth) > unaware + 0.2


def test_percentile_gives_no_guarantee_and_svt_only_with_the_number_of_weights():
    assert NVFlarePercentile().guarantee(ROUND) is None
    assert NVFlareSVT().guarantee(ROUND) is None


@pytest.mark.parametrize(("weights", "epsilon"), [(100, 1.1), (7_033_290, 70_333.0)])
def test_svts_account_is_nvflares(weights, epsilon):
    """Its defaults spend 0.1 on the selection and 0.1 on each tenth entry; 70,333 on 7 million."""
    given = NVFlareSVT(weights=weights).guarantee(ROUND)
    assert given.epsilon == pytest.approx(epsilon)
    assert given.delta == 0
    assert "filter-level account, not ours" in given.how
    assert NVFlareSVT(weights=weights, rounds=3).guarantee(ROUND).epsilon == 3 * given.epsilon
    fixed = NVFlareSVT(epsilon_release=2.0).guarantee(ROUND._replace(rounds=5))
    assert fixed.epsilon == pytest.approx(5 * 2.1)


def test_svts_budgets():
    """The standard split for queries that are not monotonic: 1 to (2 c) to the power of 2/3."""
    threshold, query = NVFlareSVT(epsilon=0.9).split(4)
    assert (threshold, query) == (pytest.approx(0.9 / 5), pytest.approx(0.9 * 4 / 5))
    assert NVFlareSVT(epsilon_query=0.03).split(4) == (pytest.approx(0.07), 0.03)
    assert NVFlareSVT(epsilon_threshold=0.03).split(4) == (0.03, pytest.approx(0.07))


def test_svt_sends_a_share_with_noise():
    """With little noise on the release, what is sent shows: a tenth, cut off, chosen by chance."""
    size = 20_000
    values = torch.linspace(-2e-5, 2e-5, size)
    made = NVFlareSVT(replace=False, epsilon_release=1e12)
    sent = filtered(made, {"w": values})["w"]
    assert sent.count_nonzero() == size // 10
    where = sent != 0
    assert sent[where].allclose(values[where].clamp(-1e-5, 1e-5), atol=2e-11)
    again = filtered(NVFlareSVT(epsilon_release=1e12), {"w": values})["w"]
    share = again.count_nonzero().item() / size
    assert 0.09 < share < 0.0985, "some are drawn twice"


def test_svt_prefers_large_entries_where_its_noise_lets_it():
    size = 2000
    values = torch.full((size,), 1e-7)
    values[: size // 10] = 1e-5
    made = NVFlareSVT(epsilon=1e6, epsilon_release=1e12, replace=False, tau=5e-6)
    sent = filtered(made, {"w": values})["w"]
    assert torch.equal(sent != 0, values == 1e-5)


def test_svts_noise_is_twenty_times_what_it_hides():
    size = 50_000
    made = NVFlareSVT(replace=False)
    change = {"w": torch.zeros(size), "step": torch.tensor(0.5)}
    sent = filtered(made, change)
    noise = sent["w"][sent["w"] != 0]
    assert noise.std().item() == pytest.approx(2**0.5 * 20 * 1e-5, rel=0.06)
    assert noise.abs().mean().item() == pytest.approx(20 * 1e-5, rel=0.06), "Laplacian"
    assert made.noise(Update(sent)) == pytest.approx(2**0.5 * 20 * 1e-5)
    assert sent["step"] == 0.5, "numbers without an axis are sent as they are, as in NVFlare"


@pytest.mark.parametrize("user", [User(num_data_points=2, provide_labels=True), STEPS], ids=str)
def test_an_attacker_with_the_true_images_is_as_far_off_as_svts_noise(user):
    made = NVFlareSVT(gamma=0.01, epsilon_release=1e4)
    exchange = tiny_exchange(user=user, defenses=[made])
    truth = tiny_sample(user=user).batches[0]
    known = KnownDefenses(exchange).change(
        exchange.model, truth.images, truth.labels, Seeds(0).stream("attack")
    )
    found = torch.cat([tensor.flatten() for tensor in known.values()])
    sent = entries(exchange)
    assert torch.equal(found == 0, (sent == 0) | (found == 0)), "what was not sent is left out"
    noise = (found - sent)[sent != 0]
    assert noise.std().item() == pytest.approx(made.noise(exchange.update), rel=0.2)
    assert noise.std() > 1e-4


def test_svt_gives_up_where_nvflare_would_ask_forever():
    made = NVFlareSVT(tau=1.0, epsilon=1e9)
    with pytest.raises(NotApplicable, match="too few entries above its threshold"):
        filtered(made, {"w": torch.zeros(10)})


@pytest.mark.parametrize(
    ("defense", "settings", "sentence"),
    [
        (FlowerLocalDP, {"clipping_norm": 0.0}, "clipping_norm must be positive"),
        (FlowerLocalDP, {"sensitivity": -1.0}, "sensitivity must not be negative"),
        (FlowerLocalDP, {"epsilon": 0.0}, "epsilon must be positive"),
        (FlowerLocalDP, {"delta": 0.0}, "delta must lie"),
        (NVFlarePercentile, {"percentile": 101.0}, "percentile must lie between 0 and 100"),
        (NVFlarePercentile, {"gamma": 0.0}, "gamma must be positive"),
        (NVFlareSVT, {"fraction": 0.0}, "fraction must lie above 0"),
        (NVFlareSVT, {"epsilon": 0.0}, "epsilon must be positive"),
        (NVFlareSVT, {"noise_var": -1.0}, "noise_var must be positive"),
        (NVFlareSVT, {"epsilon_threshold": 0.2}, "must be positive and add up to epsilon 0.1"),
        (NVFlareSVT, {"epsilon_threshold": 0.05, "epsilon_query": 0.01}, "add up to epsilon 0.1"),
        (NVFlareSVT, {"weights": 0}, "weights must be positive"),
    ],
)
def test_settings_that_make_no_sense(defense, settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build(defense, settings, "defense")
