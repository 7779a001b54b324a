"""Every network builds for the images that it claims to take, from nothing but the seed."""

import pytest
import torch
import torchvision
from torch import nn

from medbreach import plugins
from medbreach.components import Model
from medbreach.errors import ConfigError, ModelError
from medbreach.models.mlp import MLP
from medbreach.models.monai_networks import MonaiResNet, MonaiViT
from medbreach.models.rgap_cnn import RGAPNetwork
from medbreach.models.small_cnn import SmallCNN
from medbreach.models.torchvision_networks import TorchvisionModel
from medbreach.models.vit_april import AprilTransformer
from medbreach.settings import build
from medbreach.types import ImageSpec

ALL = {name: kind for name, kind in plugins.models().items() if kind.__module__.startswith("medb")}
FLAT_ONLY = {"rgap_cnn", "vit_april"}
HEAVY = ("101", "152", "169", "201", "264", "161", "vit_b", "vit_l", "convnet_beyond", "34", "50",
         "32-10", "VGG", "monai_densenet", "torchvision_densenet", "DenseNet",
         "perturbation_convnet")  # fmt: skip


def spec(*shape):
    return ImageSpec(shape[0], shape[1:])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def same(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def is_flat(kind):
    return kind.__module__.endswith(("breaching_networks", "torchvision_networks"))


def some(names, *, heavy):
    chosen = [name for name in names if any(word in name for word in HEAVY) == heavy]
    return [pytest.param(name, marks=[pytest.mark.slow] if heavy else []) for name in chosen]


def check_builds(name, channels, space):
    network = ALL[name]()(spec(channels, *space), 5, seeded())
    images = torch.randn(2, channels, *space, generator=seeded())
    assert network(images).shape == (2, 5)
    assert same(network, ALL[name]()(spec(channels, *space), 5, seeded()))
    assert not same(network, ALL[name]()(spec(channels, *space), 5, seeded(1)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", [*some(ALL, heavy=False), *some(ALL, heavy=True)])
def test_every_network_builds_in_2d(name, channels, untouched_randomness):
    side = 28 if name == "convnet_beyond" else 32
    check_builds(name, channels, (side, side))


@pytest.mark.parametrize("name", [*some(ALL, heavy=False), *some(ALL, heavy=True)])
def test_every_network_builds_in_3d_or_says_that_it_does_not(name, untouched_randomness):
    if is_flat(ALL[name]) or name in FLAT_ONLY:
        with pytest.raises(ModelError, match="2D images"):
            ALL[name]()(spec(1, 32, 32, 32), 5, seeded())
    else:
        check_builds(name, 1, (32, 32, 32))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("ConvNet", (3, 64, 64), "ConvNet takes images of 32 x 32 pixels, not 64 x 64"),
        ("convnet_beyond", (1, 32, 32), "takes images of 28 x 28 pixels"),
        ("small_cnn", (1, 3, 16, 16), "at least 4 pixels along each axis"),
        ("torchvision_densenet121", (3, 16, 16), "cannot take images of 3 x 16 x 16"),
        ("torchvision_vit_b_16", (3, 32, 48), "square images whose side is a multiple of 16"),
        ("monai_densenet121", (1, 8, 16, 16), "cannot take images of 1 x 8 x 16 x 16"),
        ("monai_vit", (1, 12, 16), "multiples of 8"),
        ("vit_april", (3, 16, 24), "square 2D images whose side is a multiple of 8"),
    ],
)
def test_images_that_do_not_fit(name, shape, message):
    with pytest.raises(ModelError, match=message) as error:
        ALL[name]()(spec(*shape), 3, seeded())
    assert "\n" not in str(error.value)


def torchvisions(name, seed, **settings):
    """Build torchvision's own network from the same place in the same stream."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (1,), generator=seeded(seed))))
        return torchvision.models.get_model(name, weights=None, **settings)


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_three_channels_give_torchvisions_own_network(name):
    ours = ALL[f"torchvision_{name}"]()(spec(3, 32, 32), 5, seeded(7)).eval()
    theirs = torchvisions(name, 7, num_classes=5).eval()
    assert same(ours, theirs)
    images = torch.randn(2, 3, 32, 32, generator=seeded())
    assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize(
    ("name", "first"), [("resnet18", "conv1.weight"), ("densenet121", "features.conv0.weight")]
)
@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_change_the_first_convolution_only(name, first, channels):
    ours = ALL[f"torchvision_{name}"]()(spec(channels, 32, 32), 5, seeded(7)).state_dict()
    theirs = torchvisions(name, 7, num_classes=5).state_dict()
    changed = [key for key in theirs if not torch.equal(ours[key], theirs[key])]
    assert ours.keys() == theirs.keys()
    assert changed == [first]
    assert ours[first].shape[1] == channels
    assert float(ours[first].std()) == pytest.approx(float(theirs[first].std()), rel=0.1)


@pytest.mark.slow
def test_a_transformer_of_other_channels():
    ours = ALL["torchvision_vit_b_32"]()(spec(1, 32, 32), 5, seeded(7)).state_dict()
    theirs = torchvisions("vit_b_32", 7, num_classes=5, image_size=32).state_dict()
    changed = [key for key in theirs if not torch.equal(ours[key], theirs[key])]
    assert changed == ["conv_proj.weight"]


def test_published_weights_that_are_not_at_hand(monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", unreachable)
    model = ALL["torchvision_resnet18"]()
    network = model(spec(3, 32, 32), 5, seeded())
    with pytest.raises(ModelError, match=r"published weights of resnet18 .* no route to host"):
        model.load_pretrained(network)


def test_published_weights_go_wherever_shapes_agree(monkeypatch):
    published = torchvisions("resnet18", 3).state_dict()
    monkeypatch.setattr(
        torchvision.models.WeightsEnum, "get_state_dict", lambda *args, **kwargs: published
    )
    model = ALL["torchvision_resnet18"]()
    network = model(spec(1, 32, 32), 5, seeded())
    fresh = {key: value.clone() for key, value in network.state_dict().items()}
    model.load_pretrained(network)
    kept = [k for k, v in network.state_dict().items() if not torch.equal(v, published[k])]
    assert kept == ["conv1.weight", "fc.weight", "fc.bias"]
    assert all(torch.equal(network.state_dict()[key], fresh[key]) for key in kept)


def test_a_network_without_published_weights():
    model = SmallCNN()
    with pytest.raises(ModelError, match=r"set case\.server\.pretrained=false"):
        model.load_pretrained(model(spec(1, 8, 8), 2, seeded()))


def test_cnn6_of_breachings_is_the_network_of_rgap():
    ours = RGAPNetwork()(spec(3, 32, 32), 4, seeded(2)).state_dict()
    theirs = ALL["cnn6"]()(spec(3, 32, 32), 4, seeded(2)).state_dict()
    assert [v.shape for v in ours.values()] == [v.shape for v in theirs.values()]
    assert all(torch.equal(a, b) for a, b in zip(ours.values(), theirs.values(), strict=True))


def test_the_open_block_is_attention_and_then_a_normalised_mlp():
    network = AprilTransformer(width=16, heads=2)(spec(1, 16, 16), 3, seeded()).eval()
    block = network.blocks[0]
    tokens = torch.randn(2, 5, 16, generator=seeded())
    q, k, v = (tokens @ w.T for w in block.attn.qkv.weight.chunk(3))
    mixed = torch.cat(
        [
            nn.functional.scaled_dot_product_attention(*(p[..., part] for p in (q, k, v)))
            for part in (slice(0, 8), slice(8, 16))
        ],
        dim=-1,
    )
    expected = block.mlp(block.norm2(block.attn.proj(mixed)))
    torch.testing.assert_close(block(tokens), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (SmallCNN, {"width": 0}, "width must be at least 1"),
        (SmallCNN, {"pool": 0}, "pool must be at least 1"),
        (MLP, {"hidden": 0}, "width and hidden must be at least 1"),
        (RGAPNetwork, {"depth": 7}, "depth must lie between 1 and 6"),
        (AprilTransformer, {"depth": 1}, "depth must be at least 2"),
        (AprilTransformer, {"heads": 3}, "no multiple of 3 heads"),
        (MonaiViT, {"heads": 3}, "has no key 'heads'; did you mean num_heads"),
    ],
)
def test_a_wrong_setting(kind, settings, message):
    with pytest.raises(ConfigError, match=message):
        build(kind, settings, "case.model")


def test_settings_reach_the_network():
    chosen = ALL["monai_resnet10"]
    assert issubclass(chosen, MonaiResNet)
    network = chosen(conv1_t_stride=1, no_max_pool=True)(spec(1, 16, 16), 2, seeded())
    assert network.conv1.stride == (1, 1)
    assert issubclass(ALL["torchvision_resnet18"], TorchvisionModel)


class Made(Model):
    """A model that returns what a test says."""

    name, source = "made", "a test"

    def __init__(self, network):
        self.network = network

    def build(self, spec, classes):
        return self.network


class Constant(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.outputs = outputs

    def forward(self, images):
        return self.outputs


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("a network", "made built a str, no torch network"),
        (Constant((torch.zeros(2, 3),)), "made returns a tuple, not one tensor"),
        (Constant(torch.zeros(2, 4)), r"outputs of shape \(2, 4\) for 2 images, not \(2, 3\)"),
        (Constant(torch.zeros(2, 3, 1, 1)), r"outputs of shape \(2, 3, 1, 1\)"),
        (Constant(torch.zeros(())), r"outputs of shape \(\)"),
        (nn.Module(), r"made cannot take images of 1 x 8 x 8 .*forward"),
        (nn.Conv2d(3, 3, 3), "made cannot take images of 1 x 8 x 8"),
    ],
)
def test_networks_that_are_not_classifiers_of_these_images(network, message):
    with pytest.raises(ModelError, match=message) as error:
        Made(network)(spec(1, 8, 8), 3, seeded())
    assert "\n" not in str(error.value)
