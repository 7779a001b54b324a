"""What a linear layer's gradient gives away: closed forms on real images, in 2D and 3D."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from medbreach.attacks.analytic import Analytic
from medbreach.attacks.cocktail_party import CocktailParty
from medbreach.attacks.feature_recovery import Encoder, FeatureRecovery, find_features
from medbreach.attacks.image_layer import find_image_layer
from medbreach.attacks.span import span_of
from medbreach.case import draw
from medbreach.errors import NotApplicable
from medbreach.models.mlp import MLP
from medbreach.models.monai_networks import MonaiViT
from medbreach.models.small_cnn import SmallCNN
from medbreach.protocol import LocalNoise, User
from medbreach.randomness import Seeds
from medbreach.recovery import psnr_table
from medbreach.round import play
from medbreach.testing.examples import CPU, tiny_case, tiny_collection, tiny_exchange, tiny_sample
from medbreach.types import UNKNOWN, Exchange, Round, Update

FORMS = {"2D grey": ((16, 16), 1), "2D RGB": ((16, 16), 3), "3D": ((8, 16, 16), 1)}
each_form = pytest.mark.parametrize(("space", "channels"), FORMS.values(), ids=FORMS)
WIDE = MLP(width=512, hidden=2)


@pytest.fixture(autouse=True)
def _weights_of_networks():
    """Give networks the same weights in every test, and leave the global generator alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def seen(network, records=3, space=(8, 8), channels=3, training=False, **told):
    """Return the records' images and what the server sees of one gradient."""
    sample = tiny_sample(space, channels)
    images, labels = sample.decoys[:records], torch.arange(records) % 3
    loss = nn.CrossEntropyLoss()
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    value = loss(network.train(training)(sample.spec.normalise(images)), labels)
    parameters = list(network.parameters())
    gradients = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
    network.load_state_dict(kept)
    names = [name for name, _ in network.named_parameters()]
    told = {"count": records, "labels": labels} | told
    update = Update(dict(zip(names, gradients, strict=True)), **told)
    public = sample.public
    return images, Exchange(sample.spec, 3, loss, (Round(network, update, training),), public)


def run(attack, exchange):
    return attack(exchange, torch.Generator().manual_seed(0))


def errors(claims, images, spec):
    """Return each image's greatest difference to the nearest claim, as a share of the range."""
    apart = (claims[:, None] - images[None]).abs().flatten(2).amax(2)
    return apart.min(0).values / spec.range


def linear(pixels, width=512, classes=3, bias=True):
    first = nn.Linear(pixels, width, bias=bias)
    return [first, nn.ReLU(), nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, classes)]


# Where the layer is.


class Shuffled(nn.Module):
    """Pixels in another order, each with a scale and offset of its own, and others beside them."""

    def __init__(self, pixels):
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.register_buffer("order", torch.randperm(pixels, generator=rng))
        self.register_buffer("scale", 0.1 + torch.rand(pixels, generator=rng))
        self.register_buffer("offset", torch.randn(pixels, generator=rng))

    def forward(self, images):
        flat = images.flatten(1)
        moved = flat[:, self.order] * self.scale + self.offset
        beside = flat.mean(1, keepdim=True).expand(-1, 5)
        return torch.cat([beside, torch.ones_like(beside), moved], dim=1)


CONV = {2: nn.Conv2d, 3: nn.Conv3d}
BEHIND = {
    "flatten": lambda pixels, c, space: [nn.Flatten(), *linear(pixels)],
    "identity and dropout": lambda pixels, c, space: [
        nn.Identity(), nn.Dropout(0.5), nn.Flatten(), *linear(pixels)
    ],
    "shuffled, scaled, with others": lambda pixels, c, space: [
        Shuffled(pixels), *linear(pixels + 10)
    ],
    "running statistics": lambda pixels, c, space: [
        nn.Flatten(), nn.BatchNorm1d(pixels), *linear(pixels)
    ],
    "a branch before it": lambda pixels, c, space: [Branches(c, len(space), pixels)],
    "a kernel as large as the image": lambda pixels, c, space: [
        CONV[len(space)](c, 512, space), nn.Flatten(), nn.ReLU(), *linear(512, 64)
    ],
}  # fmt: skip


