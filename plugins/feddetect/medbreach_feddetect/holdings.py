"""The images of a federation, dealt over its clients."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from medbreach import Collection, DataError, Seeds
from medbreach.assembly import assemble
from medbreach.config import load
from medbreach.federation import Federation
from medbreach.population import deal
from medbreach_feddetect.setting import GanFederation, Images

UNLABELLED: Final = -1


@dataclass(frozen=True, eq=False)
class Holding:
    """Somebody's images.

    Attributes:
        images: The images, in -1 to 1.
        labels: Class of each; -1 where it has none that is certain.
        patients: Number of each image's patient.
    """

    images: Float[Tensor, "n channels size size"]
    labels: Int[Tensor, " n"]
    patients: Int[Tensor, " n"]

    def labelled(self) -> "Holding":
        """Return the part that has labels."""
        known = self.labels != UNLABELLED
        return Holding(self.images[known], self.labels[known], self.patients[known])


@dataclass(frozen=True, eq=False)
class Holdings:
    """Who has which images. Patients are either a client's or the public's.

    Attributes:
        clients: Each client's images.
        public: The public's: what generated images are measured against.
        classes: Names of the classes; empty if the images have no labels.
        note: What to know about the images.
        patients_are: What a patient stands for, in the plural.
    """

    clients: tuple[Holding, ...]
    public: Holding
    classes: tuple[str, ...]
    note: str
    patients_are: str


class Opened(NamedTuple):
    """Images that nobody has yet.

    Attributes:
        collection: The images, unread.
        federation: How they are dealt.
    """

    collection: Collection
    federation: Federation


@functools.lru_cache(maxsize=2)
def opened(images: Images, clients: int) -> Opened:
    """Return the images of a case, and how they are dealt over so many clients.

    Raises:
        ConfigError: A setting is wrong.
        DataError: The images are missing or damaged.
    """
    overrides = [*images.overrides, f"case.data.default_clients={clients}"]
    case = assemble(load(overrides)).case
    return Opened(case.dataset.open(), case.federation)


def hold(setting: GanFederation) -> Holdings:
    """Read and deal the images of a federation, once for all that share them.

    Raises:
        ConfigError: A setting of the images is wrong.
        DataError: The images are missing, damaged, no pictures, without labels where these are
            needed, or too few for a client to train on.
    """
    _check(opened(setting.images, setting.clients).collection, setting)
    return _hold(setting.images, setting.clients, setting.seed, setting.gan.size)


@functools.lru_cache(maxsize=2)
def _hold(images: Images, clients: int, seed: int, size: int) -> Holdings:
    collection, federation = opened(images, clients)
    dealt = deal(collection, federation, Seeds(seed))
    owners = [_some(own, images.limit, seed, f"client/{k}") for k, own in enumerate(dealt.clients)]
    if images.holding == "shared":
        every = [i for own in dealt.clients for i in own]
        owners = [_some(every, images.limit, seed, "everybody")] * len(owners)
    read = functools.partial(_read, collection, size)
    held = tuple(map(read, owners))
    for k, own in enumerate(held):
        if len(own.images) < 2:
            raise DataError(
                f"client {k} has {len(own.images)} images, but batch normalisation takes at least "
                "2: give more images or fewer clients"
            )
    public = read(_some(dealt.public, images.limit, seed, "public"))
    names = collection.classes or ()
    return Holdings(held, public, names, collection.note, collection.patients_are)


def _some(owned: Sequence[int], most: int, seed: int, whose: str) -> list[int]:
    """Return at most so many of somebody's images, drawn by the seed; 0: all, in their order."""
    if not most or len(owned) <= most:
        return list(owned)
    order = torch.randperm(len(owned), generator=Seeds(seed).stream(f"limit/{whose}"))
    return [owned[i] for i in order[:most].tolist()]


def _check(collection: Collection, setting: GanFederation) -> None:
    """Check that the images fit the networks.

    Raises:
        DataError: They do not.
    """
    gan = setting.gan
    if len(collection.spec.space) != 2:
        raise DataError("the GANs make pictures, and these images are volumes: give 2D images")
    if collection.spec.channels != gan.channels:
        raise DataError(
            f"the images have {collection.spec.channels} channels, but gan.channels is "
            f"{gan.channels}"
        )
    if gan.classes and not collection.classes:
        raise DataError(
            "a conditional GAN is told the class of each image, and these images have no labels: "
            "set gan.classes=0 or give labelled images"
        )
    there = len(collection.classes or ())
    if gan.classes and gan.classes != there:
        raise DataError(f"gan.classes is {gan.classes}, but the images have {there} classes")


def _read(collection: Collection, size: int, indices: Sequence[int]) -> Holding:
    low, high = collection.spec.bounds
    images = 2 * (collection.images(indices) - low) / (high - low) - 1
    if images.shape[-2:] != (size, size):
        images = functional.interpolate(
            images, (size, size), mode="bilinear", antialias=True, align_corners=False
        ).clamp(-1, 1)
    entries = [collection.entries[i] for i in indices]
    numbers = {name: k for k, name in enumerate(sorted({e.patient for e in collection.entries}))}
    labels = [UNLABELLED if e.label is None else e.label for e in entries]
    return Holding(
        images,
        torch.tensor(labels, dtype=torch.long),
        torch.tensor([numbers[e.patient] for e in entries], dtype=torch.long),
    )
