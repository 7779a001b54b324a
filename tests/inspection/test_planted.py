"""Every planted model is found, in 2D and 3D, plain and disguised, and no honest one is blamed."""

import copy

import planted as plants
import pytest
import served
import torch
from torch import nn

from medbreach.inspection import inspect_model
from medbreach.inspection.view import look_at
from medbreach.models.mlp import MLP
from medbreach.models.small_cnn import SmallCNN
from medbreach.randomness import lend_global
from medbreach.servers.fishing import FishingServer
from medbreach.servers.modification import KEYS_OF
from medbreach.testing.examples import tiny_sample

FORMS = {"2D RGB": ((16, 16), 3), "3D": ((8, 16, 16), 1)}
STRUCTURE = "dense layer before convolutions"
OF_ROWS = {
    "robbing the fed": "ladder",
    "robbing the fed, mean": "ladder",
    "robbing the fed, cosine": "ladder",
    "sparse imprint": "ladder",
    "one shot": "few parallel rows",
    "trap weights": "trap weights",
    "trap weights, faulty": "halved rows",
    "quantile biases": "rare gates",
    "several ladders": "ladder",
    "client convolutions": "ladder",
}
OF_HEADS = {
    "class fishing": "one class left",
    "feature fishing": "one feature left",
    "gradient fishing": "shut classes",
}
each_form = pytest.mark.parametrize(("space", "channels"), FORMS.values(), ids=FORMS)


def seeded(number=0):
    return lend_global(torch.Generator().manual_seed(number))


def network(spec, model=None):
    return (model or SmallCNN(width=8))(spec, 3, torch.Generator().manual_seed(0))


def kinds(model, spec, public=None):
    return {sign.kind for sign in inspect_model(model, spec, public).signs}


def test_every_builder_is_tested():
    assert set(OF_ROWS) == set(plants.ROWS)
    assert set(OF_HEADS) == set(plants.FISHING)


@each_form
@pytest.mark.parametrize("disguise", ["plain", "split", "all"])
@pytest.mark.parametrize("kind", plants.ROWS)
def test_planted_rows(kind, disguise, space, channels):
    """Also by what they are alone, where a dense layer was agreed on."""
    sample = tiny_sample(space, channels)
    with seeded():
        model = plants.plant(kind, network(sample.spec), sample.spec, sample.public, disguise)
    found = kinds(model, sample.spec)
    assert {STRUCTURE, OF_ROWS[kind]} <= found


@each_form
@pytest.mark.parametrize("disguise", ["plain", "noisy"])
@pytest.mark.parametrize("kind", plants.FISHING)
def test_fishing(kind, disguise, space, channels):
    spec = tiny_sample(space, channels).spec
    with seeded():
        model = plants.with_noise(plants.FISHING[kind](network(spec)), disguise)
    assert OF_HEADS[kind] in kinds(model, spec)


def test_every_server_is_tested():
    assert {choice for choice, _ in served.SERVERS.values()} == set(served.CHOICES)
    planting = [server for server in map(served.server, served.SERVERS) if not is_fishing(server)]
    assert {server.model_modification.type for server in planting} == set(KEYS_OF)


def is_fishing(server):
    return isinstance(server, FishingServer)


@each_form
@pytest.mark.parametrize("disguise", ["plain", "noisy", "split", "all"])
@pytest.mark.parametrize("name", served.SERVERS)
def test_what_medbreachs_own_servers_send(name, disguise, space, channels):
    sample = tiny_sample(space, channels)
    honest, server = network(sample.spec), served.server(name)
    rng = torch.Generator().manual_seed(0)
    sent = server.plant(copy.deepcopy(honest), sample.spec, sample.public, rng)
    with seeded():
        if not served.disguised(sent, honest, disguise):
            pytest.skip("its rows cannot be disguised so")
    assert kinds(server.send(sent, 0), sample.spec) - {STRUCTURE}


@each_form
def test_rows_in_an_agreed_dense_layer(space, channels):
    """The architecture is as agreed, and honest; only its weights are not."""
    sample = tiny_sample(space, channels)
    honest = network(sample.spec, MLP(width=32, hidden=2))
    assert kinds(honest, sample.spec) == set()
    for kind in ("robbing the fed", "trap weights", "quantile biases", "several ladders"):
        with seeded():
            rows = plants.ROWS[kind](sample.spec.normalise(sample.public), 32)
        malicious = network(sample.spec, MLP(width=32, hidden=2))
        malicious[1].weight.data, malicious[1].bias.data = rows.weight, rows.bias
        assert kinds(malicious, sample.spec) == {OF_ROWS[kind]}


def train(model, images, labels, steps, lr):
    optimiser = torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model


@each_form
@pytest.mark.parametrize(
    "model", [SmallCNN(width=8), MLP(width=64, hidden=1), MLP(width=16, hidden=2)], ids=repr
)
@pytest.mark.parametrize(("steps", "lr"), [(0, 0.0), (40, 0.01), (100, 0.05)])
def test_honest_networks(model, steps, lr, space, channels):
    sample = tiny_sample(space, channels)
    images = sample.spec.normalise(sample.public)
    made = train(network(sample.spec, model), images, torch.arange(len(images)) % 3, steps, lr)
    assert kinds(made, sample.spec) == set()
    assert kinds(made, sample.spec, sample.public) == set()


