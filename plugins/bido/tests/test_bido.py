"""BiDO: its loss against one written out, its choice of layers, and who knows it."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from medbreach import Batch, ModelError, Seeds, choices, config, mean_gradient, plugins
from medbreach.attacks.known_defenses import KnownDefenses
from medbreach.errors import ConfigError
from medbreach.protocol import User
from medbreach.settings import build
from medbreach.testing import check, tiny_exchange, tiny_sample, tiny_task
from medbreach_bido import BiDO
from medbreach_bido.representations import representations, watched

FOUR = User(num_data_points=4, provide_labels=True)
VOLUMES = ((8, 16, 16), 1)


def flat(change):
    return torch.cat([g.flatten() for g in change.values()])


@pytest.mark.parametrize(
    "settings",
    [None, {"measure": "coco", "lambda_x": 1, "lambda_y": 50}, {"label_kernel": "gaussian"}],
    ids=str,
)
def test_it_keeps_the_contract(settings):
    check(BiDO, settings)


@pytest.mark.parametrize(
    ("name", "made"),
    [("bido", BiDO()), ("bido_coco", BiDO(lambda_x=1.0, lambda_y=50.0, measure="coco"))],
)
def test_medbreach_finds_it_by_name(name, made):
    assert plugins.defenses()["bido"] is BiDO
    assert name in choices.names("defense")
    chosen = config.read_choice("defense", name)
    settings = {key: value for key, value in chosen.items() if key != "name"}
    assert build(BiDO, settings, "defense") == made


def gaussian(rows):
    rows = rows.flatten(1).double()
    return torch.exp(-torch.cdist(rows, rows).square() / (2 * 5**2 * rows.shape[1]))


def written_out(task):
    """The loss of small_cnn with HSIC at its ReLUs, as the released code computes it."""
    labels = nn.functional.one_hot(task.batch.labels, task.classes).double()
    images = task.spec.normalise(task.batch.images)
    hidden, loss = [], 0
    outputs = images
    for layer in task.model:
        outputs = layer(outputs)
        if isinstance(layer, nn.ReLU):
            hidden.append(outputs)
    m = len(labels)
    centring = torch.eye(m).double() - 1 / m

    def prepared(kernel):
        kernel = kernel @ centring
        return kernel @ torch.inverse(kernel + 1e-5 * m * torch.eye(m))

    x, y = prepared(gaussian(images)), prepared(labels @ labels.T)
    for z in map(prepared, map(gaussian, hidden)):
        loss = loss + 0.05 * torch.trace(z @ x) - 0.5 * torch.trace(z @ y)
    return task.loss(outputs, task.batch.labels) + loss


@pytest.mark.parametrize("form", [((16, 16), 3), VOLUMES], ids=str)
def test_the_update_is_the_gradient_of_the_whole_loss(form):
    task = tiny_task(*form, user=FOUR)
    found = flat(BiDO().step(mean_gradient)(task, task.batch))
    loss = written_out(task)
    wanted = torch.cat([g.flatten() for g in torch.autograd.grad(loss, task.model.parameters())])
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-3 * wanted.abs().max())
    plain = flat(mean_gradient(task, task.batch))
    assert (found - plain).norm() > 0.5 * plain.norm(), "the dependences change the update"


def test_zero_weights_are_no_defense():
    task = tiny_task(user=FOUR)
    found = BiDO(lambda_x=0, lambda_y=0).step(mean_gradient)(task, task.batch)
    assert torch.equal(flat(found), flat(mean_gradient(task, task.batch)))


@pytest.mark.parametrize("measure", ["hsic", "coco"])
def test_one_record_is_undefended(measure):
    task = tiny_task()
    one = Batch(task.batch.images[:1], task.batch.labels[:1])
    found = flat(BiDO(measure=measure).step(mean_gradient)(task, one))
    assert torch.allclose(found, flat(mean_gradient(task, one)), atol=1e-9)


def test_training_lowers_the_dependence_on_images_and_raises_that_on_labels():
    def dependences(lambda_x, lambda_y):
        task = tiny_task(user=User(num_data_points=8, provide_labels=True))
        gradient = BiDO(lambda_x, lambda_y).step(mean_gradient)
        for _ in range(30):
            found = gradient(task, task.batch)
            with torch.no_grad():
                for name, p in task.model.named_parameters():
                    p.sub_(0.02 * found[name] / flat(found).norm())
        with watched(task.model) as passed:
            task.model(task.spec.normalise(task.batch.images))
            parts = [
                BiDO(*weights)._penalty(passed, task.batch.labels, task.classes).item()
                for weights in ((1.0, 0.0), (0.0, 1.0))
            ]
        return parts[0], -parts[1]

    plain, towards_labels, off_images = (
        dependences(*weights) for weights in ((0.0, 0.0), (0.0, 5.0), (5.0, 0.0))
    )
    assert towards_labels[1] > 1.01 * plain[1]
    assert off_images[0] < 0.99 * plain[0]


@pytest.mark.parametrize("measure", ["hsic", "coco"])
@pytest.mark.parametrize("form", [((16, 16), 3), VOLUMES], ids=str)
def test_who_knows_it_simulates_the_update_that_was_sent(form, measure):
    exchange = tiny_exchange(*form, defenses=[BiDO(1.0, 50.0, measure)], user=FOUR)
    truth = tiny_sample(*form, user=FOUR).batches[0]
    rng = Seeds(0).stream("attack")
    sent = flat(exchange.update.change)
    for known, most in ((exchange, 1e-4), (replace(exchange, defenses=()), None)):
        images = truth.images.clone().requires_grad_()
        found = KnownDefenses(known).change(exchange.model, images, truth.labels, rng)
        off = (flat(found) - sent).norm() / sent.norm()
        if most is None:
            assert off > 0.1, "who does not know it misses the update, with the true images too"
        else:
            assert off < most
            assert torch.autograd.grad(off, images)[0].isfinite().all()


@pytest.mark.parametrize("measure", ["hsic", "coco"])
def test_an_attacker_has_the_slope_of_the_distance(measure):
    """Through the kernels, the solves and the network's gradient, against a difference."""
    exchange = tiny_exchange(defenses=[BiDO(1.0, 50.0, measure)], user=FOUR)
    truth = tiny_sample(user=FOUR).batches[0]
    known, sent = KnownDefenses(exchange), flat(exchange.update.change).double()
    model = exchange.model.double()
    rng = torch.Generator().manual_seed(1)
    noise = torch.randn(truth.images.shape, generator=rng, dtype=torch.double)
    images = truth.images + 0.1 * noise
    way = torch.randn(truth.images.shape, generator=rng, dtype=torch.double)

    def distance(images):
        found = known.change(model, images, truth.labels, Seeds(0).stream("attack"))
        return 1 - torch.cosine_similarity(flat(found), sent, dim=0)

    images.requires_grad_()
    slope = (torch.autograd.grad(distance(images), images)[0] * way).sum().item()
    step = 1e-5
    ends = [
        distance((images.detach() + sign * step * way).requires_grad_()).item() for sign in (1, -1)
    ]
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-3)


