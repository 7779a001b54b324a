"""Clipping and noise of whole updates: sizes, order, attackers, and what stops a real attack."""

from dataclasses import replace

import pytest
import torch

from medbreach import choices, config, plugins
from medbreach.attacks.known_defenses import KnownDefenses
from medbreach.audit import audit
from medbreach.errors import ConfigError
from medbreach.protocol import LocalNoise, User
from medbreach.randomness import Seeds
from medbreach.session import prepare
from medbreach.settings import build
from medbreach.testing import check, tiny_exchange, tiny_sample
from medbreach.types import Role, Verdict
from medbreach_differential_privacy import (
    GaussianNoise,
    LaplaceNoise,
    UpdateClipping,
    vectors,
)

CPU = torch.device("cpu")
TWO_CLIENTS = User(user_type="multiuser_aggregate", aggregation="secure", num_data_points=2)
NAMES = {
    "dp_sgd", "dp_sgd_weak", "update_clipping", "gaussian_noise", "gaussian_noise_weak",
    "laplace_noise", "flower_local_dp", "flower_flip", "nvflare_percentile", "nvflare_svt",
}  # fmt: skip


def entries(exchange):
    """All entries of an update as one vector."""
    return torch.cat([tensor.flatten() for tensor in exchange.update.change.values()])


@pytest.fixture(scope="module")
def bare():
    return entries(tiny_exchange())


@pytest.mark.parametrize(
    ("defense", "settings"),
    [
        (GaussianNoise, None),
        (GaussianNoise, {"relative_to": "clip_norm", "clip_norm": 0.5}),
        (LaplaceNoise, {"relative_to": "update", "clip_norm": 0.5}),
        (UpdateClipping, {"clip_norm": 0.01}),
    ],
    ids=str,
)
def test_they_keep_the_contract(defense, settings):
    check(defense, settings)


def test_medbreach_finds_them_by_name():
    assert plugins.defenses()["gaussian_noise"] is GaussianNoise
    assert set(choices.names("defense")) >= NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_choices_are_what_their_names_say(name):
    """Every choice builds, and one that has its defense's name is its default."""
    chosen = config.read_choice("defense", name)
    made_of = plugins.defenses()[chosen["name"]]
    settings = {key: value for key, value in chosen.items() if key != "name"}
    made = build(made_of, settings, "defense")
    assert (made == made_of()) == (name == made_of.name)


def test_gaussian_noise_has_the_deviation(bare):
    noise = entries(tiny_exchange(defenses=[GaussianNoise(std=0.1)])) - bare
    deviations = 4 / len(bare) ** 0.5  # of the mean and, about, of the deviation itself
    assert abs(noise.mean()) < 0.1 * deviations
    assert noise.std().item() == pytest.approx(0.1, rel=deviations)
    kurtosis = (noise / noise.std()).pow(4).mean().item()
    assert kurtosis == pytest.approx(3.0, abs=4 * (24 / len(bare)) ** 0.5), (
        "Gaussian, not Laplacian"
    )


def test_laplace_noise_has_the_scale(bare):
    noise = entries(tiny_exchange(defenses=[LaplaceNoise(scale=0.1)])) - bare
    deviations = 4 / len(bare) ** 0.5
    assert noise.abs().mean().item() == pytest.approx(0.1, rel=deviations)
    assert noise.std().item() == pytest.approx(0.1 * 2**0.5, rel=2.3 * deviations)
    assert abs(noise.median()) < 0.1 * deviations
    tail = (noise.abs() > 0.2).float().mean().item()
    assert tail == pytest.approx(torch.tensor(-2.0).exp().item(), rel=0.1), "exp(-2) beyond 2"


@pytest.mark.parametrize(("defense", "deviations"), [(GaussianNoise, 1), (LaplaceNoise, 2**0.5)])
def test_a_relative_deviation_is_in_root_mean_squares(bare, defense, deviations):
    noisy = entries(tiny_exchange(defenses=[defense(2.0, relative_to="update")]))
    assert ((noisy - bare).norm() / bare.norm()).item() == pytest.approx(2 * deviations, rel=0.1)


