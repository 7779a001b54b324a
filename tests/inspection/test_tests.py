"""What single tests measure, where it is known in closed form."""

import copy
import math

import pytest
import torch
from torch import nn

from medbreach.inspection import inspect_model
from medbreach.inspection.disaggregation import OTHERS, disaggregation_ratio
from medbreach.inspection.front import MOST_ROWS, NEARLY
from medbreach.inspection.history import replaced_layers
from medbreach.inspection.rows import cosines, groups, levels, likeness, sum_up
from medbreach.inspection.trace import calls
from medbreach.inspection.view import look_at
from medbreach.servers.honest_but_curious import set_state
from medbreach.types import ImageSpec

SPEC = ImageSpec(1, (12, 12))


def rng():
    return torch.Generator().manual_seed(0)


def kinds(model, spec=SPEC):
    return {sign.kind for sign in inspect_model(model, spec).signs}


def convolutional(spec=SPEC, width=8):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(spec.channels, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, 3),
        )


def test_an_inspection_leaves_model_and_randomness_alone(untouched_randomness):
    model = convolutional().train()
    model[0].requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    inspect_model(model, SPEC)
    assert model.training
    assert not model[0].weight.requires_grad
    assert model[2].weight.grad is None
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_which_calls_see_affine_functions_of_the_image():
    found = calls(convolutional(), SPEC, rng())
    assert [call.name for call in found] == ["conv2d", "relu", "conv2d", "relu", "linear"]
    assert [call.bent < 1e-4 for call in found] == [True, True, False, False, False]
    assert min(call.bent for call in found[2:]) > NEARLY
    assert [call.weight for call in found] == ["0.weight", "", "2.weight", "", "6.weight"]


def test_rows_are_what_all_layers_before_the_gate_make_together():
    """A normalisation, a copying convolution and two dense layers, multiplied out."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        norm, copies = nn.BatchNorm2d(1), nn.Conv2d(1, 2, 1)
        first, second = nn.Linear(288, 40), nn.Linear(40, 30)
        norm.running_mean.fill_(0.5)
    model = nn.Sequential(norm, copies, nn.Flatten(), first, second, nn.ReLU(), nn.Linear(30, 3))
    view = look_at(model, SPEC)
    (gate,) = view.gates
    linear = copy.deepcopy(model[:5]).double().eval()  # single precision loses digits to the sum
    black = linear(torch.zeros(1, 1, 12, 12, dtype=torch.float64))[0].detach()
    unit = torch.eye(144, dtype=torch.float64).reshape(144, 1, 12, 12)
    exact = (linear(unit) - black).T.detach()
    assert gate.weights == ("3.weight", "4.weight")
    norms = exact.norm(dim=1)
    torch.testing.assert_close(gate.rows.norm, norms.float(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gate.seen[0], model[:5].eval()(view.images).detach())
    balance = (exact.sum(1) / norms).float()
    torch.testing.assert_close(gate.rows.balance, balance, rtol=1e-4, atol=1e-5)


class Shut(nn.Module):
    """A ladder that is closed to every second image, in one of the ways to write that."""

    def __init__(self, way):
        super().__init__()
        self.way, self.rows, self.after = way, nn.Linear(144, 24), convolutional()
        direction, gate = torch.randn(2, 144, generator=rng()) / 12
        self.register_buffer("gate", gate)
        self.rows.weight.data = direction.repeat(24, 1)
        self.rows.bias.data = torch.linspace(-2, 2, 24)

    def forward(self, images):
        flat = images.flatten(1)
        rows, shut = self.rows(flat), (flat @ self.gate > 0)[:, None]
        if self.way == "filled":
            rows = rows.masked_fill(shut, -1e6)
        elif self.way == "chosen":
            rows = torch.where(shut, -torch.ones_like(rows), rows)
        elif self.way == "multiplied":
            rows = rows * (~shut).float()
        else:
            rows = rows - 1e6 * shut.float()
        return self.after(images + rows.relu().mean(1)[:, None, None, None])


@pytest.mark.parametrize("way", ["filled", "chosen", "multiplied", "shifted"])
def test_rows_that_are_closed_to_many_images(way):
    with torch.random.fork_rng(devices=[]):
        model = Shut(way)
    assert {"dense layer before convolutions", "ladder"} <= kinds(model)
    gate = look_at(model, SPEC).gates[0]
    assert 4 <= len(gate.seen[0]) < 64
    assert float(gate.seen[0].std(0).max()) < 10  # of images that pass, or of those that do not


@pytest.mark.parametrize("width", [3, 24])
def test_deeper_layers_of_an_honest_network_have_no_affine_function_of_the_image(width):
    """Also where few units make few patterns."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Linear(144, width), nn.ReLU(), nn.Linear(width, 24), nn.ReLU()]
        model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(144), *layers, nn.Linear(24, 3))
    assert not kinds(model)