def test_named_layers():
    task = tiny_task(user=FOUR)
    with watched(task.model) as passed:
        task.model(task.spec.normalise(task.batch.images))
    assert representations(passed, ["3"])[0] is dict(passed.outputs)["3"]
    last = BiDO(layers=("5",)).step(mean_gradient)(task, task.batch)
    every = BiDO(layers=("1", "3", "5")).step(mean_gradient)(task, task.batch)
    chosen = BiDO().step(mean_gradient)(task, task.batch)
    assert torch.equal(flat(every), flat(chosen))
    assert not torch.allclose(flat(last), flat(chosen), rtol=1e-3)


def shapes(network, spec):
    with torch.no_grad(), watched(network.eval()) as passed:
        network(torch.zeros(2, *spec))
    return [tuple(found.shape[1:]) for found in representations(passed, ())]


def test_it_chooses_a_representation_of_each_stage():
    models = plugins.models()
    picture, volume = (tiny_task(*form).spec for form in (((32, 32), 3), VOLUMES))
    convnet = models["ConvNet"]().build(picture, 2)
    assert shapes(convnet, picture.shape) == [(256, 32, 32), (256, 10, 10), (2304,)]
    resnet = models["torchvision_resnet18"]().build(replace(picture, space=(64, 64)), 2)
    assert shapes(resnet, (3, 64, 64)) == [
        (64, 32, 32), (64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2), (512, 1, 1)
    ]  # fmt: skip
    resnet = models["monai_resnet18"](conv1_t_stride=1, no_max_pool=True).build(volume, 2)
    assert shapes(resnet, volume.shape) == [
        (64, 8, 16, 16), (128, 4, 8, 8), (256, 2, 4, 4), (512, 1, 2, 2), (512, 1, 1, 1)
    ]  # fmt: skip


@pytest.mark.parametrize("layers", [("block9",), ("1", "8.attention")], ids=str)
def test_layers_that_are_not_there(layers):
    task = tiny_task()
    with pytest.raises(ModelError, match=f"layers names '{layers[-1]}', which the network does"):
        BiDO(layers=layers).remodel(task.model, task.spec, task.classes)


def test_a_transformer_has_to_be_told():
    spec = tiny_task(*VOLUMES).spec
    network = plugins.models()["monai_vit"](hidden_size=24, mlp_dim=24).build(spec, 2)
    with pytest.raises(ModelError, match="say in layers which modules' outputs"):
        BiDO().remodel(network, spec, 2)
    named = BiDO(layers=("network.blocks.1", "network.norm"))
    assert named.remodel(network, spec, 2) is network


def test_a_linear_model_has_nothing_to_protect():
    task = tiny_task()
    with pytest.raises(ModelError, match="nothing between images and outputs"):
        BiDO().remodel(nn.Sequential(nn.Linear(16, 2)), replace(task.spec, space=(16, 16)), 2)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"lambda_x": -1}, "lambda_x and lambda_y must not be negative, got -1.0 and 0.5"),
        ({"sigma": 0}, "sigma must be positive, got 0"),
        ({"layers": ["1", "1"]}, "layers names a module twice: 1, 1"),
        ({"measure": "mmd"}, "defense.measure must be"),
    ],
)
def test_settings_that_make_no_sense(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build(BiDO, settings, "defense")