def test_clipping_keeps_the_direction(bare):
    bound = bare.norm().item() / 3
    for made in (GaussianNoise(std=0.0, clip_norm=bound), UpdateClipping(bound)):
        assert entries(tiny_exchange(defenses=[made])).allclose(bare / 3, rtol=1e-4)
    for made in (GaussianNoise(std=0.0, clip_norm=4 * bound), UpdateClipping(4 * bound)):
        assert torch.equal(entries(tiny_exchange(defenses=[made])), bare)


def test_laplace_noise_clips_the_sum_of_absolute_values(bare):
    bound = bare.abs().sum().item() / 3
    clipped = entries(tiny_exchange(defenses=[LaplaceNoise(scale=0.0, clip_norm=bound)]))
    assert clipped.allclose(bare / 3, rtol=1e-4)


def test_clipping_comes_before_the_noise(bare):
    bound = bare.norm().item() / 10
    for made in (
        GaussianNoise(std=0.1, clip_norm=bound),
        GaussianNoise(std=0.1 / bound, clip_norm=bound, relative_to="clip_norm"),
    ):
        noise = entries(tiny_exchange(defenses=[made])) - bare / 10
        assert noise.std().item() == pytest.approx(0.1, rel=0.1)
    relative = GaussianNoise(std=1.0, relative_to="update", clip_norm=bound)
    noise = entries(tiny_exchange(defenses=[relative])) - bare / 10
    assert noise.norm().item() == pytest.approx(bound, rel=0.1)


def test_clients_draw_their_own_noise():
    """Then it partly cancels in their mean: the deviation falls with the root of their number."""
    bare, noisy = (
        entries(tiny_exchange(user=TWO_CLIENTS, defenses=stack))
        for stack in ([], [GaussianNoise(std=0.1)])
    )
    assert (noisy - bare).std().item() == pytest.approx(0.1 / 2**0.5, rel=0.05)


@pytest.mark.parametrize(
    "made",
    [
        GaussianNoise(std=0.1),
        GaussianNoise(std=0.5, clip_norm=0.2, relative_to="clip_norm"),
        GaussianNoise(std=1.5, relative_to="update"),
        LaplaceNoise(scale=0.1),
        LaplaceNoise(scale=0.5, clip_norm=0.2, relative_to="clip_norm"),
        LaplaceNoise(scale=1.5, relative_to="update"),
    ],
    ids=str,
)
@pytest.mark.parametrize("user", [User(num_data_points=2), TWO_CLIENTS], ids=["one", "two"])
def test_an_attacker_knows_the_noise(made, user):
    noiseless = "std" if isinstance(made, GaussianNoise) else "scale"
    exchange = tiny_exchange(user=user, defenses=[made])
    bare = entries(tiny_exchange(user=user, defenses=[replace(made, **{noiseless: 0.0})]))
    measured = (entries(exchange) - bare).std().item()
    assert made.noise(exchange.update) == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize(
    "made",
    [
        UpdateClipping(0.01),
        GaussianNoise(std=0.0, clip_norm=0.01),
        LaplaceNoise(scale=0.0, clip_norm=0.01),
    ],
    ids=lambda d: d.name,
)
def test_an_attacker_with_the_true_images_finds_what_was_sent(made):
    exchange = tiny_exchange(defenses=[made])
    truth = tiny_sample().batches[0]
    known = KnownDefenses(exchange).change(
        exchange.model, truth.images, truth.labels, Seeds(0).stream("attack")
    )
    for name, sent in exchange.update.change.items():
        assert known[name].allclose(sent, rtol=1e-4, atol=1e-8), name


