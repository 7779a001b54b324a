"""Networks that a malicious server could send.

Builders plant something into an honest network as its publication says; they are written apart from
medbreach's own servers, so that the inspection is not tested on those alone. Disguises change how
a planted layer looks and little of what it does.
"""

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from medbreach.types import ImageSpec


class Rows(NamedTuple):
    """A planted linear layer: what its rows measure, and from where on they let records through."""

    weight: Tensor
    bias: Tensor
    gate: nn.Module


class Block(nn.Module):
    """Rows on the flattened image, a gate, and the way back to the image."""

    def __init__(self, rows: Rows, shape: tuple[int, ...], back: str, split: bool) -> None:
        super().__init__()
        self.rows = split_layer(rows) if split else layer(rows.weight, rows.bias)
        self.gate = rows.gate
        self.shape, self.back = shape, back
        if back == "linear":
            self.out = nn.Linear(len(rows.bias), math.prod(shape))
            nn.init.constant_(self.out.weight, 1 / len(rows.bias))
            nn.init.zeros_(self.out.bias)

    def forward(self, images: Tensor) -> Tensor:
        seen = self.gate(self.rows(images.flatten(1)))
        if self.back == "linear":
            return self.out(seen).unflatten(1, self.shape)
        return images + seen.mean(1).reshape(-1, *[1] * len(self.shape))


class Copies(nn.Module):
    """Convolutions that copy the image for one client and are zero for the others, then rows."""

    def __init__(self, rows: Rows, shape: tuple[int, ...], clients: int, split: bool) -> None:
        super().__init__()
        channels, space = shape[0], shape[1:]
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[len(space)]
        self.copy = convolution(channels, clients * channels, 3, padding=1)
        centre = (slice(None), slice(None), *[1] * len(space))
        nn.init.zeros_(self.copy.weight)
        nn.init.zeros_(self.copy.bias)
        self.copy.weight.data[:channels][centre] = torch.eye(channels)
        wide = rows._replace(weight=rows.weight.repeat(1, clients))
        self.block = Block(wide, (clients * channels, *space), "linear", split)
        self.block.out = nn.Linear(len(rows.bias), math.prod(shape))
        nn.init.constant_(self.block.out.weight, 1 / len(rows.bias))
        self.block.shape = shape

    def forward(self, images: Tensor) -> Tensor:
        return self.block(self.copy(images))


def layer(weight: Tensor, bias: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0])
    made.weight.data, made.bias.data = weight.clone(), bias.clone()
    return made


def split_layer(rows: Rows) -> nn.Sequential:
    """Return two linear layers whose product are the rows."""
    count = len(rows.bias)
    mix = torch.linalg.qr(torch.randn(count, count, dtype=torch.float64))[0].float()
    first = layer(mix.T @ rows.weight, torch.zeros(count))
    return nn.Sequential(first, layer(mix, rows.bias))


# What the rows are.


def measurement(images: Tensor, kind: str) -> Tensor:
    pixels = images[0].numel()
    if kind == "mean":
        return torch.ones(pixels) / pixels
    if kind == "cosine":
        return torch.cos(math.pi / pixels * (torch.arange(pixels) + 0.5) * 32) / pixels
    return nn.functional.normalize(torch.randn(pixels), dim=0)


