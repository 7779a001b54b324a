"""Whose images are whose: the clients', the server's for retraining, and those for evaluation."""

import functools
import hashlib
import math
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from medbreach import Case, Collection, DataError, ImageSpec, Seeds
from medbreach.assembly import assemble
from medbreach.config import load
from medbreach.population import Deal, deal, limit_public, with_normalisation

PUBLIC_IMAGES: Final = 1000  # that mean and deviation are taken from, at most


@dataclass(frozen=True)
class Labelled:
    """Images with their classes and patients.

    Attributes:
        images: In the unit of the spec, not normalised.
        labels: Class of each image.
        patients: Number of each image's patient, the same whatever the seed.
    """

    images: Float[Tensor, "n channels *space"]
    labels: Int[Tensor, " n"]
    patients: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> "Labelled":
        """Return the first images."""
        return Labelled(self.images[:count], self.labels[:count], self.patients[:count])


@dataclass(frozen=True)
class Roles:
    """Numbers of the images in each role; no patient has images in two of them.

    Attributes:
        clients: Of each client.
        pool: The server's, for retraining; in random order.
        test: For evaluation: accuracy and attacks; in random order.
    """

    clients: tuple[tuple[int, ...], ...]
    pool: tuple[int, ...]
    test: tuple[int, ...]


@dataclass(frozen=True)
class Shares:
    """The images of a federation by role, read when they are first asked for.

    Attributes:
        spec: What is known about them, with the federation's normalisation.
        classes: Names of the classes.
        collection: All of them.
        roles: Who has which.
    """

    spec: ImageSpec
    classes: tuple[str, ...]
    collection: Collection
    roles: Roles
    _read: dict[str, Labelled] = field(default_factory=dict, repr=False)

    def client(self, number: int) -> Labelled:
        """Return a client's records."""
        return self._part(f"client {number}", self.roles.clients[number])

    @property
    def pool(self) -> Labelled:
        """The server's images for retraining."""
        return self._part("pool", self.roles.pool)

    @property
    def test(self) -> Labelled:
        """The images for evaluation."""
        return self._part("test", self.roles.test)

    def of_pool(self, share: float) -> Labelled:
        """Return a share of the pool; a smaller one lies within a greater one.

        Raises:
            DataError: It holds no image.
        """
        return self.pool.first(self.count_of(share))

    def count_of(self, share: float) -> int:
        """Return how many images a share of the pool has.

        Raises:
            DataError: None.
        """
        count = round(share * len(self.roles.pool))
        if count < 1:
            raise DataError(
                f"the retraining pool is too small: a share of {share:g} of its "
                f"{len(self.roles.pool)} images is none; raise the share, or give more images"
            )
        return count

    def fingerprint(self, known: MutableMapping[int, bytes]) -> str:
        """Read every image of every role once; return what is different if anything of them is.

        Args:
            known: What was found of images before, by number; those are not read again.

        Raises:
            DataError: An image cannot be read.
        """
        whole = hashlib.sha256()
        for index in self._used():
            if index < 0:
                whole.update(b"next role")
                continue
            if index not in known:
                known[index] = hashlib.sha256(
                    self.collection.image(index).numpy().tobytes()
                ).digest()
            entry = self.collection.entries[index]
            whole.update(known[index] + f"{entry.label} {entry.patient}\n".encode())
        return whole.hexdigest()[:16]

    @property
    def in_two_classes(self) -> list[str]:
        """Patients who have images of more than one class."""
        classes: dict[str, set[int]] = {}
        for entry in self.collection.entries:
            if entry.label is not None:
                classes.setdefault(entry.patient, set()).add(entry.label)
        return sorted(patient for patient, own in classes.items() if len(own) > 1)

    def _used(self) -> Iterator[int]:
        """Yield the number of each image in each role, and -1 after each role."""
        for part in (*self.roles.clients, self.roles.pool, self.roles.test):
            yield from part
            yield -1

    def _part(self, name: str, indices: Sequence[int]) -> Labelled:
        if name not in self._read:
            entries = self.collection.entries
            labels = [entries[i].label or 0 for i in indices]
            patients = [self._numbers[entries[i].patient] for i in indices]
            self._read[name] = Labelled(
                self.collection.images(indices),
                torch.tensor(labels, dtype=torch.long),
                torch.tensor(patients, dtype=torch.long),
            )
        return self._read[name]

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        names = sorted({entry.patient for entry in self.collection.entries})
        return {name: number for number, name in enumerate(names)}


@functools.lru_cache(maxsize=4)
def case_of(settings: tuple[str, ...]) -> tuple[Case, Collection]:
    """Return a case and its images, unread.

    Raises:
        InputError: The settings or the images do not fit.
    """
    case = assemble(load(settings)).case
    return case, case.dataset.open()


@functools.lru_cache(maxsize=4)
def share_out(settings: tuple[str, ...], seed: int, pool_share: float) -> tuple[Case, Shares]:
    """Deal a case's patients: half to clients, the others to the pool and to evaluation.

    Args:
        settings: Of the case.
        seed: Of the dealing.
        pool_share: Share of the public's patients of each class that go to the pool.

    Raises:
        DataError: There are no classes, or only one; or too few patients of one.
        InputError: The settings or the images do not fit.
    """
    case, collection = case_of(settings)
    classes = collection.classes
    if classes is None or len(classes) < 2:
        there = "no classes" if not classes else f"one class only, {classes[0]!r}"
        raise DataError(f"the images have {there}: give a folder with a subfolder for each of two")
    seeds = Seeds(seed)
    dealt = deal(collection, case.federation, seeds)
    pool, test = _pool_and_test(collection, dealt, pool_share, seeds)
    spec = collection.spec
    if case.federation.normalize:
        given = case.federation.mean and case.federation.std
        some = pool[:2] if given else limit_public(pool, spec, PUBLIC_IMAGES)
        spec = with_normalisation(spec, collection.images(some), case.federation)
    return case, Shares(spec, classes, collection, Roles(dealt.clients, pool, test))


def _pool_and_test(
    collection: Collection, dealt: Deal, pool_share: float, seeds: Seeds
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the images of each role, at least one patient of each class in both."""
    labelled = [i for i in dealt.public if dealt.labels[i] is not None]
    owners: dict[int, dict[str, list[int]]] = {c: {} for c in range(dealt.classes)}
    home: dict[str, int] = {}
    for i in labelled:  # a patient with images of two classes goes with the first
        patient = collection.entries[i].patient
        home.setdefault(patient, dealt.labels[i] or 0)
        owners[home[patient]].setdefault(patient, []).append(i)
    pool: list[int] = []
    test: list[int] = []
    for label, patients in owners.items():
        if len(patients) < 2:
            name = (collection.classes or ())[label]
            raise DataError(
                f"class {name!r} has {len(patients)} {collection.patients_are} left for retraining "
                "and evaluation, which take at least one each: give more images, or raise "
                "case.data.public_share"
            )
        names = list(patients)
        order = torch.randperm(len(names), generator=seeds.stream(f"pool/{label}")).tolist()
        cut = min(len(names) - 1, max(1, math.floor(pool_share * len(names))))
        for rank, k in enumerate(order):
            (pool if rank < cut else test).extend(patients[names[k]])
    return _mixed(pool, seeds.stream("pool")), _mixed(test, seeds.stream("test"))


def _mixed(indices: Sequence[int], rng: torch.Generator) -> tuple[int, ...]:
    return tuple(indices[k] for k in torch.randperm(len(indices), generator=rng).tolist())