@pytest.mark.parametrize("order", [1.0, 2.0])
def test_an_attacker_can_search_from_a_change_of_zeros(order):
    change = {"a": torch.zeros(3, requires_grad=True), "b": torch.ones(2, requires_grad=True)}
    clipped = vectors.clipped({**change, "b": 0 * change["b"]}, 0.5, order)
    total = torch.cat(list(clipped.values())).sum()
    for gradient in torch.autograd.grad(total, list(change.values())):
        assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("made", "distribution", "scale"),
    [(GaussianNoise(std=0.1), "gaussian", 0.1), (LaplaceNoise(scale=0.1), "laplacian", 0.1)],
    ids=["gaussian", "laplacian"],
)
def test_breachings_noise_on_a_gradient_is_the_same(bare, made, distribution, scale):
    """One scale means the same here and in its ``local_diff_privacy``, for one gradient."""
    keys = LocalNoise(gradient_noise=scale, distribution=distribution)
    user = User(num_data_points=2, local_diff_privacy=keys)
    theirs = entries(tiny_exchange(user=user)) - bare
    ours = entries(tiny_exchange(defenses=[made])) - bare
    assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.05)
    assert ours.abs().mean().item() == pytest.approx(theirs.abs().mean().item(), rel=0.05)


@pytest.mark.parametrize(
    ("defense", "settings", "sentence"),
    [
        (GaussianNoise, {"std": -0.1}, "std must not be negative, got -0.1"),
        (GaussianNoise, {"clip_norm": 0.0}, "clip_norm must be positive, got 0.0"),
        (GaussianNoise, {"relative_to": "me"}, "defense.relative_to must be"),
        (GaussianNoise, {"relative_to": "clip_norm"}, "relative_to=clip_norm needs a clip_norm"),
        (GaussianNoise, {"deviation": 1.0}, "defense has no key 'deviation'"),
        (GaussianNoise, {"delta": 2.0}, "delta must lie above 0 and below 1"),
        (LaplaceNoise, {"scale": -0.1}, "scale must not be negative, got -0.1"),
        (LaplaceNoise, {"clip_norm": -1.0}, "clip_norm must be positive"),
        (GaussianNoise, {"std": float("nan")}, "defense.std must be finite, got nan"),
        (LaplaceNoise, {"relative_to": "clip_norm"}, "relative_to=clip_norm needs a clip_norm"),
        (LaplaceNoise, {"rounds": 0}, "rounds must be at least 1"),
        (UpdateClipping, {"clip_norm": 0.0}, "clip_norm must be positive, got 0.0"),
    ],
)
def test_settings_that_make_no_sense(defense, settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build(defense, settings, "defense")


def test_what_stops_an_attack_that_leaks_without_it():
    """One real patch, few steps: large noise and DP-SGD stop it, little noise does not."""
    stacks = "none,gaussian_noise_weak,gaussian_noise,dp_sgd"
    settings = config.load([
        "case=dermoscopy_2d", "case.user.num_data_points=1", "attack=invertinggradients",
        "attack.optim.max_iterations=150", f"defense=[{stacks}]",
        "attack.adaptive=false", "audit.null_draws=1", "audit.metrics=[mse]", "audit.alpha=0.13",
    ])  # fmt: skip
    session = prepare(settings, CPU)
    found = [o.finding for o in audit(session.plan, session.collection, CPU)]
    verdicts = {f.defenses: f.verdict for f in found if f.role is Role.ATTACK}
    assert verdicts == {
        (): Verdict.LEAK,
        ("gaussian_noise_weak",): Verdict.LEAK,
        ("gaussian_noise",): Verdict.NO_LEAK,
        ("dp_sgd",): Verdict.NO_LEAK,
    }
    given = {f.defenses: f.guarantees for f in found if f.role is Role.ATTACK}
    assert [g.epsilon for g in given["dp_sgd",]] == [pytest.approx(4.377, abs=1e-3)]
    assert given["gaussian_noise",] == ()