class Branches(nn.Module):
    """A convolution and a linear layer side by side."""

    def __init__(self, channels, dimensions, pixels):
        super().__init__()
        self.convolution = CONV[dimensions](channels, 4, 3)
        self.rest = nn.Sequential(*linear(pixels))

    def forward(self, images):
        features = self.convolution(images).relu().flatten(1).mean(1, keepdim=True)
        return self.rest(images.flatten(1)) + features


@each_form
@pytest.mark.parametrize("behind", BEHIND)
def test_the_layer_is_found_wherever_pixels_go(space, channels, behind):
    pixels = channels * math.prod(space)
    network = nn.Sequential(*BEHIND[behind](pixels, channels, space))
    images, exchange = seen(network, records=1, space=space, channels=channels)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    claims = run(Analytic(), exchange)
    assert errors(claims.images, images, exchange.spec).item() < 1e-3
    assert claims.confidence.item() > 0.999
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


class Squashed(nn.Module):
    def forward(self, images):
        return images.flatten(1).tanh()


class Cropped(nn.Module):
    def forward(self, images):
        return images[..., 2:].flatten(1)


class Twice(nn.Module):
    """A layer that is run on the image and on its mirror image."""

    def __init__(self):
        super().__init__()
        self.first, self.rest = nn.Linear(192, 64), nn.Linear(64, 3)

    def forward(self, images):
        return self.rest(self.first(images.flatten(1)) + self.first(images.flip(3).flatten(1)))


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 3)), r"0 \(Conv2d\) comes"),
        (
            nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(48, 3)),
            r"2 \(Linear\) comes first",
        ),
        (nn.Sequential(Squashed(), nn.Linear(192, 3)), "takes the image as it is"),
        (nn.Sequential(Cropped(), nn.Linear(144, 3)), "takes 75% of its pixels"),
        (Twice(), r"first \(Linear\) comes first"),
    ],
    ids=["convolution", "pooling", "tanh", "crop", "shared"],
)
def test_no_layer_takes_the_image(network, sentence):
    _, exchange = seen(network)
    for attack in (Analytic(), CocktailParty()):
        with pytest.raises(NotApplicable, match=sentence) as error:
            run(attack, exchange)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("changing", [nn.BatchNorm1d(192), nn.Dropout(0.3)])
def test_what_changes_pixels_in_training_mode_only(changing):
    network = nn.Sequential(nn.Flatten(), changing, *linear(192))
    _, exchange = seen(network, training=True)
    with pytest.raises(NotApplicable, match="in training mode, dropout or batch normalisation"):
        find_image_layer(exchange)


def test_a_layer_that_clients_do_not_train():
    _, exchange = seen(nn.Sequential(nn.Flatten(), *linear(192)))
    change = {k: v for k, v in exchange.update.change.items() if not k.startswith("1.")}
    one = replace(exchange.rounds[0], update=replace(exchange.update, change=change))
    with pytest.raises(NotApplicable, match=r"no change of 1\.weight, the layer that takes"):
        run(Analytic(), replace(exchange, rounds=(one,)))


# Batches in rows.


@each_form
@pytest.mark.parametrize("labels", [True, False], ids=["labels given", "labels withheld"])
def test_every_record_of_a_batch_is_confirmed_with_its_label(space, channels, labels):
    network = WIDE(tiny_sample(space, channels).spec, 3, torch.Generator().manual_seed(0))
    told = {} if labels else {"labels": None}
    images, exchange = seen(network, 6, space, channels, **told)
    claims = run(Analytic(), exchange)
    assert len(claims.images) == 6
    assert errors(claims.images, images, exchange.spec).max() < 1e-3
    assert torch.equal(claims.confidence, torch.ones(6))
    apart = (claims.images[:, None] - images[None]).flatten(2).norm(dim=2)
    assert torch.equal(claims.labels, torch.arange(6)[apart.argmin(1)] % 3)


