"""How often `medbreach check-model` finds planted models, and how often it blames honest ones.

Honest are networks of torchvision's, MONAI's and medbreach's, fresh and after some steps on real
images, in 2D and 3D, among them some whose first layer is dense. Planted are medbreach's own
malicious servers and those that `tests/inspection/planted.py` builds from their publications, plain
and disguised. A planted model counts as found *by itself* if the weights and what they do give it
away, where the architecture was not agreed on or was agreed on with a dense layer; with an agreed
architecture, whatever is added to it is found besides.
"""

import argparse
import copy
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from monai.networks import nets
from torch import Tensor, nn
from torchvision.models import get_model

from medbreach import plugins
from medbreach.datasets.brain_mr import BrainMR
from medbreach.datasets.dermoscopy import Dermoscopy
from medbreach.errors import MedbreachError
from medbreach.inspection import Agreed, inspect_model, inspect_sent
from medbreach.inspection.disaggregation import disaggregation_ratio
from medbreach.inspection.history import replaced_layers
from medbreach.inspection.view import look_at
from medbreach.types import ImageSpec

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "inspection"))

import planted as plants

CLASSES = 3
ROWS = 32
TORCHVISION = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "mnasnet0_5",
    "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "resnet50",
    "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "vgg11_bn", "vit_b_32", "wide_resnet50_2",
)  # fmt: skip
REGISTERED = ("linear", "mlp", "small_cnn", "vit_april", "monai_vit", "ResNet20", "ResNetGN18")


class Images(NamedTuple):
    """Real images to train on, and what is known about them."""

    spec: ImageSpec
    images: Tensor
    labels: Tensor


class Honest(NamedTuple):
    """An honest network before and after training."""

    name: str
    build: Callable[[ImageSpec], nn.Module]