@pytest.mark.parametrize("way", ["filled", "multiplied"])
@pytest.mark.parametrize("share", [0, 1])
def test_rows_that_are_closed_to_all_public_images_or_to_none(way, share):
    with torch.random.fork_rng(devices=[]):
        model = Shut(way)
    public = torch.randn(80, 1, 12, 12, generator=rng())
    public = public[(public.flatten(1) @ model.gate <= 0) == bool(share)]
    signs = {sign.kind for sign in inspect_model(model, SPEC, public).signs}
    assert {"dense layer before convolutions", "ladder"} <= signs


class Standardising(nn.Module):
    """Divides by a clamped deviation of each image, or of all."""

    def __init__(self, axes):
        super().__init__()
        self.axes, self.after = axes, convolutional()

    def forward(self, images):
        deviation = images.flatten(1).std(self.axes).clamp_min(1e-6)
        return self.after(images / deviation.reshape(-1, 1, 1, 1))


class Patches(nn.Module):
    """Folds patches into the batch."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(16, 16), nn.Linear(16, 8), nn.Linear(72, 3)

    def forward(self, images):
        patches = images.unfold(2, 4, 4).unfold(3, 4, 4).reshape(-1, 16)
        features = self.second(self.first(patches).relu()).relu()
        return self.last(features.reshape(len(images), 72))


class OneOutput(nn.Module):
    """Squeezes what it returns, as classifiers of two classes do."""

    def __init__(self):
        super().__init__()
        self.before, self.last = convolutional(), nn.Linear(3, 1)

    def forward(self, images):
        return torch.sigmoid(self.last(self.before(images)).squeeze(1))


HONEST = {
    "each image standardised": lambda: Standardising(1),
    "all standardised": lambda: Standardising((0, 1)),
    "patches in the batch": Patches,
    "one output": OneOutput,
}


@pytest.mark.parametrize("network", HONEST.values(), ids=HONEST)
def test_gates_of_any_shape(network):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = network()
    assert not kinds(model)


@pytest.mark.parametrize("seed", range(6))
def test_features_that_hardly_vary_are_no_closed_rows(seed):
    """Of convolutions whose biases decide, averaged over images with a black frame."""
    spec, generator = ImageSpec(1, (28, 28)), torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first, pool = nn.Conv2d(1, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1)
        dense = [nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 3)]
        model = nn.Sequential(first, nn.ReLU(), pool, nn.Flatten(), *dense)
    first.bias.data += 2 * torch.randn(8, generator=generator)
    public = torch.zeros(40, 1, 28, 28)
    public[:, :, 8:20, 8:20] = torch.rand(40, 1, 12, 12, generator=generator)
    assert not inspect_model(model, spec).signs
    assert not inspect_model(model, spec, public).signs


def test_large_layers_are_sampled():
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 2 * MOST_ROWS), nn.ReLU(), nn.LazyLinear(3))
    model(torch.zeros(1, 1, 12, 12))
    (gate,) = look_at(model, SPEC).gates
    assert len(gate.rows.norm) == MOST_ROWS
    assert gate.rows.total == 2 * MOST_ROWS


def test_balance_of_independent_numbers_has_deviation_1():
    rows = torch.randn(400, 3000, generator=rng())
    table = sum_up(torch.split(rows, 64), 400, rng())
    assert float(table.balance.std()) == pytest.approx(1, abs=0.1)
    assert float(table.small.mean()) == pytest.approx(math.erf(0.1 / 2**0.5), abs=0.005)


def test_likeness_is_that_of_random_rows_whatever_they_share():
    """The median cosine of random directions is 0.674 over the root of their length."""
    rows, shared = torch.randn(200, 400, generator=rng()), torch.randn(400, generator=rng())
    for strength in (0, 1, 10):
        alike = likeness(rows + strength * shared)
        assert alike == pytest.approx(0.674 / 400**0.5, rel=0.05)
    assert likeness(torch.randn(200, 5, generator=rng()) @ rows[:5]) > 0.2


def test_levels_are_thresholds_in_deviations_whatever_the_factors():
    direction = torch.randn(50, generator=rng())
    factors = torch.tensor([1.0, -2.0, 0.1, 30.0])
    images = torch.randn(5000, 50, generator=rng())
    thresholds = torch.tensor([-1.0, 0.0, 0.5, 2.0])
    measured = images @ direction
    seen = factors * (measured[:, None] - thresholds * measured.std() - measured.mean())
    cosine = cosines(factors[:, None] * direction)
    (group,) = groups(cosine)
    torch.testing.assert_close(levels(seen, cosine, group), thresholds, atol=1e-4, rtol=0)


def test_the_ratio_of_class_fishing_is_that_of_its_gradients():
    """Only one class has a gradient, and then it is e^-9 for records of other classes."""
    model = convolutional()
    with torch.no_grad():
        model[-1].weight[1:] = 0
        model[-1].bias.copy_(torch.tensor([0.0, 9.0, 9.0]))
    view = look_at(model, SPEC)
    share = view.outputs.softmax(1)[:4, 0]
    expected = ((1 - share) / share / OTHERS).median()
    found = disaggregation_ratio(view)
    assert found.label == 0
    assert found.ratio == pytest.approx(float(expected), rel=0.02)
    assert "dominant class" in kinds(model)


def test_the_ratio_is_one_in_seven_where_classes_are_alike():
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 8), nn.Linear(8, 3))
    with torch.no_grad():
        model[2].weight.copy_(1e-3 * torch.eye(3, 8))
        model[2].bias.zero_()
    found = disaggregation_ratio(look_at(model, SPEC))
    assert found.ratio == pytest.approx(1 / OTHERS, rel=0.01)


def test_classes_that_differ_from_one_another_by_nothing():
    """The others need not be zero: what all classes share makes no difference."""
    model = convolutional()
    with torch.no_grad():
        model[-1].weight[1:] = model[-1].weight[1]
    assert "one class left" in kinds(model)


def test_a_network_whose_gates_pass_everything():
    model = convolutional()
    assert kinds(model) == set()
    set_state(model, "linearized")
    assert "open gates" in kinds(model)


def test_copying_convolutions_and_empty_kernels():
    model = convolutional()
    with torch.no_grad():
        nn.init.dirac_(model[0].weight[:1])
    assert kinds(model) == {"copying convolution"}
    with torch.no_grad():
        model[0].weight[1:] = 0
    assert kinds(model) == {"copying convolution", "empty kernels"}


def test_empty_layers():
    model = convolutional()
    nn.init.zeros_(model[0].weight)
    nn.init.zeros_(model[2].weight)
    assert "empty layers" in kinds(model)


def test_a_dense_layer_that_was_replaced_since_the_last_round():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        before = nn.Sequential(nn.Flatten(), nn.Linear(144, 16), nn.ReLU(), nn.Linear(16, 32))
    now = copy.deepcopy(before)
    assert not list(replaced_layers(before.state_dict(), now.state_dict(), ["1.weight"]))
    now[1].weight.data = torch.randn(16, 144, generator=rng())
    (sign,) = replaced_layers(before.state_dict(), now.state_dict(), ["1.weight"])
    assert sign.where == ("1.weight",)
    now[3].weight.data = torch.randn(32, 16, generator=rng())  # then it is another model
    assert not list(replaced_layers(before.state_dict(), now.state_dict(), ["1.weight"]))


@pytest.mark.parametrize("outputs", [1, 2])
def test_networks_of_few_outputs(outputs):
    model = nn.Sequential(*convolutional()[:-1], nn.Linear(8, outputs))
    assert kinds(model) == set()