def test_a_record_that_shares_every_row_shows_once_the_others_are_taken_off():
    """Its rows are all another's as well, and that one has two rows of its own."""
    sample = tiny_sample((8, 8), 1)
    images = sample.spec.normalise(sample.decoys[:2]).flatten(1)
    layers = linear(64, width=32)
    first, middle = layers[0].weight.data, images.mean(0)
    apart = images[0] - images[1]
    with torch.no_grad():
        first[2:] = torch.rand(30, 64, generator=torch.Generator().manual_seed(0)) * apart.sign()
        first[2:] /= 8
        layers[0].bias[2:] = 5.0  # active for both
        first[:2] = apart / apart.norm() * torch.tensor([[1.0], [2.0]])
        layers[0].bias[:2] = -(first[:2] @ middle)  # active for the first only
    truth, exchange = seen(nn.Sequential(nn.Flatten(), *layers), 2, (8, 8), 1)
    claims = run(Analytic(), exchange)
    assert errors(claims.images, truth, exchange.spec).max() < 1e-3
    assert claims.confidence.tolist() == [1.0, 1.0]


def test_mixtures_are_claimed_with_little_confidence():
    """Every record goes through every row."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 256), nn.Sigmoid(), nn.Linear(256, 3))
    images, exchange = seen(network, 4)
    claims = run(Analytic(), exchange)
    assert 1 <= len(claims.images) <= 4
    assert errors(claims.images, images, exchange.spec).min() > 0.01
    assert claims.confidence.le(0.5).all()


@pytest.mark.parametrize("hidden", [1, 2])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("user", ["gradient", "clipped gradients", "one local step"])
def test_what_is_confirmed_is_a_record_however_narrow_the_network(hidden, classes, user):
    """Mixtures that go through the same rows as a record fit as well."""
    least, confirmed, unsure = math.inf, 0, 0
    for width, seed, records in itertools.product((16, 32, 64), range(4), (4, 8)):
        model = MLP(width=width, hidden=hidden)
        truth, exchange = withheld(model, classes, seed, user, records)
        claims = run(Analytic(), exchange)
        best = psnr_table(claims.images, truth.images, exchange.spec).max(1)
        sure = claims.confidence == 1
        least = min([least, *best.values[sure].tolist()])
        confirmed, unsure = confirmed + int(sure.sum()), unsure + int((~sure).sum())
        if claims.labels is not None:
            assert torch.equal(claims.labels[sure], truth.labels[best.indices[sure]])
            assert (claims.labels[~sure] == UNKNOWN).all()
    assert least >= 40
    assert confirmed >= 5
    assert unsure


def withheld(model, classes, seed, user, records):
    """Return the records and what the server sees of them; their labels are withheld."""
    how = {
        "gradient": {},
        "clipped gradients": {"local_diff_privacy": LocalNoise(per_example_clipping=0.01)},
        "one local step": {"user_type": "local_update", "local_learning_rate": 0.1},
    }
    user = User(num_data_points=records, provide_labels=False, **how[user])
    case = tiny_case((16, 16), 3, model=model, user=user)
    case = replace(case, federation=replace(case.federation, default_clients=1))
    sample = draw(case, tiny_collection((16, 16), 3), Seeds(seed), 2, 20)
    batches = tuple(replace(b, labels=b.labels % classes) for b in sample.batches)
    sample = replace(sample, classes=classes, batches=batches)
    return sample.truth, play(case, sample, (), Seeds(seed), CPU)[0]


def test_nothing_is_claimed_of_a_zero_gradient():
    network = nn.Sequential(nn.Flatten(), *linear(192))
    network[-1].weight.data.zero_()
    _, exchange = seen(network)
    assert len(run(Analytic(), exchange).images) == 0
    with pytest.raises(NotApplicable, match="is zero"):
        run(CocktailParty(), exchange)


def test_without_a_bias_there_is_no_quotient():
    _, exchange = seen(nn.Sequential(nn.Flatten(), *linear(192, bias=False)))
    with pytest.raises(NotApplicable, match=r"no bias that clients train.*attack=cpa"):
        run(Analytic(), exchange)


def test_the_number_of_records_is_the_gradients_rank():
    user = User(num_data_points=5, provide_num_data_points=False)
    exchange = tiny_exchange((16, 16), 3, model=WIDE, user=user)
    truth = tiny_sample((16, 16), 3, model=WIDE, user=user).truth.images
    assert exchange.update.count is None
    claims = run(Analytic(), exchange)
    assert len(claims.images) == 5
    assert errors(claims.images, truth, exchange.spec).max() < 1e-3
    assert len(run(CocktailParty(steps=2), exchange).images) == 5


@pytest.mark.parametrize("attack", [Analytic(), CocktailParty()], ids=["analytic", "cpa"])
def test_noise_hides_how_many_records_there_are(attack):
    noise = LocalNoise(gradient_noise=0.1)
    user = User(num_data_points=5, provide_num_data_points=False, local_diff_privacy=noise)
    exchange = tiny_exchange((16, 16), 3, model=WIDE, user=user)
    with pytest.raises(NotApplicable, match="which the client withholds"):
        run(attack, exchange)


AGGREGATES = {
    "secure aggregate": User("multiuser_aggregate", num_data_points=2),
    "one local step": User("local_update", num_data_points=4, local_learning_rate=0.1),
    "clipped gradients": User(
        num_data_points=4, local_diff_privacy=LocalNoise(per_example_clipping=0.01)
    ),
}


@each_form
@pytest.mark.parametrize("user", AGGREGATES)
def test_records_are_confirmed_whatever_scales_their_gradients(space, channels, user):
    changes = {"model": WIDE, "user": AGGREGATES[user]}
    exchange = tiny_exchange(space, channels, **changes)
    truth = tiny_sample(space, channels, **changes).truth.images
    claims = run(Analytic(), exchange)
    assert errors(claims.images, truth, exchange.spec).max() < 1e-3
    assert claims.confidence.eq(1).all()


def test_several_local_steps_leave_rows_of_single_records():
    user = User("local_update", num_data_points=4, num_local_updates=3, local_learning_rate=0.01)
    changes = {"model": WIDE, "user": user}
    claims = run(Analytic(), tiny_exchange((16, 16), 3, **changes))
    truth = tiny_sample((16, 16), 3, **changes).truth.images
    assert len(claims.images) == 4
    assert int((errors(claims.images, truth, tiny_sample().spec) < 1e-3).sum()) >= 3


# Patch embeddings.


class PositionsLikeAnImage(nn.Module):
    """A class token before patches whose positions have the shape of an image."""

    def __init__(self, dimensions, channels, space, patch=4, width=48):
        super().__init__()
        cells = [side // patch for side in space]
        self.embed = CONV[dimensions](channels, width, patch, stride=patch)
        self.positions = nn.Parameter(0.02 * torch.randn(1, width, *cells))
        self.mix = nn.TransformerEncoderLayer(width, 2, 32, 0.0, "gelu", batch_first=True)
        self.head = nn.Linear(width, 3)

    def forward(self, images):
        tokens = (self.embed(images) + self.positions).flatten(2).transpose(1, 2)
        return self.head(self.mix(tokens).mean(1))


PATCHES = {
    "MONAI": lambda channels, space: MonaiViT(patch=4, hidden_size=96, num_layers=1)(
        tiny_sample(space, channels).spec, 3, torch.Generator().manual_seed(0)
    ),
    "positions like an image": lambda channels, space: PositionsLikeAnImage(
        len(space), channels, space
    ),
}


@each_form
@pytest.mark.parametrize("kind", PATCHES)
def test_one_records_patches_are_solved_for(space, channels, kind):
    network = PATCHES[kind](channels, space)
    images, exchange = seen(network, 1, space, channels)
    claims = run(Analytic(), exchange)
    assert errors(claims.images, images, exchange.spec).item() < 1e-2
    assert claims.confidence.item() > 0.99


@pytest.mark.parametrize(
    ("records", "count", "width", "sentence"),
    [
        (2, 2, 48, "gives one record away, not 2"),
        (2, None, 48, "withheld and seems to be greater"),
        (1, 1, 8, "embeds 16 patches, and the positions' gradient gives 8 equations"),
    ],
)
def test_patches_that_are_not_solved_for(records, count, width, sentence):
    network = PositionsLikeAnImage(2, 3, (16, 16), width=width)
    _, exchange = seen(network, records, (16, 16), 3, count=count, labels=None)
    with pytest.raises(NotApplicable, match=sentence):
        run(Analytic(), exchange)


def test_patches_behind_which_the_network_is_zero():
    network = PositionsLikeAnImage(2, 3, (16, 16))
    network.head.weight.data.zero_()
    _, exchange = seen(network, 1, (16, 16), 3)
    with pytest.raises(NotApplicable, match="no gradient reaches embed"):
        run(Analytic(), exchange)


# Unmixing. How well it separates is in ``test_controls.py`` and ``tests/reference``.


def test_more_records_than_independent_rows():
    _, exchange = seen(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), 4)
    with pytest.raises(
        NotApplicable, match=r"of 3 rows of the gradient 2 are independent, and .* 4"
    ):
        run(CocktailParty(), exchange)


@each_form
@pytest.mark.parametrize("bias", [True, False])
def test_one_record_needs_no_unmixing(space, channels, bias):
    """Its scale is exact with a bias; without one it is that of public images."""
    network = nn.Sequential(nn.Flatten(), *linear(channels * math.prod(space), width=32, bias=bias))
    images, exchange = seen(network, 1, space, channels)
    claims = run(CocktailParty(), exchange)
    if bias:
        assert errors(claims.images, images, exchange.spec).item() < 1e-3
    pair = torch.stack([claims.images.flatten(), images.flatten()])
    assert torch.corrcoef(pair)[0, 1] > (0.999 if bias else 0.9)  # clipping bends the latter


def test_singular_values():
    rng = torch.Generator().manual_seed(0)
    matrix = torch.randn(20, 3, generator=rng) @ torch.randn(3, 50, generator=rng)
    for one in (matrix, matrix.T):
        found = span_of(one)
        assert found.clear_rank() == 3
        torch.testing.assert_close(found.left * found.values @ found.right, one)
        torch.testing.assert_close(found.values, torch.linalg.svdvals(matrix)[:3])
    assert span_of(torch.randn(5, 9, generator=rng)).clear_rank() is None
    assert span_of(torch.zeros(2, 2)).clear_rank() is None


@pytest.mark.parametrize(
    "settings", [{"steps": 0}, {"contrast": 0.0}, {"temperature": -1.0}, {"step_size": 0.0}]
)
def test_settings_of_the_unmixing(settings):
    with pytest.raises(ValueError, match="must be positive"):
        CocktailParty(**settings)


# Features.


@each_form
def test_the_features_of_one_record_are_exact(space, channels):
    network = SmallCNN(width=8)(tiny_sample(space, channels).spec, 3, torch.Generator())
    images, exchange = seen(network, 1, space, channels, labels=None)
    found = find_features(exchange)
    expected = Encoder(exchange, found.layer)(exchange.spec.normalise(images))
    torch.testing.assert_close(found.values, expected, rtol=1e-3, atol=1e-5)
    assert found.labels.tolist() == [0]


def test_features_of_a_batch_are_those_of_classes_that_others_are_not_taken_for():
    """A network that is torn between a record's class and a third leaves rows to their records."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 3))
    network[-1].weight.data.zero_()
    network[-1].bias.data = torch.tensor([-9.0, -9.0, 9.0])
    images, exchange = seen(network, 2, labels=None)
    found = find_features(exchange)
    assert found.labels.tolist() == [0, 1]
    expected = Encoder(exchange, "3")(exchange.spec.normalise(images))
    torch.testing.assert_close(found.values, expected, rtol=1e-3, atol=1e-5)
    assert found.purity.min() > 0.99


def test_features_that_leave_the_image_open_earn_little_confidence():
    """Eight numbers for a thousand pixels are matched, and show little."""
    network = SmallCNN(width=8, pool=1)(tiny_sample().spec, 3, torch.Generator())
    _, exchange = seen(network, 1, (16, 16), 3)
    assert run(FeatureRecovery(steps=100), exchange).confidence.item() < 0.02


def test_a_zero_gradient_has_no_features():
    network = SmallCNN(width=2)(tiny_sample().spec, 3, torch.Generator())
    _, exchange = seen(network, 1, (16, 16), 3)
    zero = {name: torch.zeros_like(g) for name, g in exchange.update.change.items()}
    one = replace(exchange.rounds[0], update=replace(exchange.update, change=zero))
    assert len(run(FeatureRecovery(), replace(exchange, rounds=(one,))).images) == 0


def test_features_need_a_last_bias():
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 3, bias=False))
    _, exchange = seen(network, 1)
    with pytest.raises(NotApplicable, match="a last linear layer with one output a class and a"):
        run(FeatureRecovery(), exchange)
