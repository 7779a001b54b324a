"""Where networks are cut, and what noise on the latent is like."""

import copy

import pytest
import torch
from torch import nn

from medbreach import ImageSpec, ModelError, Seeds, plugins
from medbreach_learnable_perturbation.latent import find_latent, perturbed
from medbreach_learnable_perturbation.noise import LearnedNoise, Noise

RGB, GREY = ImageSpec(3, (32, 32)), ImageSpec(1, (16, 32, 32))


@pytest.mark.parametrize(
    ("model", "spec", "layer", "shape"),
    [
        ("small_cnn", RGB, "5", (32, 8, 8)),
        ("small_cnn", GREY, "5", (32, 4, 8, 8)),
        ("ConvNet", RGB, "model.relu7", (256, 10, 10)),
        ("ResNet20", RGB, "layers", (64, 8, 8)),
        ("VGG11", RGB, "features.27", (512, 2, 2)),
        ("torchvision_resnet18", RGB, "layer4", (512, 1, 1)),
        ("torchvision_densenet121", RGB, "features", (1024, 1, 1)),
        ("monai_resnet18", GREY, "layer4", (512, 1, 1, 1)),
        ("monai_vit", RGB, "network.patch_embedding.patch_embeddings", (192, 4, 4)),
    ],
)
def test_where_networks_are_cut(model, spec, layer, shape):
    network = plugins.models()[model]()(spec, 3, Seeds(0).stream("model"))
    assert find_latent(network, spec) == (layer, shape)


class Twice(nn.Module):
    """A network that uses one ReLU twice."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.drop, self.relu, self.head = nn.Dropout(), nn.ReLU(inplace=True), nn.LazyLinear(2)

    def forward(self, images):
        return self.head(
            self.drop(self.relu(self.second(self.relu(self.first(images))))).flatten(1)
        )


def test_a_module_that_runs_twice_is_no_place_for_noise():
    network = Twice()
    assert find_latent(network, RGB).layer == "second"
    with pytest.raises(ModelError, match="'relu' runs 2 times"):
        find_latent(network, RGB, "relu")


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [("sekond", "did you mean 'second'"), ("head", "'head' returns something else")],
)
def test_a_layer_that_does_not_do(layer, sentence):
    with pytest.raises(ModelError, match=sentence):
        find_latent(Twice(), RGB, layer)


def test_a_network_without_spatial_axes_cannot_be_cut():
    with pytest.raises(ModelError, match="take a convolutional network"):
        find_latent(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2)), RGB)


def test_looking_leaves_the_network_as_it_was():
    network = plugins.models()["ResNet20"]()(RGB, 3, Seeds(0).stream("model")).train()
    next(network.modules()).eval()  # the outermost alone
    before = copy.deepcopy(network.state_dict()), [m.training for m in network.modules()]
    find_latent(network, RGB)
    assert all(
        torch.equal(a, b)
        for a, b in zip(before[0].values(), network.state_dict().values(), strict=True)
    )
    assert before[1] == [m.training for m in network.modules()]
    assert not any(m._forward_hooks for m in network.modules())


def test_noise_is_put_on_for_a_while():
    network = Twice()
    images = torch.rand(2, 3, 32, 32)
    clean = network.eval()(images)
    with perturbed(network, "second", lambda z: z + 1) as seen:
        noisy = network(images)
    assert seen.inputs is images
    expected = network.second(network.relu(network.first(images))) + 1
    assert torch.equal(seen.latents, expected), "the in-place ReLU behind it must not reach them"
    assert torch.equal(noisy, network.head(expected.relu().flatten(1)))
    assert torch.equal(network(images), clean)


def test_the_noise_has_its_mean_and_deviation_everywhere():
    noise = Noise(
        torch.tensor([[[-2.0, 0.0], [0.5, 3.0]]]), torch.tensor([[[0.0, 1.0], [2.0, 4.0]]])
    )
    drawn = noise.on(torch.full((20_000, 1, 2, 2), 7.0), torch.Generator().manual_seed(0)) - 7
    assert torch.allclose(drawn.mean(0), noise.mean, atol=0.1)
    assert torch.allclose(drawn.std(0), noise.std, rtol=0.03)
    assert not torch.equal(drawn[0], drawn[1])


def test_its_gradient_is_that_of_the_reparametrisation():
    learned = LearnedNoise((2, 3), mean=1.0, std=0.1)
    mean, std = learned.now()
    assert torch.allclose(mean, torch.tensor(1.0))
    assert torch.allclose(std, torch.tensor(0.1))
    latents = torch.zeros(5, 2, 3)
    drawn = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    weights = torch.arange(30.0).reshape(5, 2, 3)
    total = (weights * Noise(mean, std).on(latents, torch.Generator().manual_seed(0))).sum()
    by_mean, by_std = torch.autograd.grad(total, (mean, std))
    assert torch.allclose(by_mean, weights.sum(0))
    assert torch.allclose(by_std, (weights * drawn).sum(0), atol=1e-4)


def test_a_learned_deviation_stays_positive():
    learned = LearnedNoise((4,), mean=0.0, std=0.1)
    with torch.no_grad():
        learned.raw_std.sub_(20)
    assert (learned.now().std > 0).all()
    assert not any(tensor.requires_grad for tensor in learned.frozen())
