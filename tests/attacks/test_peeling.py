"""Peeling: records out of bins that they share, checked by what the update itself tells."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from medbreach import plugins
from medbreach.attacks.influence import _by_reverse_mode, _outputs_and_slopes, influence
from medbreach.attacks.peeling import Peeling, table_of
from medbreach.case import draw
from medbreach.errors import NotApplicable
from medbreach.federation import Federation
from medbreach.models.small_cnn import SmallCNN
from medbreach.protocol import LocalNoise, User
from medbreach.randomness import Seeds
from medbreach.round import play
from medbreach.servers.imprint import MaliciousModelServer
from medbreach.servers.modification import Modification
from medbreach.servers.peeling import SAFE_A_ROW, PeelingBlock, peeling_block
from medbreach.testing.examples import CPU, tiny_case, tiny_collection
from medbreach.types import UNKNOWN, ImageSpec

FORMS = {"2D RGB": ((16, 16), 3), "2D grey": ((16, 16), 1), "3D": ((8, 16, 16), 1)}
each_form = pytest.mark.parametrize(("space", "channels"), FORMS.values(), ids=FORMS)


def server(rows=48, gain=0.3, expected=16, **changes):
    chosen = Modification(type="PeelingBlock", num_bins=rows, gain=gain, expected_records=expected)
    return MaliciousModelServer(model_modification=chosen, **changes)


def played(space=(16, 16), channels=1, records=12, seed=0, plant=None, model=None, **user):
    """Return the images of a round, and what the server sees of it."""
    clients = Federation(partition="random", default_clients=2 if "user_range" in user else 1)
    case = tiny_case(
        space,
        channels,
        server=plant or server(),
        user=User(num_data_points=records, **user),
        federation=clients,
        model=model or SmallCNN(width=8),
    )
    sample = draw(case, tiny_collection(space, channels), Seeds(seed), 2, 20)
    return sample, play(case, sample, (), Seeds(seed), CPU)[0]


def shown(found, sample):
    """Return which records were claimed, and how many claims are no record."""
    apart = (found.images[:, None] - sample.truth.images[None]).flatten(2).square().mean(2).sqrt()
    exact = apart < 1e-3 * sample.spec.range
    return exact.any(0), int((~exact.any(1)).sum())


@each_form
def test_records_share_bins_and_all_come_out(space, channels):
    sample, seen = played(space, channels)
    found = Peeling()(seen, torch.Generator())
    read, false = shown(found, sample)
    assert read.all()
    assert false == 0
    table = table_of(seen, seen.rounds[0])
    assert sum(table.doubt(b) <= 0.003 for b in range(48)) < 12 * 3  # some had to be peeled


@each_form
def test_every_label_is_told(space, channels):
    sample, seen = played(space, channels)
    found = Peeling()(seen, torch.Generator())
    apart = (found.images[:, None] - sample.truth.images[None]).flatten(2).square().mean(2)
    assert torch.equal(found.labels, sample.truth.labels[apart.argmin(1)])
    assert torch.equal(found.confidence, torch.ones(12))


def test_labels_are_left_open_if_nobody_wants_them():
    sample, seen = played()
    found = Peeling(labels=False)(seen, torch.Generator())
    read, false = shown(found, sample)
    assert read.all()
    assert false == 0
    assert found.labels is None


SETTINGS = {
    "count withheld": {"provide_num_data_points": False},
    "several clients, securely aggregated": {
        "user_type": "multiuser_aggregate", "user_range": (0, 2), "records": 6,
    },
    "weights after one step": {
        "user_type": "local_update", "num_local_updates": 1, "local_learning_rate": 0.1,
    },
    "weights after several steps": {
        "user_type": "local_update", "num_local_epochs": 2, "num_data_per_local_update_step": 4,
    },
    "weights after several large steps": {
        "user_type": "local_update", "num_local_epochs": 2, "num_data_per_local_update_step": 4,
        "local_learning_rate": 0.01, "space": (64, 64), "channels": 3,
    },
    "clipping, count withheld": {
        "local_diff_privacy": LocalNoise(per_example_clipping=0.05),
        "provide_num_data_points": False,
    },
}  # fmt: skip


@pytest.mark.parametrize("user", SETTINGS.values(), ids=SETTINGS)
def test_what_the_client_withholds_and_how_it_trains_does_not_matter(user):
    sample, seen = played(**{"records": 12, **user})
    found = Peeling()(seen, torch.Generator())
    read, false = shown(found, sample)
    assert read.all()
    assert false == 0
    assert len(found.images) == 12  # each is claimed once
    if found.labels is not None:
        apart = (found.images[:, None] - sample.truth.images[None]).flatten(2).square().mean(2)
        told = found.labels != UNKNOWN
        assert torch.equal(found.labels[told], sample.truth.labels[apart.argmin(1)][told])


def test_in_training_mode_records_come_out_and_labels_do_not():
    sample, seen = played(plant=server(provide_public_buffers=False))
    assert seen.rounds[0].training
    found = Peeling()(seen, torch.Generator())
    read, false = shown(found, sample)
    assert read.all()
    assert false == 0
    assert found.labels is None
    assert found.confidence.max() < 1


def test_rounds_add_up():
    """More records than one round can tell apart."""
    alone, together = 0, 0
    for seed in range(3):
        for rounds in (1, 3):
            sample, seen = played(records=14, seed=seed, plant=server(18, num_queries=rounds))
            found = Peeling()(seen, torch.Generator())
            read, false = shown(found, sample)
            assert false == 0
            assert len(found.images) == read.sum()  # each is claimed once
            if rounds == 1:
                alone += int(read.sum())
            else:
                together += int(read.sum())
    assert together > alone
    assert together > 0.9 * 3 * 14


def let_in(block, images):
    """Return which images the rows of a block take anything of."""
    passed = block(images) != images
    return passed.flatten(1).any(1)


def test_of_more_records_than_rows_can_tell_some_are_let_in_and_read():
    for seed in range(3):
        sample, seen = played(records=14, seed=seed, plant=server(24, expected=48))
        block = seen.model.get_submodule(seen.rounds[0].secret.block)
        inside = let_in(block, sample.spec.normalise(sample.truth.images))
        read, false = shown(Peeling(labels=False)(seen, torch.Generator()), sample)
        assert 0 < inside.sum() < 14
        assert torch.equal(read, inside)
        assert false == 0


def test_as_many_records_are_let_in_as_can_be_told():
    rng = torch.Generator().manual_seed(0)
    public, others = (
        torch.rand(400, 1, 8, 8, generator=rng),
        torch.rand(2000, 1, 8, 8, generator=rng),
    )
    for expected in (40, 80, 160):
        chosen = Modification(type="PeelingBlock", num_bins=40, expected_records=expected)
        block, _ = peeling_block(chosen, ImageSpec(1, (8, 8)), public, rng)
        share = float(let_in(block, others).double().mean())
        assert share == pytest.approx(min(1, SAFE_A_ROW * 40 / expected), abs=0.05)


def test_under_little_noise_records_come_out_in_some_doubt():
    noise = LocalNoise(gradient_noise=1e-7, distribution="gaussian")
    sample, seen = played(plant=server(gain=1.0), local_diff_privacy=noise)
    found = Peeling()(seen, torch.Generator())
    apart = (found.images[:, None] - sample.truth.images[None]).flatten(2).square().mean(2).sqrt()
    near = apart < 10 ** (-25 / 20) * sample.spec.range
    assert near.any(0).sum() >= 8
    assert near.any(1).float().mean() > 0.8
    assert found.confidence.min() == 0.5


def test_several_rounds_under_noise_claim_a_record_about_once():
    noise = LocalNoise(gradient_noise=1e-7, distribution="gaussian")
    plant = server(32, gain=1.0, num_queries=3)
    sample, seen = played(records=14, plant=plant, local_diff_privacy=noise)
    found = Peeling()(seen, torch.Generator())
    apart = (found.images[:, None] - sample.truth.images[None]).flatten(2).square().mean(2).sqrt()
    near = apart < 10 ** (-20 / 20) * sample.spec.range
    assert near.any(0).all()
    assert near.any(1).all()
    assert len(found.images) <= 16


def test_a_few_rows_let_single_records_in():
    chosen = Modification(type="PeelingBlock", num_bins=2, measurements=1, expected_records=200)
    plant = MaliciousModelServer(model_modification=chosen).for_single_records()
    block, _ = peeling_block(
        plant.model_modification, ImageSpec(1, (8, 8)), torch.rand(20, 1, 8, 8), torch.Generator()
    )
    assert let_in(block, torch.rand(50, 1, 8, 8)).all()


def test_under_noise_bins_are_claimed_without_confidence():
    noise = LocalNoise(gradient_noise=2e-6, distribution="gaussian")
    _, seen = played(local_diff_privacy=noise)
    found = Peeling()(seen, torch.Generator())
    assert len(found.images) > 0
    assert torch.equal(found.confidence, torch.zeros(len(found.images)))


def test_bins_that_noise_drowns_are_not_claimed():
    noise = LocalNoise(gradient_noise=0.01, distribution="gaussian")
    _, seen = played(local_diff_privacy=noise)
    assert len(Peeling()(seen, torch.Generator()).images) == 0


def test_an_update_of_zeros_gives_nothing_away():
    _, seen = played()
    update = seen.update
    blank = replace(update, change={n: torch.zeros_like(g) for n, g in update.change.items()})
    zero = replace(seen, rounds=(replace(seen.rounds[0], update=blank),))
    assert len(Peeling()(zero, torch.Generator()).images) == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_update_that_is_not_finite(value):
    _, seen = played()
    change = {n: g.clone() for n, g in seen.update.change.items()}
    next(iter(change.values())).flatten()[3] = value
    broken = replace(seen.rounds[0], update=replace(seen.update, change=change))
    with pytest.raises(NotApplicable, match=r"weight is not finite: the client's training div"):
        Peeling()(replace(seen, rounds=(broken,)), torch.Generator())


@pytest.mark.parametrize(
    ("measurements", "public", "message"),
    [
        (10, torch.rand(11, 1, 8, 8), "11 are fewer than the 12 that it takes"),
        (3, torch.rand(1, 1, 8, 8).expand(9, -1, -1, -1), "differ too little for the 3 directions"),
    ],
)
def test_public_images_that_do_not_carry_the_measurements(measurements, public, message):
    chosen = Modification(type="PeelingBlock", num_bins=24, measurements=measurements)
    with pytest.raises(NotApplicable, match=message):
        peeling_block(chosen, ImageSpec(1, (8, 8)), public, torch.Generator().manual_seed(0))


def test_reading_needs_the_planted_layer():
    _, seen = played(plant=MaliciousModelServer())
    with pytest.raises(NotApplicable, match="case/server=malicious-model-peeling"):
        Peeling()(seen, torch.Generator())


# What an image would cause.


class TwoLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = PeelingBlock((1, 4, 4), (2, 2), 2)
        nn.init.normal_(self.block.directions, std=0.3)
        nn.init.normal_(self.block.ends)
        self.block.pattern.copy_(torch.randn(1, 4, 4))
        self.out = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, images):
        return self.out(self.block(images))


def test_influence_is_the_gradient_of_a_row_that_the_image_passes():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, images = TwoLayers().double(), torch.randn(5, 1, 4, 4).double()
    loss = nn.functional.cross_entropy
    caused = influence(model, "block", model.block.pattern / 4, loss, images, 3)
    for image, row in zip(images, caused, strict=True):
        for label in range(3):
            value = loss(model(image[None]), torch.tensor([label]))
            (bias,) = torch.autograd.grad(value, model.block.linear0.bias)
            passed = bias != 0
            torch.testing.assert_close(bias[passed], row[label].expand(int(passed.sum())))


class Convolutions(TwoLayers):
    def __init__(self):
        super().__init__()
        first, last = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 2, stride=2, bias=False)
        self.out = nn.Sequential(first, nn.BatchNorm2d(4), nn.Tanh(), last, nn.Flatten())
        self.eval()


@pytest.mark.parametrize("network", [TwoLayers, Convolutions])
def test_both_ways_of_differentiating_agree(network):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, images = network().double(), torch.randn(5, 1, 4, 4).double()
    block, pattern = model.block, model.block.pattern
    there = _outputs_and_slopes(model, block, pattern, images)
    back = _by_reverse_mode(model, block, pattern, images)
    torch.testing.assert_close(there, back)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_bins": 7}, "at least 8, two a measurement"),
        ({"measurements": 0}, "measurements must be at least 1"),
        ({"parts": 0}, "parts must be at least 1"),
        ({"gain": 0.0}, "gain must be positive"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Modification(type="PeelingBlock", **settings)


NETWORKS = {
    "mlp": ("mlp", (16, 16), 3),
    "torchvision_resnet18": ("torchvision_resnet18", (16, 16), 3),
    "transformer with patch embedding": ("vit_april", (16, 16), 3),
    "3D, monai_resnet10": ("monai_resnet10", (8, 16, 16), 1),
    "3D, mlp": ("mlp", (8, 16, 16), 1),
}


@pytest.mark.parametrize(("name", "space", "channels"), NETWORKS.values(), ids=NETWORKS)
def test_any_network(name, space, channels):
    sample, seen = played(space, channels, records=8, model=plugins.models()[name]())
    found = Peeling()(seen, torch.Generator())
    read, false = shown(found, sample)
    assert read.all()
    assert false == 0
    assert found.labels is not None