@each_form
def test_rows_that_training_made_parallel_are_no_ladder(space, channels):
    """From small weights, all rows of a dense layer turn to the same few directions."""
    sample = tiny_sample(space, channels)
    images = sample.spec.normalise(sample.public)
    model = network(sample.spec, MLP(width=32, hidden=1))
    for parameter in model.parameters():
        parameter.data *= 0.01
    train(model, images, torch.arange(len(images)) % 3, 300, 0.1)
    rows = nn.functional.normalize(model[1].weight.detach(), dim=1)
    assert ((rows @ rows.T).abs() > 0.98).sum() > 2 * len(rows)  # they are parallel indeed
    assert "ladder" not in kinds(model, sample.spec)


@each_form
def test_equal_rows_are_a_ladder_however_narrow(space, channels):
    """Thresholds fitted to images that hardly differ in what is measured."""
    sample = tiny_sample(space, channels)
    with seeded():
        rows = plants.robbing_the_fed(sample.spec.normalise(sample.public), 32)
    narrow = rows._replace(bias=1e-3 * rows.bias)
    model = plants.planted("narrow", narrow, network(sample.spec), sample.spec)
    assert "ladder" in kinds(model, sample.spec)
    same = rows._replace(bias=torch.zeros(32))
    model = plants.planted("same", same, network(sample.spec), sample.spec)
    assert "ladder" not in kinds(model, sample.spec)


@each_form
@pytest.mark.parametrize(("directions", "found"), [(4, set()), (64, {"rare gates"})])
def test_closed_gates_of_rows_that_are_alike_are_no_trap(space, channels, directions, found):
    """Training behind a normalisation closes gates too, of rows that mix few directions."""
    sample = tiny_sample(space, channels)
    honest = network(sample.spec, MLP(width=64, hidden=1))
    images = look_at(honest, sample.spec).images.flatten(1)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(directions, images.shape[1], generator=generator)
    rows = torch.randn(64, directions, generator=generator) @ drawn if directions < 64 else drawn
    honest[1].weight.data = rows
    honest[1].bias.data = -torch.quantile(images @ rows.T, 0.9, dim=0)
    assert kinds(honest, sample.spec) == found


def test_public_images_show_what_random_ones_do_not():
    """Rows that are rare among images of one kind, as trap weights are among bright ones."""
    sample = tiny_sample((16, 16), 3)
    images = sample.spec.normalise(sample.public)
    common = images.mean(0).flatten()
    with seeded():
        weight = torch.randn(32, common.numel())
    bright = images + 3 * common.reshape(sample.spec.shape)
    flat = bright.flatten(1)
    shift = torch.quantile((flat @ weight.T) / (flat @ common)[:, None], 0.95, dim=0)
    rows = plants.Rows(weight - shift[:, None] * common, torch.zeros(32), nn.ReLU())
    model = plants.planted("rare", rows, network(sample.spec), sample.spec)
    assert "rare gates" not in kinds(model, sample.spec)
    assert "rare gates" in kinds(model, sample.spec, sample.spec.denormalise(bright))


@each_form
def test_it_does_not_matter_how_a_layer_is_written(space, channels):
    """Rows in a matrix of another orientation, in a module of no known kind."""

    class Odd(nn.Module):
        def __init__(self, rows):
            super().__init__()
            self.table = nn.Parameter(rows.weight.T.contiguous())
            self.shift = nn.Parameter(rows.bias)

        def forward(self, images):
            seen = images.flatten(1) @ self.table + self.shift
            seen = seen * (seen > 0)
            return images + seen.mean(1).reshape(-1, *[1] * (images.dim() - 1))

    sample = tiny_sample(space, channels)
    with seeded():
        rows = plants.robbing_the_fed(sample.spec.normalise(sample.public), 16)
    found = inspect_model(nn.Sequential(Odd(rows), network(sample.spec)), sample.spec).signs
    assert {STRUCTURE, "ladder"} <= {sign.kind for sign in found}
    assert all(sign.where == ("0.table",) for sign in found)


@each_form
def test_a_ladder_behind_the_first_layers(space, channels):
    sample = tiny_sample(space, channels)
    model = network(sample.spec)
    width = model[-1].in_features
    features = model[:-1](sample.spec.normalise(sample.public)).detach()
    with seeded():
        direction = nn.functional.normalize(torch.randn(width), dim=0)
    edges = torch.quantile(features @ direction, (torch.arange(24) + 0.5) / 24)
    planted = plants.layer(direction.repeat(24, 1), -edges)
    back = nn.Linear(24, width)
    deep = nn.Sequential(*model[:-1], planted, nn.ReLU(), back, model[-1])
    (sign,) = inspect_model(deep, sample.spec).signs
    assert (sign.kind, sign.where) == ("ladder", ("7.weight",))


class Mixer(nn.Module):
    """Patches, mixed with one another by a layer that all features share."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(1, 12, 2, 2)
        self.mix = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 64))
        self.head = nn.Linear(12, 3)

    def forward(self, images):
        tokens = self.patches(images).flatten(2)
        return self.head((tokens + self.mix(tokens)).mean(2))


def test_honest_layers_over_all_patches_are_no_dense_layers():
    spec = tiny_sample((16, 16), 1).spec
    with seeded():
        assert kinds(Mixer(), spec) == set()


def test_a_network_that_has_seen_one_class_only():
    """From a last layer of zeros, the rows of the classes that are rare stay much alike."""
    sample = tiny_sample((16, 16), 3)
    images = sample.spec.normalise(sample.public)
    model = network(sample.spec)
    nn.init.zeros_(model[-1].weight)
    labels = torch.zeros(len(images), dtype=torch.long)
    labels[0], labels[1] = 1, 2
    assert kinds(train(model, images, labels, 20, 0.01), sample.spec) == set()
