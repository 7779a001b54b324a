"""How a federation's patients are dealt over its clients."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch

from medbreach.errors import ConfigError, DataError
from medbreach.randomness import Seeds


@dataclass(frozen=True)
class Federation:
    """How a data set's patients are dealt over clients.

    Attributes:
        partition: ``balanced``: each client the same number of patients of each class, those who
            are left over having no part;
            ``unique-class``: each client one class; ``random``: at random, sizes equal;
            ``dirichlet``: class shares drawn from a Dirichlet distribution (non-IID).
        default_clients: Number of clients that the federation's patients are dealt over.
        dirichlet_alpha: Concentration for ``dirichlet``; small values give unequal clients.
        examples_from_split: Split that clients' records come from, where the data set has splits;
            the public gets the others. Null: no regard to splits.
        public_share: Share of the patients that is the public's, where splits do not say it.
        unlabelled_classes: Number of made-up classes where the data set has no labels.
        normalize: Normalise images to the public images' mean and deviation.
        mean: Mean of each channel, instead of the public images'.
        std: Standard deviation of each channel, instead of the public images'.
    """

    partition: Literal["balanced", "unique-class", "random", "dirichlet"] = "balanced"
    default_clients: int = 4
    dirichlet_alpha: float = 0.5
    examples_from_split: str | None = None
    public_share: float = 0.5
    unlabelled_classes: int = 2
    normalize: bool = True
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.default_clients < 1:
            raise ValueError(f"default_clients must be at least 1, got {self.default_clients}")
        if not 0 < self.public_share < 1:
            raise ValueError(f"public_share must lie between 0 and 1, got {self.public_share}")
        if self.dirichlet_alpha <= 0:
            raise ValueError(f"dirichlet_alpha must be positive, got {self.dirichlet_alpha}")
        if self.unlabelled_classes < 2:
            raise ValueError(
                f"unlabelled_classes must be at least 2, got {self.unlabelled_classes}"
            )


def partition(
    of_class: dict[str, int], classes: int, federation: Federation, seeds: Seeds
) -> list[list[str]]:
    """Deal patients over clients.

    Args:
        of_class: Class of each patient.
        classes: Number of classes.
        federation: How to deal them.
        seeds: Random streams.

    Returns:
        Each client's patients.

    Raises:
        DataError: There are too few patients.
        ConfigError: The partition does not fit the number of classes.
    """
    return _PARTITIONS[federation.partition](of_class, classes, federation, seeds)


def _shuffled_by_class(of_class: dict[str, int], classes: int, seeds: Seeds) -> list[list[str]]:
    names = list(of_class)
    order = torch.randperm(len(names), generator=seeds.stream("partition"))
    shuffled = [names[int(i)] for i in order]
    return [[p for p in shuffled if of_class[p] == c] for c in range(classes)]


def _balanced(
    of_class: dict[str, int], classes: int, federation: Federation, seeds: Seeds
) -> list[list[str]]:
    clients: list[list[str]] = [[] for _ in range(federation.default_clients)]
    for members in _shuffled_by_class(of_class, classes, seeds):
        each = len(members) // len(clients)
        for k, client in enumerate(clients):
            client += members[k * each : (k + 1) * each]
    if any(not client for client in clients):
        raise DataError(
            f"{len(of_class)} patients in {classes} classes (without the public's) are too few for "
            f"a balanced split over {len(clients)} clients: lower case.data.default_clients or use "
            "case.data.partition=random"
        )
    return clients


def _unique_class(
    of_class: dict[str, int], classes: int, federation: Federation, seeds: Seeds
) -> list[list[str]]:
    if federation.default_clients > classes:
        raise ConfigError(
            f"case.data.partition=unique-class has one client a class: set "
            f"case.data.default_clients to at most {classes}, not {federation.default_clients}"
        )
    return _shuffled_by_class(of_class, classes, seeds)[: federation.default_clients]


def _random(
    of_class: dict[str, int], classes: int, federation: Federation, seeds: Seeds
) -> list[list[str]]:
    del classes
    names = list(of_class)
    order = [names[int(i)] for i in torch.randperm(len(names), generator=seeds.stream("partition"))]
    return [order[k :: federation.default_clients] for k in range(federation.default_clients)]


def _dirichlet(
    of_class: dict[str, int], classes: int, federation: Federation, seeds: Seeds
) -> list[list[str]]:
    clients: list[list[str]] = [[] for _ in range(federation.default_clients)]
    rng = np.random.default_rng(seeds.number("dirichlet"))
    alpha = np.full(len(clients), federation.dirichlet_alpha)
    for members in _shuffled_by_class(of_class, classes, seeds):
        cuts = (rng.dirichlet(alpha).cumsum() * len(members)).round().astype(int).tolist()
        for client, start, stop in zip(clients, [0, *cuts[:-1]], cuts, strict=True):
            client += members[start:stop]
    return clients


_PARTITIONS: Final = {
    "balanced": _balanced,
    "unique-class": _unique_class,
    "random": _random,
    "dirichlet": _dirichlet,
}