def real_images(axes: int, side: int) -> Images:
    """Return real images, enlarged to one size: dermoscopy in 2D, blocks of a head MR in 3D.

    The blocks have no classes, so they are given some.
    """
    collection = (Dermoscopy() if axes == 2 else BrainMR((8, 16, 16))).open()
    known = [k for k, e in enumerate(collection.entries) if axes == 3 or e.label is not None]
    chosen = known[:: max(1, len(known) // 300)]
    images = collection.images(chosen)
    mode = "bilinear" if axes == 2 else "trilinear"
    images = nn.functional.interpolate(images, (side,) * axes, mode=mode)
    given = [collection.entries[k].label for k in chosen]
    labels = torch.tensor([k % CLASSES if y is None else y for k, y in enumerate(given)])
    deviation, mean = torch.std_mean(images, [0, *range(2, images.dim())])
    spec = ImageSpec(
        images.shape[1],
        (side,) * axes,
        bounds=collection.spec.bounds,
        mean=tuple(mean.tolist()),
        std=tuple(deviation.tolist()),
    )
    return Images(spec, images, labels)


# Honest networks.


def dense_network(*widths: int, norm: bool = False, gate: type[nn.Module] = nn.ReLU) -> Honest:
    """Return a network of dense layers, the first of which sees the raw image."""

    def build(spec: ImageSpec) -> nn.Module:
        before, layers = torch.Size(spec.shape).numel(), [nn.Flatten()]
        for width in widths:
            layers += [nn.Linear(before, width), *[nn.BatchNorm1d(width)] * norm, gate()]
            before = width
        return nn.Sequential(*layers, nn.Linear(before, CLASSES))

    words = ", ".join(map(str, widths)) + (", BatchNorm" if norm else "") + f", {gate.__name__}"
    return Honest(f"dense layers {words}", build)


DENSE = (
    dense_network(300, 100),
    dense_network(16),
    dense_network(128, norm=True),
    dense_network(64, 64, gate=nn.GELU),
    dense_network(64, gate=nn.Sigmoid),
)


def honest_networks(axes: int) -> Iterator[Honest]:
    """Yield the honest networks for images of some axes."""
    yield from DENSE
    for name in REGISTERED:
        if axes == 2 or name in ("linear", "mlp", "small_cnn", "monai_vit"):
            model = plugins.models()[name]()
            yield Honest(name, lambda spec, model=model: model.build(spec, CLASSES))
    if axes == 2:
        for name in TORCHVISION:
            yield Honest(
                f"torchvision {name}", lambda spec, name=name: torchvision_network(name, spec)
            )
    for name, build in MONAI.items():
        yield Honest(f"MONAI {name}", build)


def torchvision_network(name: str, spec: ImageSpec) -> nn.Module:
    """Return a network of torchvision's."""
    settings = {"image_size": spec.space[0]} if name.startswith("vit") else {}
    settings |= {"aux_logits": False, "init_weights": True} if name == "googlenet" else {}
    return get_model(name, num_classes=CLASSES, **settings)


def monai_resnet(kind: Callable[..., nn.Module], axes: int, channels: int) -> nn.Module:
    """Return a ResNet of MONAI's whose first convolution has stride 2, as torchvision's have."""
    return kind(spatial_dims=axes, n_input_channels=channels, num_classes=CLASSES, conv1_t_stride=2)


MONAI: dict[str, Callable[[ImageSpec], nn.Module]] = {
    "DenseNet121": lambda s: nets.DenseNet121(len(s.space), s.channels, CLASSES),
    "resnet10": lambda s: monai_resnet(nets.resnet10, len(s.space), s.channels),
    "resnet18": lambda s: monai_resnet(nets.resnet18, len(s.space), s.channels),
    "resnet50": lambda s: monai_resnet(nets.resnet50, len(s.space), s.channels),
    "SEResNet50": lambda s: nets.SEResNet50(
        spatial_dims=len(s.space), in_channels=s.channels, num_classes=CLASSES
    ),
    "EfficientNet b0": lambda s: nets.EfficientNetBN(
        "efficientnet-b0", False, spatial_dims=len(s.space), in_channels=s.channels,
        num_classes=CLASSES,
    ),
    "Classifier": lambda s: nets.Classifier(s.shape, CLASSES, (8, 16, 32), (2, 2, 2)),
}  # fmt: skip


def train(network: nn.Module, data: Images, steps: int) -> nn.Module:
    """Return a network after some steps of SGD with momentum on real images."""
    network = copy.deepcopy(network).train()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    order = torch.Generator().manual_seed(0)
    images = data.spec.normalise(data.images)
    for _ in range(steps):
        some = torch.randint(len(images), (8,), generator=order)
        loss = nn.functional.cross_entropy(network(images[some]), data.labels[some])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()


def blame_honest(data: Images, steps: int) -> tuple[int, int]:
    """Inspect every honest network; print and count those that are blamed."""
    blamed = total = 0
    for honest in honest_networks(len(data.spec.space)):
        torch.manual_seed(0)
        try:
            fresh = honest.build(data.spec).eval()
        except MedbreachError as error:
            print(f"  {honest.name}: left out, {error}")
            continue
        trained = train(fresh, data, steps)
        for state, network in {"fresh": fresh, "trained": trained}.items():
            begun = time.perf_counter()
            found = inspect_model(network, data.spec)
            seconds = time.perf_counter() - begun
            signs = [sign.kind for sign in found.signs]
            view = look_at(network, data.spec)
            if state == "trained":
                dense = [name for gate in view.gates for name in gate.weights]
                signs += [
                    s.kind for s in replaced_layers(fresh.state_dict(), trained.state_dict(), dense)
                ]
            ratio = disaggregation_ratio(view).ratio
            print(
                f"  {honest.name:44} {state:8} D-SNR {ratio:6.2f} {seconds:5.1f} s  "
                f"{', '.join(signs) or 'nothing'}",
                flush=True,
            )
            blamed, total = blamed + bool(signs), total + 1
    return blamed, total


# Planted networks.


class Host(NamedTuple):
    """An honest network that something is planted in."""

    name: str
    network: nn.Module
    data: Images


HOSTS = {
    2: lambda: get_model("resnet18", num_classes=CLASSES),
    3: lambda: monai_resnet(nets.resnet10, 3, 1),
}
STRUCTURE = "dense layer before convolutions"
"""What would be agreed on, if the agreed architecture had a dense layer."""


def host(data: Images) -> Host:
    """Return an honest network to plant something in."""
    axes = len(data.spec.space)
    torch.manual_seed(0)
    name = {2: "torchvision resnet18", 3: "MONAI resnet10"}[axes]
    return Host(name, HOSTS[axes]().eval(), data)


def built(into: Host) -> Iterator[tuple[str, str, nn.Module]]:
    """Yield what is planted by hand: its name, its disguise, and the network."""
    for kind in plants.ROWS:
        for disguise in plants.DISGUISES:
            torch.manual_seed(1)
            network = copy.deepcopy(into.network)
            yield (
                kind,
                disguise,
                plants.plant(kind, network, into.data.spec, into.data.images, disguise, ROWS),
            )
    for kind, fish in plants.FISHING.items():
        for disguise in ("plain", "noisy"):
            torch.manual_seed(1)
            yield kind, disguise, plants.with_noise(fish(into.network), disguise)


def served(into: Host) -> Iterator[tuple[str, str, nn.Module]]:
    """Yield what medbreach's malicious servers send, by their choices in the config tree."""
    for name in plants.SERVERS:
        for disguise in ("plain", "shuffled", "scaled", "noisy"):
            torch.manual_seed(1)
            network, rng = copy.deepcopy(into.network), torch.Generator().manual_seed(0)
            server = plants.server(name)
            try:
                sent = server.plant(network, into.data.spec, into.data.images, rng)
            except MedbreachError as error:
                print(f"  {name}: left out, {error}")
                break
            if plants.disguised(sent, into.network, disguise):
                yield name, disguise, server.send(sent, 0)


def find_planted(into: Host) -> Counter[str]:
    """Inspect every planted network; print what is found and count it."""
    counts: Counter[str] = Counter()
    for kind, disguise, network in (*served(into), *built(into)):
        spec = into.data.spec
        begun = time.perf_counter()
        alone = {sign.kind for sign in inspect_model(network, spec).signs}
        seconds = time.perf_counter() - begun
        agreed = Agreed(copy.deepcopy(into.network), into.name, spec)
        against = {sign.kind for sign in inspect_sent(network.state_dict(), agreed).signs}
        which = "plain" if disguise == "plain" else "disguised"
        found = {"agreed": against, "itself": alone, "weights": alone - {STRUCTURE}}
        counts[f"{which} all"] += 1
        for how, signs in found.items():
            counts[f"{which} {how}"] += bool(signs)
        told = ", ".join(f"{how} {'yes' if signs else 'NO '}" for how, signs in found.items())
        print(
            f"  {kind:26} {disguise:9} {told}  {seconds:4.1f} s  {', '.join(sorted(alone))}",
            flush=True,
        )
    return counts


def bear_noise(into: Host) -> None:
    """Print from which noise on planted rows are no longer found by their weights."""
    for level in (0.01, 0.05, 0.1, 0.2, 0.4):
        missed = []
        for kind, rows in plants.ROWS.items():
            torch.manual_seed(1)
            images = into.data.spec.normalise(into.data.images)
            noisy = plants.noisy(rows(images, ROWS), level)
            network = plants.planted(kind, noisy, copy.deepcopy(into.network), into.data.spec)
            signs = inspect_model(network, into.data.spec).signs
            missed += [kind] if not {sign.kind for sign in signs} - {STRUCTURE} else []
        print(f"  noise {level:4.0%} of the weights: missed {', '.join(missed) or 'nothing'}")


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--steps", type=int, default=30, help="of training honest networks")
    arguments.add_argument("--side", type=int, default=64, help="of 2D images; half of it in 3D")
    asked = arguments.parse_args()
    planted: Counter[str] = Counter()
    blamed = total = 0
    for axes, side in ((2, asked.side), (3, asked.side // 2)):
        data = real_images(axes, side)
        shape = " x ".join(map(str, data.spec.shape))
        into = host(data)
        print(f"planted into {into.name}, {shape}, {ROWS} rows")
        planted += find_planted(into)
        print("found by their weights and gates alone, the more noise the less")
        bear_noise(into)
        print(f"honest networks, {shape}, fresh and after {asked.steps} steps of SGD")
        wrong, looked = blame_honest(data, asked.steps)
        blamed, total = blamed + wrong, total + looked
    for which in ("plain", "disguised"):
        every = planted[f"{which} all"]
        for how, words in WAYS.items():
            count = planted[f"{which} {how}"]
            print(f"{which} planted models found {words}: {count} of {every} ({count / every:.1%})")
    print(f"honest models blamed: {blamed} of {total}")


WAYS = {
    "agreed": "against the agreed architecture",
    "itself": "by themselves",
    "weights": "by their weights and gates alone",
}

if __name__ == "__main__":
    main()
