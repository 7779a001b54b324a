"""The user's own network, from ``file.py:function``."""

import sys
import textwrap

import pytest
import torch

from medbreach import config
from medbreach.assembly import assemble
from medbreach.audit import _run
from medbreach.errors import ModelError
from medbreach.models.user_network import UserNetwork
from medbreach.randomness import Seeds
from medbreach.round import play
from medbreach.testing.examples import tiny_case, tiny_exchange, tiny_sample
from medbreach.types import ImageSpec

FLAT = "nn.Sequential(nn.Flatten(), nn.Linear(channels * 64, classes))"
SPEC = ImageSpec(1, (8, 8))


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a user's file and names a function in it."""

    def write(code, function="build", name="net.py"):
        header = "import torch\nfrom torch import nn\n"
        (tmp_path / name).write_text(header + textwrap.dedent(code))
        return UserNetwork.parse(f"{tmp_path / name}:{function}")

    return write


def made(model, spec=SPEC, classes=3, seed=0):
    return model(spec, classes, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "signature",
    [
        "channels, classes",
        "spec, classes, channels=7",
        "classes, *, channels",
        "*others, channels, classes=9, **more",
        "space, width=5, channels=2, classes=2",
    ],
)
def test_a_function_gets_what_it_asks_for(write, signature):
    model = write(f"def build({signature}):\n    return {FLAT}\n")
    assert made(model)(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


def test_a_function_without_parameters(write):
    model = write("def build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))\n")
    assert made(model)(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


def test_a_class_of_networks(write):
    code = """
    class Net(nn.Module):
        def __init__(self, channels, classes):
            super().__init__()
            self.head = nn.Linear(channels * 64, classes)

        def forward(self, images):
            return self.head(images.flatten(1))
    """
    assert made(write(code, "Net"))(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


def test_volumes(write):
    code = """
    def build(spec, classes):
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[len(spec.space)]
        return nn.Sequential(
            conv(spec.channels, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(),
            nn.LazyLinear(classes),
        )
    """
    model = write(code)
    for space in ((8, 8), (4, 8, 8)):
        assert made(model, ImageSpec(1, space))(torch.zeros(2, 1, *space)).shape == (2, 3)


@pytest.mark.parametrize(
    "random",
    ["torch.rand(64, classes)", "torch.tensor(numpy.random.rand(64, classes)).float()",
     "torch.tensor([[random.random() for _ in range(classes)] for _ in range(64)])"],
    ids=["torch", "numpy", "python"],
)  # fmt: skip
@pytest.mark.parametrize("first", ["", "torch.manual_seed(0)"], ids=["", "file seeds"])
def test_weights_come_from_the_seed(write, random, first, untouched_randomness):
    code = f"""
    import random
    import numpy
    {first}

    class Net(nn.Module):
        def __init__(self, classes):
            super().__init__()
            self.weight = nn.Parameter({random})

        def forward(self, images):
            return images.flatten(1) @ self.weight
    """
    model = write(code, "Net")
    one, again, other = (made(model, seed=seed).weight for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_modules_beside_the_file_can_be_imported(write):
    write("WIDTH = 64\n", name="net_sizes.py")
    model = write(
        f"from net_sizes import WIDTH\ndef build(channels, classes):\n    return {FLAT}\n"
    )
    assert made(model)(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


def test_two_files_of_one_name_are_two_networks(write, tmp_path):
    (tmp_path / "other").mkdir()
    one = write("def build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))\n")
    two = write(
        "def build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))\n",
        name="other/net.py",
    )
    assert made(one)(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    assert made(two, classes=4)(torch.zeros(2, 1, 8, 8)).shape == (2, 4)
    assert one.digest != two.digest


BINARY = """
def build(channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * 64, 1))

def loss(outputs, labels):
    return nn.functional.binary_cross_entropy_with_logits(outputs[:, 0], (labels > 0).float())
"""


def test_a_loss_of_its_own_is_what_clients_minimise(write):
    """One output with logistic loss: the gradient of the bias is the mean of p - y."""
    model = write(BINARY)
    exchange = tiny_exchange((8, 8), 3, model=model)
    sample = tiny_sample((8, 8), 3, model=model)
    truth = sample.truth
    network = exchange.model
    outputs = network(exchange.spec.normalise(truth.images))[:, 0]
    expected = (outputs.sigmoid() - (truth.labels > 0).float()).mean()
    torch.testing.assert_close(exchange.update.change["1.bias"][0], expected.detach())


def test_attacks_match_a_loss_of_its_own(write):
    model = write(BINARY)
    plan = assemble(config.load(["attack=invertinggradients", "attack.optim.max_iterations=2"]))
    case = tiny_case((8, 8), 3, model=model)
    exchanges = play(case, tiny_sample((8, 8), 3, model=model), (), Seeds(0), torch.device("cpu"))
    assert len(_run(plan.attacks["invertinggradients"], exchanges, Seeds(0)).images) == 2


@pytest.mark.parametrize(("made_for", "wanted"), [("channels", 1), ("3", 3), ("1", 1)])
def test_the_channels_that_a_network_wants(write, made_for, wanted):
    model = write(f"def build(channels):\n    return nn.Conv2d({made_for}, 4, 3)\n")
    assert model.wanted_channels(SPEC, 2) == wanted


def test_a_network_without_convolutions_wants_no_channels(write):
    model = write("def build():\n    return nn.Flatten()\n")
    assert model.wanted_channels(SPEC, 2) is None


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("net.py", "takes path/to/file.py:function"),
        ("net.py:", "takes path/to/file.py:function"),
        ("net.py:a b", "takes path/to/file.py:function"),
        ("net.pt:build", "takes path/to/file.py:function"),
        ("nowhere/net.py:build", "there is no file nowhere/net.py"),
    ],
)
def test_a_reference_that_names_nothing(reference, message):
    with pytest.raises(ModelError, match=message):
        UserNetwork.parse(reference)


def test_a_file_that_is_gone(write, tmp_path):
    model = write(f"def build(channels, classes):\n    return {FLAT}\n")
    (tmp_path / "net.py").unlink()
    with pytest.raises(ModelError, match=r"net\.py cannot be read: No such file"):
        made(model)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def other(): ...", "net.py has no function build"),
        ("build = 3", "net.py has no function build"),
        ("build = nn.Linear(2, 2)", "net.py:build is a network: name a function that returns one"),
        ("def build(depth): ...", "net.py:build needs depth, but only spec, classes"),
        ("def build(classes, /): ...", "net.py:build needs classes, but only spec, classes"),
        ("build = max", "net.py:build does not tell its parameters"),
        ("def build(): return 'net'", "net.py:build must return a network, not str"),
        ("def build(): ...", "net.py:build must return a network, not NoneType"),
        ("def build(): raise KeyError('a\\nb')", "net.py:build failed: KeyError"),
        ("def build(): raise SystemExit(1)", "net.py:build failed: SystemExit: 1"),
        ("import nowhere", "net.py cannot be imported: ModuleNotFoundError: No module named 'now"),
        ("def build(:", "net.py cannot be imported: SyntaxError"),
        ("raise RuntimeError('two\\nlines')", "imported: RuntimeError: two lines"),
        ("exit(3)", "net.py cannot be imported: SystemExit: 3"),
        ("def build(): return nn.Conv2d(3, 3, 3)", "cannot take images of 1 x 8 x 8"),
        ("def build(): return nn.Flatten()", "shape (2, 64) for 2 images, not (2, 3)"),
        ("def build(): return nn.LSTM(8, 3)", "cannot take images of 1 x 8 x 8"),
        ("def build(): return nn.Identity()", "shape (2, 1, 8, 8) for 2 images, not (2, 3)"),
    ],
    ids=lambda value: value[:40] if value.startswith(("def", "build")) else "",
)
def test_a_file_that_gives_no_network(write, code, message):
    model = write(code + "\n")
    with pytest.raises(ModelError) as error:
        made(model)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_imported_leaves_nothing_behind(write):
    before, path = set(sys.modules), list(sys.path)
    with pytest.raises(ModelError):
        made(write("raise RuntimeError\n"))
    assert not [name for name in set(sys.modules) - before if "medbreach_user" in name]
    assert sys.path == path
