"""Planted rows of random weights, and quantiles of a population of which few images are public."""

import copy
import math
from dataclasses import replace
from statistics import NormalDist

import pytest
import torch

from medbreach.errors import NotApplicable
from medbreach.models.small_cnn import SmallCNN
from medbreach.servers import peeling as peeling_module
from medbreach.servers import quantiles as quantiles_module
from medbreach.servers import random_rows as rows_module
from medbreach.servers.fishing import FishingServer
from medbreach.servers.imprint import MaliciousModelServer
from medbreach.servers.modification import Modification
from medbreach.servers.quantiles import quantiles
from medbreach.servers.random_rows import isolating, quantile_biases, trap_weights
from medbreach.testing.examples import tiny_sample
from medbreach.types import ImageSpec

FORMS = {"2D RGB": ((16, 16), 3), "3D": ((8, 16, 16), 1)}
each_form = pytest.mark.parametrize(("space", "channels"), FORMS.values(), ids=FORMS)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_quantiles_of_a_small_sample_are_nearer_to_the_population_than_its_own():
    shares = torch.arange(1, 32) / 32
    truth = torch.tensor([NormalDist().inv_cdf(s) for s in shares.tolist()])
    ours, plain = [], []
    for seed in range(50):
        sample = torch.randn(40, generator=rng(seed))
        ours.append((quantiles(sample, shares) - truth).abs().mean())
        plain.append((sample.quantile(shares) - truth).abs().mean())
    assert torch.stack(ours).mean() < torch.stack(plain).mean()


def test_quantiles_rise_and_have_their_share_below():
    sample = torch.randn(2000, generator=rng()).exp()
    found = quantiles(sample, torch.arange(1, 10) / 10)
    assert (found.diff() > 0).all()
    below = (sample[:, None] < found).double().mean(0)
    torch.testing.assert_close(below, torch.arange(1, 10).double() / 10, atol=0.03, rtol=0)


@pytest.mark.parametrize("shape", ["one hump", "long tail", "two far apart"])
def test_quantiles_are_those_of_the_kernel_estimate_and_take_few_looks_at_it(shape, monkeypatch):
    drawn = torch.randn(300, generator=rng()).double()
    sample = {
        "one hump": drawn,
        "long tail": drawn.mul(2).exp(),
        "two far apart": torch.cat([drawn[:200], drawn[200:] + 50]),
    }[shape]
    looks, ndtr = [], torch.special.ndtr
    monkeypatch.setattr(torch.special, "ndtr", lambda z: (looks.append(z.numel()), ndtr(z))[1])
    wanted = torch.arange(1, 500, dtype=torch.float64) / 500
    found = quantiles(sample, wanted)
    assert sum(looks) < 12 * len(sample) * len(wanted)
    spread = torch.quantile(sample, 0.75) - torch.quantile(sample, 0.25)
    width = 0.9 * min(float(sample.std()), float(spread) / 1.34) * 300**-0.2
    for end, side in ((-1e-6, torch.less_equal), (1e-6, torch.greater_equal)):
        below = ndtr((found[:, None] + end * width - sample) / width).mean(1)
        assert side(below, wanted + 1e-12 * end).all()


def test_quantiles_of_measurements_that_are_all_the_same():
    assert quantiles(torch.full((9,), 3.0), [0.1, 0.9]) == pytest.approx([3.0, 3.0], abs=1e-4)


