"""Gaussian noise: its size, its clipping, and what it does to a real attack."""

import pytest
import torch

from medbreach import choices, config, plugins
from medbreach.audit import audit
from medbreach.errors import ConfigError
from medbreach.protocol import User
from medbreach.session import prepare
from medbreach.settings import build
from medbreach.testing import check, tiny_exchange
from medbreach.types import Role, Verdict
from medbreach_differential_privacy import GaussianNoise

CPU = torch.device("cpu")


def entries(exchange):
    """All entries of an update as one vector."""
    return torch.cat([tensor.flatten() for tensor in exchange.update.change.values()])


@pytest.fixture(scope="module")
def bare():
    return entries(tiny_exchange())


@pytest.mark.parametrize(
    "settings", [None, {"relative_to": "update"}, {"std": 0.01, "clip_norm": 0.5}], ids=str
)
def test_it_keeps_the_contract(settings):
    check(GaussianNoise, settings)


def test_medbreach_finds_it_by_name():
    assert plugins.defenses()["gaussian_noise"] is GaussianNoise
    assert {"gaussian_noise", "gaussian_noise_weak"} <= set(choices.names("defense"))


def test_the_default_is_the_file():
    chosen = config.read_choice("defense", "gaussian_noise")
    assert build(GaussianNoise, {k: v for k, v in chosen.items() if k != "name"}, "defense") == (
        GaussianNoise()
    )


def test_the_noise_has_the_deviation(bare):
    noise = entries(tiny_exchange(defenses=[GaussianNoise(std=0.1)])) - bare
    deviations = 4 / len(bare) ** 0.5  # of the mean and, about, of the deviation itself
    assert abs(noise.mean()) < 0.1 * deviations
    assert noise.std().item() == pytest.approx(0.1, rel=deviations)
    kurtosis = (noise / noise.std()).pow(4).mean().item()
    assert kurtosis == pytest.approx(3.0, abs=4 * (24 / len(bare)) ** 0.5), (
        "Gaussian, not Laplacian"
    )


def test_a_relative_deviation_is_in_root_mean_squares(bare):
    noisy = entries(tiny_exchange(defenses=[GaussianNoise(std=2.0, relative_to="update")]))
    assert ((noisy - bare).norm() / bare.norm()).item() == pytest.approx(2.0, rel=0.1)


def test_clipping_keeps_the_direction(bare):
    bound = bare.norm().item() / 3
    clipped = entries(tiny_exchange(defenses=[GaussianNoise(std=0.0, clip_norm=bound)]))
    assert torch.allclose(clipped, bare / 3, rtol=1e-4)
    untouched = entries(tiny_exchange(defenses=[GaussianNoise(std=0.0, clip_norm=4 * bound)]))
    assert torch.equal(untouched, bare)


def test_clipping_comes_before_the_noise(bare):
    bound = bare.norm().item() / 10
    made = GaussianNoise(std=0.1, clip_norm=bound)
    noise = entries(tiny_exchange(defenses=[made])) - bare / 10
    assert noise.std().item() == pytest.approx(0.1, rel=0.1)
    relative = GaussianNoise(std=1.0, relative_to="update", clip_norm=bound)
    noise = entries(tiny_exchange(defenses=[relative])) - bare / 10
    assert noise.norm().item() == pytest.approx(bound, rel=0.1)


def test_clients_draw_their_own_noise():
    """Then it partly cancels in their mean: the deviation falls with the root of their number."""
    user = User(user_type="multiuser_aggregate", aggregation="secure", num_data_points=2)
    bare, noisy = (
        entries(tiny_exchange(user=user, defenses=stack))
        for stack in ([], [GaussianNoise(std=0.1)])
    )
    assert (noisy - bare).std().item() == pytest.approx(0.1 / 2**0.5, rel=0.05)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"std": -0.1}, "std must not be negative, got -0.1"),
        ({"clip_norm": 0.0}, "clip_norm must be positive, got 0.0"),
        ({"relative_to": "me"}, "defense.relative_to must be"),
        ({"deviation": 1.0}, "defense has no key 'deviation'"),
    ],
)
def test_settings_that_make_no_sense(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build(GaussianNoise, settings, "defense")


def test_it_stops_an_attack_that_leaks_without_it():
    """One real patch, an attack of few steps: the source's large noise stops it, small does not."""
    settings = config.load([
        "case=dermoscopy_2d", "case.user.num_data_points=1", "attack=invertinggradients",
        "attack.optim.max_iterations=150", "defense=[none,gaussian_noise_weak,gaussian_noise]",
        "audit.null_draws=1", "audit.metrics=[mse]", "audit.alpha=0.1",
    ])  # fmt: skip
    session = prepare(settings, CPU)
    found = [o.finding for o in audit(session.plan, session.collection, CPU)]
    verdicts = {f.defenses: f.verdict for f in found if f.role is Role.ATTACK}
    assert verdicts == {
        (): Verdict.LEAK,
        ("gaussian_noise_weak",): Verdict.LEAK,
        ("gaussian_noise",): Verdict.NO_LEAK,
    }
