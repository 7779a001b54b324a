"""Who has which images: patients dealt to the public, to clients and to decoys.

Half of the patients are the public's (what an attacker may hold of other people), half are the
federation's, dealt over its clients. The decoys of a round are records of federation patients
that take no part in it: they come from the same population as the truth, and nothing was fitted on
them.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from medbreach.collection import Collection
from medbreach.errors import ConfigError, DataError
from medbreach.federation import Federation, partition
from medbreach.randomness import Seeds
from medbreach.types import Batch, ImageSpec

Patients = dict[str, list[int]]

PUBLIC_BYTES = 256 * 2**20  # of public images kept in memory


class Deal(NamedTuple):
    """The outcome of dealing a collection.

    Attributes:
        labels: Class of each entry; None where the data set gives none with certainty.
        classes: Number of classes.
        clients: Entries of each client.
        public: Entries of the public, one of each patient first.
        outsiders: Federation entries of no client, for decoys.
        groups: What each entry's decoys share with it: its class; 0 for all where classes are
            made up, -1 where the class is uncertain.
    """

    labels: tuple[int | None, ...]
    classes: int
    clients: tuple[tuple[int, ...], ...]
    public: tuple[int, ...]
    outsiders: tuple[int, ...]
    groups: tuple[int, ...]

    def batch(self, collection: Collection, indices: Sequence[int]) -> Batch:
        """Return entries' images with their labels; class 0 where the data set gives none.

        Raises:
            DataError: An image cannot be read.
        """
        labels = [self.labels[i] or 0 for i in indices]
        return Batch(collection.images(indices), torch.tensor(labels, dtype=torch.long))


def deal(collection: Collection, federation: Federation, seeds: Seeds) -> Deal:
    """Deal a collection's patients to the public and over the clients.

    Raises:
        DataError: There are too few patients.
        ConfigError: The partition or the split does not fit the data set.
    """
    labels, classes = _labels(collection, federation, seeds)
    insiders, public = _split(collection, federation, seeds)
    inside = {
        patient: _of_one_class(indices, labels, mixed=collection.classes is None)
        for patient, indices in insiders.items()
    }
    inside = {patient: indices for patient, indices in inside.items() if indices}
    of_class = {patient: labels[indices[0]] or 0 for patient, indices in inside.items()}
    owners = partition(of_class, classes, federation, seeds)
    clients = tuple(tuple(i for patient in owned for i in inside[patient]) for owned in owners)
    dealt = {i for client in clients for i in client}
    rest = tuple(i for i in _patients_in_turn(inside) if i not in dealt)
    groups = tuple(-1 if y is None else y if collection.classes else 0 for y in labels)
    return Deal(labels, classes, clients, _patients_in_turn(public), rest, groups)


def draw_records(
    collection: Collection, owned: Sequence[int], count: int, client: int, seeds: Seeds
) -> tuple[int, ...]:
    """Return the entries that one client trains on in the round, each of another patient.

    Several images of one patient would resemble each other more than decoys do, and chance
    would no longer be what it is taken for.

    Raises:
        DataError: The client has too few patients.
    """
    rng = seeds.stream(f"records/{client}")
    drawn = _one_of_each(_by_patient(collection, owned), rng)
    if len(drawn) < count:
        raise DataError(
            f"client {client} has {len(drawn)} patients but case.user.num_data_points is {count}: "
            "lower it, or lower case.data.default_clients (each record is of another patient)"
        )
    return drawn[:count]


def draw_decoys(
    collection: Collection, dealt: Deal, truth: Sequence[int], most: int, seeds: Seeds
) -> tuple[int, ...]:
    """Return records of federation patients that take no part in the round, one of each patient.

    For each class of the truth there are up to ``most``, so that telling a class apart does not
    count as telling a record apart.

    Raises:
        DataError: A class has none.
    """
    busy = {collection.entries[i].patient for i in truth}
    pool = [i for client in dealt.clients for i in client] + list(dealt.outsiders)
    pool = [i for i in pool if collection.entries[i].patient not in busy]
    rng = seeds.stream("decoys")
    drawn: list[int] = []
    for wanted in sorted({dealt.groups[i] for i in truth}):
        same = [i for i in pool if dealt.groups[i] == wanted]
        if not same:
            of_class = f" of class {collection.classes[wanted]!r}" if collection.classes else ""
            raise DataError(
                f"no decoys{of_class} are left: every patient of the federation takes part in "
                "the round; lower case.user.num_data_points or give more images"
            )
        drawn += _one_of_each(_by_patient(collection, same), rng)[:most]
    return tuple(drawn)


def limit_public(public: Sequence[int], spec: ImageSpec, most: int) -> tuple[int, ...]:
    """Return as many public entries as are asked for and fit in memory, at least two."""
    size = 4 * spec.channels
    for side in spec.space:
        size *= side
    return tuple(public[: max(2, min(most, PUBLIC_BYTES // size))])


def with_normalisation(spec: ImageSpec, public: torch.Tensor, federation: Federation) -> ImageSpec:
    """Return the spec with the mean and deviation that the whole federation uses.

    Raises:
        ConfigError: The configured ones do not fit the images' channels.
    """
    if not federation.normalize:
        return spec
    flat = public.transpose(0, 1).flatten(1).double()
    mean = federation.mean or tuple(flat.mean(1).tolist())
    std = federation.std or tuple(flat.std(1).clamp_min(1e-6 * spec.range).tolist())
    if not len(mean) == len(std) == spec.channels:
        raise ConfigError(
            f"case.data.mean and std need {spec.channels} values, as the images have "
            f"{spec.channels} channels"
        )
    if min(std) <= 0:
        raise ConfigError(f"case.data.std must be positive, got {list(std)}")
    return replace(spec, mean=mean, std=std)


def _labels(
    collection: Collection, federation: Federation, seeds: Seeds
) -> tuple[tuple[int | None, ...], int]:
    if collection.classes is not None:
        return tuple(e.label for e in collection.entries), len(collection.classes)
    classes = federation.unlabelled_classes
    made_up = torch.randint(classes, (len(collection.entries),), generator=seeds.stream("labels"))
    return tuple(made_up.tolist()), classes


def _of_one_class(
    indices: Sequence[int], labels: Sequence[int | None], *, mixed: bool
) -> list[int]:
    """Return a patient's labelled images; unless they may be mixed, those of the first's class.

    A patient with images of several classes has a part in one of them only, as record and as decoy
    alike.
    """
    known = [i for i in indices if labels[i] is not None]
    return known if mixed else [i for i in known if labels[i] == labels[known[0]]]


def _by_patient(collection: Collection, indices: Sequence[int]) -> Patients:
    patients: Patients = {}
    for i in indices:
        patients.setdefault(collection.entries[i].patient, []).append(i)
    return patients


def _one_of_each(patients: Patients, rng: torch.Generator) -> tuple[int, ...]:
    """Return one entry of each patient at random, patients in random order."""
    owned = list(patients.values())
    order = torch.randperm(len(owned), generator=rng).tolist()
    return tuple(owned[k][int(torch.randint(len(owned[k]), (1,), generator=rng))] for k in order)


def _patients_in_turn(patients: Patients) -> tuple[int, ...]:
    """Return all entries, first one of each patient, then the second of each, and so on."""
    deepest = max(map(len, patients.values()), default=0)
    return tuple(
        indices[turn]
        for turn in range(deepest)
        for indices in patients.values()
        if turn < len(indices)
    )


def _split(
    collection: Collection, federation: Federation, seeds: Seeds
) -> tuple[Patients, Patients]:
    """Return the federation's patients and the public's, each in random order."""
    patients = _shuffled(_by_patient(collection, range(len(collection.entries))), seeds)
    if len(patients) < 4:
        raise DataError(
            f"the data set has {len(patients)} patients; an audit needs at least 4, for records, "
            "decoys and public images of different people"
        )
    wanted = federation.examples_from_split
    splits = sorted({e.split for e in collection.entries} - {""})
    if wanted is not None and wanted not in splits:
        there = f"there are {', '.join(splits)}" if splits else "the data set has no splits"
        raise ConfigError(f"case.data.examples_from_split is {wanted!r}, but {there}")
    if wanted is not None and len(splits) > 1:
        inside = {e.patient for e in collection.entries if e.split == wanted}
        own = {
            p: [i for i in indices if collection.entries[i].split == wanted]
            for p, indices in patients.items()
            if p in inside
        }
        public = {p: indices for p, indices in patients.items() if p not in inside}
        if sum(map(len, public.values())) < 2:
            raise DataError(
                "too few images are left for the public: it takes 2 of patients who have none in "
                f"the split {wanted!r}; set case.data.examples_from_split=null"
            )
        return own, public
    names = list(patients)
    cut = max(2, min(len(names) - 2, round(len(names) * federation.public_share)))
    return {p: patients[p] for p in names[cut:]}, {p: patients[p] for p in names[:cut]}


def _shuffled(patients: Patients, seeds: Seeds) -> Patients:
    """Return the patients in random order, and each one's entries in random order."""
    rng = seeds.stream("split")
    names = list(patients)
    order = torch.randperm(len(names), generator=rng).tolist()
    shuffled: Patients = {}
    for k in order:
        own = patients[names[k]]
        shuffled[names[k]] = [own[i] for i in torch.randperm(len(own), generator=rng).tolist()]
    return shuffled
