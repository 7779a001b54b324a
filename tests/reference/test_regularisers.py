"""The bridge's regularisers against breaching's, where those work, and against closed forms."""

import pytest
import torch
from directly import CPU, exchange, play, trained_locally
from torch import nn

from medbreach.breaching_bridge import library
from medbreach.breaching_bridge.regularisers import (
    BatchNormMatching,
    FeatureMatching,
    TotalVariation,
)
from medbreach.testing.examples import tiny_sample

TheirVariation = library.regularizers.TotalVariation


class Network(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, some):
        return self.model(some)


def images(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"inner_exp": 2.0, "outer_exp": 0.5},
        {"double_opponents": True},
        {"scale": 3.0, "eps": 0.1},
    ],
    ids=str,
)
def test_total_variation_is_breachings_on_colour_images(settings):
    some = images(2, 3, 7, 9)
    theirs = TheirVariation(CPU, **{"scale": 1.0, **settings})(some)
    torch.testing.assert_close(TotalVariation(**settings)(some), theirs)


def test_breachings_total_variation_fails_on_grey_images_and_volumes():
    for some in (images(2, 1, 7, 9), images(2, 3, 5, 7, 9)):
        with pytest.raises(RuntimeError):
            TheirVariation(CPU)(some)


def test_total_variation_counts_each_axis_of_a_volume():
    """One bright voxel in the middle differs from six neighbours."""
    volume = torch.zeros(1, 1, 5, 5, 5)
    volume[0, 0, 2, 2, 2] = 4.0
    smoothness = TotalVariation(scale=5.0**3, eps=0.0)
    assert smoothness(volume).item() == pytest.approx(6 * 4.0)


def test_total_variation_of_a_volume_of_equal_slices_is_that_of_a_slice():
    flat = images(1, 1, 6, 6)
    volume = flat[:, :, None].expand(-1, -1, 4, -1, -1)
    walls = flat.mean() / 4  # the last slice ends at the border of zeros
    measured = TotalVariation(eps=0.0)(volume) - walls
    torch.testing.assert_close(measured, TotalVariation(eps=0.0)(flat))


def network(dimensions, classes=3):
    conv, norm, pool = {
        2: (nn.Conv2d, nn.BatchNorm2d, nn.AdaptiveAvgPool2d),
        3: (nn.Conv3d, nn.BatchNorm3d, nn.AdaptiveAvgPool3d),
    }[dimensions]
    return nn.Sequential(
        conv({2: 3, 3: 1}[dimensions], 4, 3), norm(4), nn.ReLU(), conv(4, 4, 3), norm(4),
        pool(2), nn.Flatten(), nn.Linear(4 * 2**dimensions, classes),
    ).eval()  # fmt: skip


def test_batchnorm_matching_is_breachings_in_2d():
    model, some = network(2), images(3, 3, 9, 9)
    ours, theirs = BatchNormMatching(0.3, 10.0), library.regularizers.DeepInversion(CPU, 0.3, 10)
    for regulariser in (ours, theirs):
        regulariser.initialize([model])
    model(some)
    torch.testing.assert_close(ours(some), theirs(some))


def test_batchnorm_matching_follows_a_network_once_after_several_trials():
    model, some = network(2), images(3, 3, 9, 9)
    once, thrice = BatchNormMatching(1.0, 1.0), BatchNormMatching(1.0, 1.0)
    once.initialize([model])
    for _ in range(3):
        thrice.initialize([model])
    model(images(2, 3, 9, 9))  # what counts is the last pass
    model(some)
    torch.testing.assert_close(thrice(some), once(some))


def test_batchnorm_matching_is_zero_where_the_batch_has_the_running_statistics():
    model, some = network(3), images(4, 1, 6, 7, 8)
    for layer in model:
        if isinstance(layer, nn.BatchNorm3d):
            layer.momentum = 1.0
    with torch.no_grad():
        model.train()(some)
        for layer in model:  # running variances are unbiased, the batch's own are not
            if isinstance(layer, nn.BatchNorm3d):
                layer.train().momentum = 0.0
    regulariser = BatchNormMatching(1.0, 10.0)
    regulariser.initialize([model])
    model(some)
    near = regulariser(some)
    model(1 - some)
    assert near < 0.05 * regulariser(some)


def test_batchnorm_without_running_statistics_is_left_out():
    model = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False))
    regulariser = BatchNormMatching(1.0, 10.0)
    regulariser.initialize([model])
    model(images(2, 3, 4, 4))
    assert regulariser(images(2, 3, 4, 4)) == 0


def test_feature_matching_is_breachings_for_a_gradient():
    played = play(network(2))
    shared = [{"gradients": played.gradients}]
    container = Network(played.network)
    theirs = library.regularizers.FeatureRegularization(CPU, 0.5)
    ours = FeatureMatching(0.5, exchange(played))
    for regulariser in (ours, theirs):
        regulariser.initialize([container], shared, played.labels)
    some = images(2, 3, 12, 12)
    played.network(some)
    torch.testing.assert_close(ours(some), theirs(some))


def test_feature_matching_sees_every_record_after_local_training():
    played = trained_locally(network(2), steps=3, per_step=2, records=3)
    container = Network(played.network)
    regulariser = FeatureMatching(1.0, exchange(played))
    regulariser.initialize([container], [{"gradients": played.gradients}], played.labels)
    truth = played.spec.normalise(played.images)
    container(truth[:1])  # the last pass of local training saw one record
    *_, weight, bias = played.gradients
    distance = played.network[:-1](truth) - weight / bias[:, None]
    torch.testing.assert_close(regulariser(truth), distance.square().mean())


def test_feature_matching_finds_the_last_layer_that_runs():
    """breaching takes the last declared one."""

    class HeadFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(8, 3)
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(432, 8), nn.ReLU())

        def forward(self, some):
            return self.head(self.body(some))

    played = play(HeadFirst(), records=1)
    regulariser = FeatureMatching(1.0, exchange(played))
    container = Network(played.network)
    regulariser.initialize([container], [{"gradients": played.gradients}], played.labels)
    truth = played.spec.normalise(played.images)
    container(truth)
    assert regulariser(truth) < 1e-9
    sample = tiny_sample((12, 12), 3)
    other = sample.spec.normalise(sample.public[:1])
    container(other)
    assert regulariser(other) > 1e-4