@each_form
def test_trap_weights_are_half_negative_and_cancel_but_for_the_scale(space, channels):
    spec = tiny_sample(space, channels).spec
    plain = replace(spec, bounds=(0.0, 1.0), mean=(0.0,) * channels, std=(1.0,) * channels)
    chosen = Modification(type="CuriousAbandonHonesty", num_bins=6, scale_factor=0.9, sigma=0.5)
    weight = trap_weights(chosen, plain, torch.zeros(0, *spec.shape), rng())[
        0
    ].linear0.weight.detach()
    assert ((weight < 0).sum(1) == weight.shape[1] // 2).all()
    for row in weight:
        torch.testing.assert_close(row[row > 0].sort().values, 0.9 * (-row[row < 0]).sort().values)
    deviation = weight[weight < 0].square().mean().sqrt().item()
    assert deviation == pytest.approx(0.5, rel=0.1)  # a half-normal one's second moment


def test_the_forks_weights_have_no_negative_half():
    """With its scale of 0.01 nearly all that is left of a row is a random half of either sign."""
    spec = replace(tiny_sample((16, 16), 1).spec, bounds=(0.0, 1.0), mean=(0.0,), std=(1.0,))
    chosen = Modification(
        type="CuriousAbandonHonesty", num_bins=6, scale_factor=0.01, legacy_dkfz=True
    )
    block, _ = trap_weights(chosen, spec, torch.zeros(0, *spec.shape), rng())
    weight = block.linear0.weight.detach()
    large = weight.abs() > 0.05
    assert (weight[large] > 0).double().mean().item() == pytest.approx(0.5, abs=0.05)
    assert large.double().mean().item() == pytest.approx(0.46, abs=0.03)
    assert block.outgoing == 1


def test_the_forks_weights_have_the_forks_scale_if_none_is_given():
    spec = tiny_sample((16, 16), 1).spec
    one, other = (
        Modification(type="CuriousAbandonHonesty", num_bins=4, scale_factor=scale, legacy_dkfz=True)
        for scale in (0.01, None)
    )
    none = torch.zeros(0, *spec.shape)
    weights = [trap_weights(c, spec, none, rng())[0].linear0.weight for c in (one, other)]
    assert torch.equal(*weights)


@each_form
@pytest.mark.parametrize("mu", [-2.0, 0.0, 2.0])
def test_a_fitted_scale_makes_up_for_the_rows_bias(space, channels, mu):
    sample = tiny_sample(space, channels)
    dark = sample.public.clone()
    dark[0] = sample.spec.bounds[0]  # gets through if mu is positive, whatever the scale
    for public in (sample.public, dark):
        chosen = Modification(
            type="CuriousAbandonHonesty", num_bins=64, scale_factor=None, mu=mu, expected_records=5
        )
        layer = trap_weights(chosen, sample.spec, public, rng())[0].linear0
        there = layer(sample.spec.normalise(sample.public[1:]).flatten(1))
        assert (there > 0).double().mean().item() == pytest.approx(0.2, abs=0.06)


def test_trap_weights_are_fitted_however_many_rows_there_are():
    """All measurements together are too many for torch's quantile."""
    spec = replace(tiny_sample((16, 16), 1).spec, space=(4, 4))
    chosen = Modification(type="CuriousAbandonHonesty", num_bins=17_000, scale_factor=None)
    public = torch.rand(1000, 1, 4, 4, generator=rng()) * spec.range + spec.bounds[0]
    layer = trap_weights(chosen, spec, public, rng())[0].linear0
    share = (layer(spec.normalise(public[:200]).flatten(1)) > 0).double().mean().item()
    assert share == pytest.approx(1 / 16, abs=0.03)


def test_trap_weights_are_not_fitted_to_black_images():
    spec = tiny_sample((16, 16), 1).spec
    chosen = Modification(type="CuriousAbandonHonesty", num_bins=4, scale_factor=None)
    with pytest.raises(NotApplicable, match=r"all black.*scale_factor"):
        trap_weights(chosen, spec, torch.full((5, *spec.shape), spec.bounds[0]), rng())


@each_form
def test_trap_weights_undo_the_normalisation_that_clients_apply(space, channels):
    sample = tiny_sample(space, channels)
    chosen = Modification(type="CuriousAbandonHonesty", num_bins=6, scale_factor=0.9, mu=-0.5)
    plain = replace(sample.spec, mean=(), std=())
    there = trap_weights(chosen, sample.spec, sample.public, rng())[0].linear0
    unit = replace(plain, bounds=(0.0, 1.0))
    low, width = sample.spec.bounds[0], sample.spec.range
    shown = (sample.public - low) / width
    here = trap_weights(chosen, unit, shown, rng())[0].linear0
    torch.testing.assert_close(
        there(sample.spec.normalise(sample.public).flatten(1)), here(shown.flatten(1)),
        atol=1e-3, rtol=1e-3,
    )  # fmt: skip


@each_form
@pytest.mark.parametrize("kind", ["CuriousAbandonHonesty", "QBI"])
def test_fitted_rows_let_about_one_of_n_people_through(space, channels, kind):
    sample = tiny_sample(space, channels)
    chosen = Modification(
        type=kind, num_bins=64, scale_factor=None, calibrate=True, expected_records=5
    )
    build = trap_weights if kind != "QBI" else quantile_biases
    layer = build(chosen, sample.spec, sample.public, rng())[0].linear0
    others = torch.cat([sample.decoys, sample.truth.images])
    share = (layer(sample.spec.normalise(others).flatten(1)) > 0).double().mean().item()
    assert 0.08 < share < 0.4


def test_the_papers_biases_fit_independent_normal_voxels():
    spec = replace(tiny_sample((16, 16), 1).spec, mean=(0.0,), std=(1.0,))
    chosen = Modification(type="QBI", num_bins=400, sigma=0.5, expected_records=10)
    layer = quantile_biases(chosen, spec, torch.zeros(0, *spec.shape), rng())[0].linear0
    limit = 0.5 * math.sqrt(256) * NormalDist().inv_cdf(0.9)
    torch.testing.assert_close(layer.bias.detach(), torch.full((400,), -limit))
    voxels = torch.randn(200, 256, generator=rng(1))
    assert (layer(voxels) > 0).double().mean().item() == pytest.approx(0.1, abs=0.01)


def test_rows_are_kept_that_isolate_what_others_do_not():
    """Of three candidates two see the same person: one of them is superfluous."""
    fires = torch.zeros(3, 20, dtype=torch.bool)
    fires[0, :4] = fires[1, :4] = True
    fires[2, 4:6] = True
    kept = isolating(fires, 2, 10, rng())
    assert 2 in kept
    assert len(set(kept)) == 2


def test_kept_rows_isolate_more_people():
    fires = torch.rand(120, 60, generator=rng()) < torch.rand(120, 1, generator=rng(1)) / 2
    kept = isolating(fires, 12, 10, rng(2))

    def covered(rows):
        total = 0
        for seed in range(20):
            inside = fires[rows][:, torch.randperm(60, generator=rng(100 + seed))[:10]]
            total += int((inside & (inside.sum(1, keepdim=True) == 1)).any(0).sum())
        return total

    assert covered(kept) > covered(list(range(12)))


PLANTED = ("ImprintBlock", "CuriousAbandonHonesty", "QBI", "LOKI", "PeelingBlock")


@each_form
@pytest.mark.parametrize("kind", PLANTED)
def test_public_images_are_measured_a_few_at_a_time(space, channels, kind, monkeypatch):
    """A block does not depend on how many, and never are all of them copied."""
    sample = tiny_sample(space, channels)
    model, sizes, whole = SmallCNN(width=4)(sample.spec, 2, rng()), [], ImageSpec.normalise

    def noted(spec, images):
        sizes.append(len(images))
        return whole(spec, images)

    def planted(at_once):
        monkeypatch.setattr(quantiles_module, "AT_ONCE", at_once)
        for module in (rows_module, peeling_module):
            monkeypatch.setattr(module, "AT_ONCE", at_once)
        chosen = Modification(type=kind, num_bins=12, calibrate=True, scale_factor=None, pairs=2)
        server = MaliciousModelServer(model_modification=chosen)
        sent = server.plant(copy.deepcopy(model), sample.spec, sample.public, rng()).model
        return torch.cat([p.detach().flatten() for p in sent.parameters()])

    together = planted(len(sample.public))
    monkeypatch.setattr(ImageSpec, "normalise", noted)
    torch.testing.assert_close(planted(3), together, atol=2e-3, rtol=2e-3)
    assert max(sizes, default=0) <= 3


@pytest.mark.parametrize("kind", [*PLANTED, "fishing"])
@pytest.mark.parametrize("what", ["another size", "another channel", "not a number", "infinite"])
def test_public_images_that_do_not_fit_are_refused(kind, what):
    sample = tiny_sample((16, 16), 3)
    public, sentence = {
        "another size": (sample.public[..., :8], r"\(3, 16, 8\), the clients' \(3, 16, 16\)"),
        "another channel": (sample.public[:, :1], r"\(1, 16, 16\), the clients' \(3, 16, 16\)"),
        "not a number": (sample.public.clone(), "not finite"),
        "infinite": (sample.public.clone(), "not finite"),
    }[what]
    if "finite" in sentence:
        public[3, 0, 2, 2] = math.nan if what == "not a number" else math.inf
    chosen = Modification(
        type="LOKI" if kind == "fishing" else kind, num_bins=12, calibrate=True, scale_factor=None
    )
    server = MaliciousModelServer(model_modification=chosen)
    server = FishingServer() if kind == "fishing" else server
    with pytest.raises(NotApplicable, match=sentence):
        server.plant(SmallCNN(width=4)(sample.spec, 2, rng()), sample.spec, public, rng())


@pytest.mark.parametrize("settings", [{"scale_factor": None}, {"type": "QBI", "calibrate": True}])
def test_fitting_needs_public_images(settings):
    spec = tiny_sample((16, 16), 1).spec
    chosen = Modification(**{"type": "CuriousAbandonHonesty", **settings})
    build = quantile_biases if chosen.type == "QBI" else trap_weights
    with pytest.raises(NotApplicable, match="1 are fewer than the 2"):
        build(chosen, spec, torch.zeros(1, *spec.shape), rng())