def ladder(images: Tensor, direction: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return equal rows whose biases are the quantiles of public measurements."""
    measured = images.flatten(1) @ direction
    edges = torch.quantile(measured, (torch.arange(count) + 0.5) / count)
    return direction.repeat(count, 1), -edges


def robbing_the_fed(images: Tensor, count: int, kind: str = "normal") -> Rows:
    return Rows(*ladder(images, measurement(images, kind), count), nn.ReLU())


def sparse_imprint(images: Tensor, count: int) -> Rows:
    weight, bias = ladder(images, measurement(images, "normal"), count + 1)
    width = (bias[:-1] - bias[1:]).clamp_min(1e-6)
    return Rows(weight[:-1] / width[:, None], bias[:-1] / width, nn.Hardtanh(0, 1))


def one_shot(images: Tensor, count: int) -> Rows:
    weight, bias = ladder(images, measurement(images, "cosine"), count)
    middle = count // 2
    return Rows(weight[middle : middle + 2], bias[middle : middle + 2], nn.ReLU())


def trap_weights(images: Tensor, count: int, scale: float = 0.99, signed: bool = False) -> Rows:
    """Each row negative on half of the pixels, and as much but for a factor positive elsewhere."""
    pixels = images[0].numel() // 2 * 2
    weight = torch.zeros(count, images[0].numel())
    for row in weight:
        order, sizes = torch.randperm(pixels), torch.randn(pixels // 2) * 0.5
        sizes = sizes if signed else sizes.abs()
        row[order[: pixels // 2]] = -sizes
        row[order[pixels // 2 :]] = scale * sizes
    return Rows(weight, torch.zeros(count), nn.ReLU())


def faulty_traps(images: Tensor, count: int) -> Rows:
    """The trap weights of a published implementation: sizes of any sign, and a scale of 0.01."""
    return trap_weights(images, count, 0.01, signed=True)


def quantile_biases(images: Tensor, count: int, records: int = 16) -> Rows:
    """Normal rows, each with the bias that lets one of so many records through."""
    weight = torch.randn(count, images[0].numel()) / images[0].numel() ** 0.5
    return Rows(
        weight, -torch.quantile(images.flatten(1) @ weight.T, 1 - 1 / records, 0), nn.ReLU()
    )


def several_ladders(images: Tensor, count: int, measurements: int = 4) -> Rows:
    """Groups of rows, each a ladder along a random combination of centred public images."""
    flat = images.flatten(1)
    mixes = torch.randn(measurements, len(flat)) @ (flat - flat.mean(0))
    parts = [
        ladder(images, nn.functional.normalize(m, dim=0), count // measurements) for m in mixes
    ]
    weights, biases = zip(*parts, strict=True)
    return Rows(torch.cat(weights), torch.cat(biases), nn.ReLU())


ROWS = {
    "robbing the fed": robbing_the_fed,
    "robbing the fed, mean": lambda images, count: robbing_the_fed(images, count, "mean"),
    "robbing the fed, cosine": lambda images, count: robbing_the_fed(images, count, "cosine"),
    "sparse imprint": sparse_imprint,
    "one shot": one_shot,
    "trap weights": trap_weights,
    "trap weights, faulty": faulty_traps,
    "quantile biases": quantile_biases,
    "several ladders": several_ladders,
    "client convolutions": lambda images, count: robbing_the_fed(images, count, "mean"),
}


# Disguises.


def shuffled(rows: Rows) -> Rows:
    order = torch.randperm(len(rows.bias))
    return rows._replace(weight=rows.weight[order], bias=rows.bias[order])


def scaled(rows: Rows) -> Rows:
    factors = torch.exp(torch.randn(len(rows.bias)))
    return rows._replace(weight=rows.weight * factors[:, None], bias=rows.bias * factors)


def noisy(rows: Rows, level: float = 0.05) -> Rows:
    """Add noise, in root mean squares of each row, and of all biases."""
    size = rows.weight.pow(2).mean(1, keepdim=True).sqrt()
    weight = rows.weight + level * size * torch.randn_like(rows.weight)
    spread = rows.bias.pow(2).mean().sqrt()
    return rows._replace(
        weight=weight, bias=rows.bias + level * spread * torch.randn_like(rows.bias)
    )


DISGUISES = {
    "plain": lambda rows: rows,
    "shuffled": shuffled,
    "scaled": scaled,
    "noisy": noisy,
    "split": lambda rows: rows,
    "all": lambda rows: noisy(scaled(shuffled(rows))),
}


def plant(
    kind: str,
    network: nn.Module,
    spec: ImageSpec,
    public: Tensor,
    disguise: str = "plain",
    count: int = 32,
    back: str = "linear",
) -> nn.Module:
    """Return a network with a planted block before it."""
    rows = DISGUISES[disguise](ROWS[kind](spec.normalise(public), count))
    return planted(kind, rows, network, spec, back, split=disguise in ("split", "all"))


def planted(
    kind: str,
    rows: Rows,
    network: nn.Module,
    spec: ImageSpec,
    back: str = "linear",
    split: bool = False,
) -> nn.Module:
    """Return a network with some rows planted before it."""
    if kind == "client convolutions":
        return nn.Sequential(Copies(rows, spec.shape, 4, split), network)
    return nn.Sequential(Block(rows, spec.shape, back, split), network)


# Fishing: the architecture stays, the last layer does not.


def last_layer(network: nn.Module) -> nn.Linear:
    return [m for m in network.modules() if isinstance(m, nn.Linear)][-1]


@torch.no_grad()
def class_fishing(network: nn.Module, target: int = 0) -> nn.Module:
    network = copy.deepcopy(network)
    head = last_layer(network)
    kept = torch.arange(len(head.bias)) == target
    head.weight[~kept] = 0
    head.bias[~kept] = 1000
    return network


@torch.no_grad()
def gradient_fishing(network: nn.Module, target: int = 0) -> nn.Module:
    """All classes but one are shut off by their biases, and the last layer is enlarged."""
    network = copy.deepcopy(network)
    head = last_layer(network)
    head.bias[torch.arange(len(head.bias)) != target] += 10
    head.weight *= 100
    head.bias *= 100
    return network


@torch.no_grad()
def feature_fishing(network: nn.Module, target: int = 0, feature: int = 3) -> nn.Module:
    network = copy.deepcopy(network)
    head = last_layer(network)
    head.weight.zero_()
    head.bias.zero_()
    head.weight[target, feature] = 300
    head.bias[target] = -300 * 0.2
    return network


FISHING = {
    "class fishing": class_fishing,
    "feature fishing": feature_fishing,
    "gradient fishing": gradient_fishing,
}


@torch.no_grad()
def with_noise(network: nn.Module, disguise: str, level: float = 0.05) -> nn.Module:
    """Add noise to the last layer, in root mean squares of its weights and biases."""
    head = last_layer(network)
    for parameter in (head.weight, head.bias):
        size = parameter.pow(2).mean().sqrt() * (level if disguise == "noisy" else 0)
        parameter += size * torch.randn_like(parameter)
    return network
