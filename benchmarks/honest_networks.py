"""Honest networks in 2D and 3D, fresh and after some training on real images."""

import copy
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from monai.networks import nets
from torch import Tensor, nn
from torchvision.models import get_model

from medbreach import plugins
from medbreach.datasets.brain_mr import BrainMR
from medbreach.datasets.dermoscopy import Dermoscopy
from medbreach.types import ImageSpec

CLASSES = 3
TORCHVISION = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "mnasnet0_5",
    "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "resnet50",
    "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "vgg11_bn", "vit_b_32", "wide_resnet50_2",
)  # fmt: skip
QUICK = ("linear", "small_cnn", "Classifier", "mobilenet_v3_small", "resnet10")
REGISTERED = ("linear", "mlp", "small_cnn", "vit_april", "monai_vit", "ResNet20", "ResNetGN18")


class Images(NamedTuple):
    """Real images to train on, and what is known about them."""

    spec: ImageSpec
    images: Tensor
    labels: Tensor


class Honest(NamedTuple):
    """An honest network before and after training.

    Attributes:
        name: What it is called.
        build: Makes it, fresh.
        quick: Whether a step of training it takes little time.
    """

    name: str
    build: Callable[[ImageSpec], nn.Module]
    quick: bool


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


def dense_network(*widths: int, norm: bool = False, gate: type[nn.Module] = nn.ReLU) -> Honest:
    """Return a network of dense layers, the first of which sees the raw image."""

    def build(spec: ImageSpec) -> nn.Module:
        before, layers = torch.Size(spec.shape).numel(), [nn.Flatten()]
        for width in widths:
            layers += [nn.Linear(before, width), *[nn.BatchNorm1d(width)] * norm, gate()]
            before = width
        return nn.Sequential(*layers, nn.Linear(before, CLASSES))

    words = ", ".join(map(str, widths)) + (", BatchNorm" if norm else "") + f", {gate.__name__}"
    return Honest(f"dense layers {words}", build, quick=True)


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
            quick = name in QUICK
            yield Honest(name, lambda spec, model=model: model.build(spec, CLASSES), quick)
    if axes == 2:
        for name in TORCHVISION:
            yield Honest(
                f"torchvision {name}",
                lambda spec, name=name: torchvision_network(name, spec),
                name in QUICK,
            )
    for name, build in MONAI.items():
        yield Honest(f"MONAI {name}", build, name in QUICK)


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


def sgd(parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
    """Return SGD with momentum."""
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)


def adamw(parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
    """Return AdamW."""
    return torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.05)


def rough(parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
    """Return SGD of large steps and strong weight decay, which closes many gates."""
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=5e-3)


def train(
    network: nn.Module,
    data: Images,
    steps: int,
    optimise: Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer],
) -> nn.Module:
    """Return a network after some steps on batches of 8 real images."""
    network = copy.deepcopy(network).train()
    optimiser = optimise(network.parameters())
    order = torch.Generator().manual_seed(0)
    images = data.spec.normalise(data.images)
    for _ in range(steps):
        some = torch.randint(len(images), (8,), generator=order)
        loss = nn.functional.cross_entropy(network(images[some]), data.labels[some])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()


def training(
    honest: Honest, fresh: nn.Module, data: Images, steps: int, long: int
) -> Iterator[tuple[str, nn.Module]]:
    """Yield an honest network fresh, after some training, and after more if that is quick.

    Where training diverged, to outputs that are not finite, the network is left out.
    """
    yield "fresh", fresh
    trainings = [(steps, sgd)]
    if honest.quick:
        trainings += [(long, sgd), (long, adamw), (long, rough)]
    for count, optimise in trainings:
        trained = train(fresh, data, count, optimise)
        with torch.no_grad():
            outputs = trained(data.spec.normalise(data.images[:8]))
        if outputs.isfinite().all():
            yield f"{count} {optimise.__name__}", trained
        else:
            print(f"  {honest.name}: {count} {optimise.__name__} diverged, left out", flush=True)
