"""Each of breaching's attackers gives through the bridge what it gives when called directly.

Where breaching 0.1.2 fails or goes wrong, a test says how and compares with what it should do.
"""

import copy
import importlib
from dataclasses import replace

import pytest
import torch
from directly import (
    by_breaching,
    by_medbreach,
    our_attack,
    play,
    trained_locally,
)
from torch import nn

from medbreach.errors import NotApplicable
from medbreach.models.mlp import MLP
from medbreach.models.rgap_cnn import RGAPNetwork
from medbreach.models.vit_april import AprilTransformer
from medbreach.testing.examples import tiny_sample

DESCENTS = ("invertinggradients", "modern", "legacy", "seethroughgradients", "wei",
            "beyondinfering")  # fmt: skip
STEPS = ("optim.max_iterations=4", "impl.dtype=double")  # rounding grows from step to step


def batchnorm_network(channels=3):
    """Return a network whose running statistics are those of real images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(channels, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
            nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, 3),
        )  # fmt: skip
    sample = tiny_sample((12, 12), channels)
    network(sample.spec.normalise(sample.public))
    return network.eval()


def same(ours, theirs, tolerance=1e-6):
    images, labels = theirs
    assert len(ours.images) == len(images)
    torch.testing.assert_close(ours.images, images, atol=tolerance, rtol=0)
    assert labels is None or torch.equal(ours.labels, labels)


@pytest.mark.parametrize("revealed", [True, False], ids=["labels given", "labels withheld"])
@pytest.mark.parametrize("name", DESCENTS)
def test_a_descent_goes_where_breachings_goes(name, revealed):
    played = play(batchnorm_network(), revealed=revealed)
    same(by_medbreach(name, played, *STEPS), by_breaching(name, played, *STEPS))


@pytest.mark.parametrize(
    "settings",
    [
        ["objective.type=euclidean", "optim.optimizer=momgd", "optim.step_size_decay=linear"],
        ["objective.type=l1", "optim.optimizer=gd", "optim.warmup=2"],
        [
            "init=patterned-4-randn",
            "optim.signed=soft",
            "optim.warmup=2",
            "regularization.total_variation.inner_exp=2",
            "regularization.total_variation.outer_exp=0.5",
            "+regularization.total_variation.double_opponents=true",
        ],
        ["objective.type=angular", "optim.optimizer=bert-adam", "init=randn-trunc"],
        ["objective.type=masked-cosine-similarity", "init=rand", "optim.grad_clip=0.1"],
        ["objective.type=fast-cosine-similarity", "init=red-true", "optim.signed=soft"],
        ["objective.task_regularization=0.1", "init=rand-wei-4", "optim.optimizer=adam-safe"],
        ["restarts.num_trials=3", "normalize_gradients=true", "optim.langevin_noise=0.1"],
        ["+regularization.norm.scale=0.1", "+regularization.orthogonality.scale=1"],
        [
            "+augmentations.flip.p=0.5",
            "+augmentations.continuous_shift.shift=2",
            "impl.dtype=float",
        ],
        ["+augmentations.colorjitter.mean=0.1", "differentiable_augmentations=true"],
    ],
    ids=" ".join,
)
def test_settings_mean_what_they_mean_in_breaching(settings):
    played = play(batchnorm_network())
    ours = [setting.removeprefix("+") for setting in settings]
    same(
        by_medbreach("invertinggradients", played, *STEPS, *ours),
        by_breaching("invertinggradients", played, *STEPS, *settings),
    )


def test_breachings_orthogonality_ignores_its_scale():
    played = play(batchnorm_network())
    scale = "regularization.orthogonality.scale"
    ours = [by_medbreach("wei", played, *STEPS, f"{scale}={s}") for s in (0, 1, 50)]
    theirs = by_breaching("wei", played, *STEPS, f"+{scale}=50")
    same(ours[1], theirs)
    assert not torch.allclose(ours[2].images, ours[1].images)
    assert not torch.allclose(ours[0].images, ours[1].images)


def test_single_precision():
    played = play(batchnorm_network())
    few = ("invertinggradients", played, "optim.max_iterations=4")
    same(by_medbreach(*few), by_breaching(*few))


def test_breachings_sanitycheck_divides_by_zero_where_the_bridge_goes_on():
    played = play(batchnorm_network())
    with pytest.raises(ZeroDivisionError):
        by_breaching("sanitycheck", played, "optim.max_iterations=2")
    theirs = by_breaching("sanitycheck", played, *STEPS, "optim.callback=1")
    same(by_medbreach("sanitycheck", played, *STEPS), theirs)


@pytest.mark.parametrize("strategy", ["iDLG", "analytic", "yin", "wainakh-simple", "random"])
def test_labels_are_inferred_as_in_breaching(strategy):
    played = play(batchnorm_network(), records=3, revealed=False)
    chosen = ("invertinggradients", played, *STEPS, f"label_strategy={strategy}")
    same(by_medbreach(*chosen), by_breaching(*chosen))


@pytest.mark.parametrize("name", ["invertinggradients", "legacy", "seethroughgradients"])
@pytest.mark.parametrize("sent", [True, False], ids=["buffers sent", "buffers withheld"])
def test_batch_statistics_of_the_client(name, sent):
    network = batchnorm_network()
    buffers = [b.clone() * 1.1 for b in network.buffers()] if sent else None
    played = play(network, training=True, buffers=buffers)
    same(by_medbreach(name, played, *STEPS), by_breaching(name, played, *STEPS))


def test_several_queries():
    played = play(batchnorm_network(), rounds=2)
    same(by_medbreach("legacy", played, *STEPS), by_breaching("legacy", played, *STEPS))


@pytest.mark.parametrize("revealed", [True, False], ids=["labels given", "labels withheld"])
def test_local_training_whose_recipe_is_known(revealed):
    played = trained_locally(batchnorm_network(), steps=3, per_step=2, records=4, revealed=revealed)
    by_step = torch.cat(played.recipe["labels"][:2])
    theirs = by_breaching("invertinggradients", played, *STEPS, labels=by_step)
    same(by_medbreach("invertinggradients", played, *STEPS), theirs)


@pytest.mark.parametrize("name", ["modern", "legacy", "seethroughgradients"])
def test_breaching_loses_features_and_statistics_in_local_training(name):
    """The bridge follows them: see what its regularisers are in ``test_regularisers.py``."""
    played = trained_locally(batchnorm_network(), steps=3, per_step=2, records=4)
    with pytest.raises((TypeError, AttributeError), match=r"NoneType|r_feature"):
        by_breaching(name, played, *STEPS)
    assert len(by_medbreach(name, played, *STEPS).images) == 4


def test_breaching_matches_a_change_without_recipe_with_the_wrong_sign():
    played = trained_locally(batchnorm_network(), steps=1, per_step=2)
    played = replace(played, recipe=None)
    turned = [-g for g in played.gradients]
    ours = by_medbreach("invertinggradients", played, *STEPS)
    same(ours, by_breaching("invertinggradients", played, *STEPS, gradients=turned))
    wrong, _ = by_breaching("invertinggradients", played, *STEPS)
    assert not torch.allclose(ours.images, wrong, atol=1e-3)


@pytest.mark.parametrize("trials", [1, 2])
def test_deepleakage_goes_where_breachings_goes(trials):
    played = play(batchnorm_network(), revealed=False)
    chosen = ("deepleakage", played, *STEPS, f"restarts.num_trials={trials}")
    ours, (images, _) = by_medbreach(*chosen), by_breaching(*chosen)
    torch.testing.assert_close(ours.images, images, atol=1e-5, rtol=0)


def test_breachings_deepleakage_returns_the_label_that_it_started_with():
    played = play(batchnorm_network(), records=1, revealed=False)
    short, long = "optim.max_iterations=1", "optim.max_iterations=20"
    _, started = by_breaching("deepleakage", played, short)
    _, ended = by_breaching("deepleakage", played, long)
    assert torch.equal(started, ended)
    assert not torch.equal(ended, played.labels)
    assert torch.equal(by_medbreach("deepleakage", played, long).labels, played.labels)


def test_breachings_multiscale_stops_before_its_first_step():
    with pytest.raises(TypeError, match="positional arguments"):
        by_breaching("multiscale_ghiasi", play(batchnorm_network()), *STEPS)


@pytest.mark.parametrize("resize", ["focus", "upsampling"])
def test_multiscale_is_a_descent_at_each_scale(resize):
    played = play(batchnorm_network())
    settings = ("num_stages=3", f"resize={resize}", "augmentations=null", *STEPS)
    ours = by_medbreach("multiscale_ghiasi", played, *settings)
    drawn = int(torch.randint(2**62, (1,), generator=torch.Generator().manual_seed(0)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(drawn)
        reference = played.spec.denormalise(multiscale_reference(played, resize))
    torch.testing.assert_close(ours.images, reference.clamp(0, 1), atol=1e-4, rtol=0)


def multiscale_reference(played, resize):
    """Invert gradients at 4, 8 and 12 pixels; Adam on the sign of the cosine distance's gradient.

    The published settings: smoothness 0.2, a tenth of the step size at three milestones.
    """
    network = copy.deepcopy(played.network).double()
    sent = torch.cat([g.double().flatten() for g in played.gradients])
    mean, std = (
        torch.tensor(v).double().reshape(1, 3, 1, 1) for v in (played.spec.mean, played.spec.std)
    )
    candidate = torch.randn(2, 3, 4, 4, dtype=torch.double)
    for side in (4, 8, 12):
        inner, start = (side // 2, side // 4) if resize == "focus" else (side, 0)
        small = nn.functional.interpolate(candidate, size=inner, mode="bilinear")
        if resize == "focus":
            candidate = torch.randn(2, 3, side, side, dtype=torch.double)
            candidate[:, :, start : start + inner, start : start + inner] = small
        else:
            candidate = small
        candidate = candidate.clone().requires_grad_()
        adam = torch.optim.Adam([candidate], lr=0.1, betas=(0.5, 0.99), eps=1e-4)
        decay = torch.optim.lr_scheduler.MultiStepLR(adam, [1, 2, 3], gamma=0.1)
        least, best = float("inf"), candidate.detach().clone()
        for _ in range(4):
            loss = nn.functional.cross_entropy(network(candidate), played.labels)
            guess = torch.autograd.grad(loss, list(network.parameters()), create_graph=True)
            flat = torch.cat([g.flatten() for g in guess])
            value = 1 - (flat @ sent) / (flat.norm() * sent.norm())
            value = value + 0.2 * roughness(candidate)
            candidate.grad = torch.autograd.grad(value, candidate)[0].sign()
            adam.step()
            decay.step()
            candidate.data = torch.max(torch.min(candidate, (1 - mean) / std), -mean / std)
            if value.item() < least:
                least, best = value.item(), candidate.detach().clone()
        candidate = best
    return candidate.float()


def roughness(images):
    """Return the mean absolute difference to the next pixel along both axes; outside is zero."""
    padded = nn.functional.pad(images, (0, 1, 0, 1))
    right, down = padded[..., :-1, :].diff(dim=3), padded[..., :-1].diff(dim=2)
    return (right.abs() + down.abs() + 2e-8).mean()


def test_multiscales_shipped_shift_reads_one_quadrant_of_the_candidate():
    """Which is why `multiscale_ghiasi` as breaching ships it cannot reconstruct whole images."""
    settings = our_attack("multiscale_ghiasi").augmentations["continuous_shift"]
    augmentations = importlib.import_module("breaching.attacks.auxiliaries.augmentations")
    image = torch.rand(8, 3, 12, 12, requires_grad=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        augmentations.augmentation_lookup["continuous_shift"](**settings)(image).sum().backward()
    assert image.grad[..., :6, :6].any()
    assert not image.grad[..., 7:, :].any()
    assert not image.grad[..., :, 7:].any()


def test_analytic_inverts_one_record_as_breaching_does():
    network = MLP(width=16, hidden=2)(tiny_sample((12, 12), 3).spec, 3, torch.Generator())
    for revealed in (True, False):
        played = play(network, records=1, revealed=revealed)
        ours = by_medbreach("analytic", played)
        same(ours, by_breaching("analytic", played))
        torch.testing.assert_close(ours.images, played.images, atol=1e-3, rtol=0)


def test_analytic_chooses_rows_where_breaching_takes_those_numbered_like_the_labels():
    network = MLP(width=256, hidden=2)(tiny_sample((12, 12), 3).spec, 3, torch.Generator())
    played = play(network, records=3)
    images, _ = by_breaching("analytic", played)
    ours = by_medbreach("analytic", played)
    assert torch.equal(ours.confidence, torch.ones(3))
    for found, close in ((images, 0), (ours.images, 3)):
        errors = (found[:, None] - played.images[None]).abs().flatten(2).amax(2)
        assert int((errors.min(0).values < 1e-4).sum()) == close


def test_rgap_goes_back_as_breaching_does():
    spec = tiny_sample((12, 12), 3).spec
    played = play(RGAPNetwork(depth=2)(spec, 3, torch.Generator().manual_seed(1)), records=1)
    ours = by_medbreach("rgap", played)
    same(ours, by_breaching("rgap", played), tolerance=1e-4)
    torch.testing.assert_close(ours.images, played.images, atol=0.01, rtol=0)


def test_breachings_rgap_fails_without_a_last_bias_where_the_bridge_says_so():
    spec = tiny_sample((12, 12), 3).spec
    network = RGAPNetwork(depth=1)(spec, 3, torch.Generator())
    network[-1] = nn.Linear(network[-1].in_features, 3, bias=False)
    played = play(network, records=1)
    with pytest.raises(ValueError, match="mismatch"):
        by_breaching("rgap", played, "inversion.steps=1")
    with pytest.raises(NotApplicable, match="a last layer with a bias"):
        by_medbreach("rgap", played)


def test_april_inverts_the_first_block_as_breaching_does():
    spec = tiny_sample((16, 16), 3).spec
    network = AprilTransformer()(spec, 3, torch.Generator().manual_seed(0))
    played = play(network, records=1, space=(16, 16))
    ours = by_medbreach("april_analytic", played)
    same(ours, by_breaching("april_analytic", played))
    torch.testing.assert_close(ours.images, played.images, atol=1e-3, rtol=0)


def test_april_claims_one_image_where_breaching_adds_blank_ones():
    spec = tiny_sample((16, 16), 3).spec
    network = AprilTransformer()(spec, 3, torch.Generator().manual_seed(0))
    played = play(network, records=2, space=(16, 16))
    images, _ = by_breaching("april_analytic", played)
    blank = spec.denormalise(torch.zeros(1, *spec.shape))
    torch.testing.assert_close(images[1:], blank)
    same(by_medbreach("april_analytic", played), (images[:1], None))


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        (["objective.type=pearlmutter-loss"], RuntimeError),
        (["objective.type=pearlmutter-cosine"], RuntimeError),
        (["label_strategy=wainakh-whitebox"], RuntimeError),
        (["label_strategy=exhaustive"], ValueError),
        (["label_strategy=null"], TypeError),
        (["restarts.scoring=TV"], TypeError),
        (["+augmentations.flip=null"], TypeError),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_what_fails_in_breaching_itself(settings, error):
    """The first four are no choices here; the fifth is `NotApplicable`; the last two work."""
    with pytest.raises(error):
        by_breaching(
            "invertinggradients",
            play(batchnorm_network(), revealed=False),
            "optim.max_iterations=1",
            *settings,
        )


def test_least_total_variation_decides_between_restarts():
    played = play(batchnorm_network())
    few = ("optim.max_iterations=1", "optim.step_size=1e-12")
    ours = by_medbreach("sanitycheck", played, *few, "restarts.num_trials=4", "restarts.scoring=TV")
    drawn = int(torch.randint(2**62, (1,), generator=torch.Generator().manual_seed(0)))
    starts = torch.randn(4, *played.images.shape, generator=torch.Generator().manual_seed(drawn))
    smoothest = min(starts, key=roughness)
    expected = played.spec.denormalise(smoothest).clamp(0, 1)
    torch.testing.assert_close(ours.images, expected, atol=1e-6, rtol=0)


def test_the_noise_of_seethroughgradients_outweighs_its_gradient_without_batchnorm():
    """Which is why it does not solve its control as breaching ships it."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(800, 3))
    played = play(network, records=1)
    settings = our_attack("seethroughgradients")
    candidate = torch.randn(1, 3, 12, 12, requires_grad=True)
    loss = nn.functional.cross_entropy(network(candidate), played.labels)
    guess = torch.autograd.grad(loss, list(network.parameters()), create_graph=True)
    distance = sum((a - b).pow(2).sum() for a, b in zip(guess, played.gradients, strict=True)) / 2
    pull = torch.autograd.grad(settings.objective.scale * distance, candidate)[0]
    noise = settings.optim.langevin_noise * settings.optim.step_size
    assert noise > 3 * pull.std()
