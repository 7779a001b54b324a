"""Dealing patients to the public, over clients and to decoys."""

import itertools
from collections import Counter, defaultdict

import pytest
import torch

from medbreach.collection import Collection, Entry
from medbreach.errors import ConfigError, DataError
from medbreach.federation import Federation
from medbreach.population import (
    deal,
    draw_decoys,
    draw_records,
    limit_public,
    with_normalisation,
)
from medbreach.randomness import Seeds
from medbreach.types import ImageSpec


def cohort(patients=40, each=3, classes=("benign", "malignant"), splits=("",)):
    """Blank entries: dealing never reads an image."""
    entries = [
        Entry(
            read=lambda: torch.zeros(1, 2, 2),
            place=f"image {p}.{k}",
            patient=f"patient {p}",
            label=p % len(classes) if classes else None,
            split=splits[p % len(splits)],
        )
        for p in range(patients)
        for k in range(each)
    ]
    return Collection(ImageSpec(1, (2, 2)), entries, classes)


def patients_of(collection, indices):
    return {collection.entries[i].patient for i in indices}


@pytest.mark.parametrize("partition", ["balanced", "random", "dirichlet", "unique-class"])
def test_no_patient_is_in_two_places(partition):
    collection = cohort()
    clients = 2 if partition == "unique-class" else 4
    dealt = deal(collection, Federation(partition, clients), Seeds(0))
    places = [patients_of(collection, part) for part in (*dealt.clients, dealt.public)]
    everyone = Counter(p for place in places for p in place)
    assert max(everyone.values()) == 1
    assert len(places[-1]) == 20


def test_balanced_clients_have_as_many_patients_of_each_class():
    collection = cohort(patients=64)
    dealt = deal(collection, Federation("balanced", 4), Seeds(1))
    held = [
        Counter(int(p.split()[1]) % 2 for p in patients_of(collection, client))
        for client in dealt.clients
    ]
    assert all(h == held[0] for h in held)
    assert held[0][0] > 0 < held[0][1]


def test_unique_class_clients_have_one_class_each():
    dealt = deal(cohort(), Federation("unique-class", 2), Seeds(0))
    assert [{dealt.labels[i] for i in client} for client in dealt.clients] == [{0}, {1}]


def test_random_clients_differ_by_at_most_one_patient():
    collection = cohort(patients=43)
    dealt = deal(collection, Federation("random", 4), Seeds(0))
    sizes = [len(patients_of(collection, client)) for client in dealt.clients]
    assert max(sizes) - min(sizes) <= 1


def test_small_concentrations_make_clients_unequal():
    collection = cohort(patients=400, each=1)

    def spread(alpha):
        federation = Federation("dirichlet", 4, dirichlet_alpha=alpha)
        dealt = deal(collection, federation, Seeds(0))
        return max(map(len, dealt.clients)) - min(map(len, dealt.clients))

    assert spread(0.1) > 3 * spread(100.0)


def test_no_record_is_lost_by_a_random_partition():
    collection = cohort()
    dealt = deal(collection, Federation("random", 4), Seeds(0))
    everyone = sorted(i for part in (*dealt.clients, dealt.public) for i in part)
    assert everyone == list(range(len(collection.entries)))


def test_the_seed_decides():
    collection = cohort()
    assert deal(collection, Federation(), Seeds(0)) == deal(collection, Federation(), Seeds(0))
    assert deal(collection, Federation(), Seeds(0)) != deal(collection, Federation(), Seeds(1))


def test_images_of_an_uncertain_class_take_no_part():
    whole = cohort()
    entries = [
        Entry(e.read, e.place, e.patient, None if k % 2 else e.label)
        for k, e in enumerate(whole.entries)
    ]
    collection = Collection(whole.spec, entries, whole.classes)
    dealt = deal(collection, Federation("random", 2), Seeds(0))
    assert all(dealt.labels[i] is not None for client in dealt.clients for i in client)
    assert all(dealt.labels[i] is not None for i in dealt.outsiders)


def test_a_patient_takes_part_in_one_class_only():
    """Or it could be a record of the one and a decoy of the other, which is not dealt alike."""
    whole = cohort(patients=60, each=4)
    entries = [
        Entry(e.read, e.place, e.patient, (e.label + k) % 2) for k, e in enumerate(whole.entries)
    ]
    collection = Collection(whole.spec, entries, whole.classes)
    for partition in ("random", "unique-class"):
        dealt = deal(collection, Federation(partition, 2), Seeds(0))
        classes = defaultdict(set)
        for i in (*itertools.chain(*dealt.clients), *dealt.outsiders):
            classes[collection.entries[i].patient].add(dealt.labels[i])
        assert len(classes) == 30
        assert all(len(own) == 1 for own in classes.values())
    assert [{dealt.labels[i] for i in client} for client in dealt.clients] == [{0}, {1}]


def test_a_split_that_leaves_nobody_to_the_public():
    whole = cohort(patients=10, each=2)
    entries = [
        Entry(e.read, e.place, e.patient, e.label, split=("train", "test")[k % 2])
        for k, e in enumerate(whole.entries)
    ]
    collection = Collection(whole.spec, entries, whole.classes)
    with pytest.raises(
        DataError, match="it takes 2 of patients who have none in the split 'train'"
    ):
        deal(collection, Federation(examples_from_split="train"), Seeds(0))


def test_missing_labels_are_made_up_evenly():
    dealt = deal(cohort(patients=400, classes=None), Federation(unlabelled_classes=4), Seeds(0))
    counts = Counter(dealt.labels)
    assert dealt.classes == 4
    assert set(counts) == {0, 1, 2, 3}
    assert min(counts.values()) > 200


def test_decoys_are_of_other_patients_of_the_same_classes_one_each():
    collection = cohort(patients=200, each=2)
    dealt = deal(collection, Federation(), Seeds(0))
    truth = [i for i in dealt.clients[0] if dealt.labels[i] == 1][:3]
    decoys = draw_decoys(collection, dealt, truth, 40, Seeds(0))
    assert len(decoys) == len(patients_of(collection, decoys)) == 40
    assert not patients_of(collection, decoys) & patients_of(collection, truth)
    assert not patients_of(collection, decoys) & patients_of(collection, dealt.public)
    assert {dealt.labels[i] for i in decoys} == {1}


def test_each_class_of_the_round_has_decoys():
    collection = cohort(patients=200, each=2)
    dealt = deal(collection, Federation(), Seeds(0))
    truth = [next(i for i in dealt.clients[0] if dealt.labels[i] == y) for y in (0, 1)]
    decoys = draw_decoys(collection, dealt, truth, 10, Seeds(0))
    assert Counter(dealt.labels[i] for i in decoys) == {0: 10, 1: 10}


def test_made_up_classes_part_no_decoys():
    collection = cohort(patients=40, each=5, classes=None)
    dealt = deal(collection, Federation(), Seeds(0))
    decoys = draw_decoys(collection, dealt, dealt.clients[0][:1], 99, Seeds(0))
    assert len(decoys) == 19


def test_splits_of_the_data_set_are_kept():
    collection = cohort(splits=("train", "test"))
    dealt = deal(collection, Federation("random", 2, examples_from_split="train"), Seeds(0))
    private = {collection.entries[i].split for client in dealt.clients for i in client}
    assert private == {"train"}
    assert {collection.entries[i].split for i in dealt.public} == {"test"}


@pytest.mark.parametrize(
    ("federation", "collection", "error", "words"),
    [
        (Federation(), cohort(patients=3), DataError, "has 3 patients; an audit needs at least 4"),
        (Federation("unique-class", 3), cohort(), ConfigError, "at most 2, not 3"),
        (Federation("balanced", 15), cohort(), DataError, "too few for a balanced split"),
        (
            Federation(examples_from_split="val"),
            cohort(splits=("train", "test")),
            ConfigError,
            "'val', but there are test, train",
        ),
        (Federation(examples_from_split="val"), cohort(), ConfigError, "has no splits"),
    ],
)
def test_what_does_not_fit_is_said(federation, collection, error, words):
    with pytest.raises(error, match=words):
        deal(collection, federation, Seeds(0))


def test_too_few_patients_are_said_with_the_keys_to_change():
    collection = cohort(patients=3, each=9)
    with pytest.raises(DataError, match=r"client 2 has 3 patients but case\.user\.num_data_points"):
        draw_records(collection, range(27), 4, 2, Seeds(0))


def test_records_are_drawn_of_different_patients():
    collection = cohort(patients=100, each=3)
    drawn = draw_records(collection, range(300), 50, 0, Seeds(0))
    assert len(patients_of(collection, drawn)) == 50
    assert {i % 3 for i in drawn} == {0, 1, 2}
    assert drawn != draw_records(collection, range(300), 50, 1, Seeds(0))


def test_no_look_alike_is_an_error():
    collection = cohort(patients=4, each=1)
    dealt = deal(collection, Federation("random", 1), Seeds(0))
    with pytest.raises(DataError, match="no decoys of class 'benign' are left"):
        draw_decoys(collection, dealt, dealt.clients[0], 9, Seeds(0))


def test_large_images_limit_the_public():
    assert len(limit_public(range(1000), ImageSpec(1, (64, 128, 128)), 1000)) == 64
    assert len(limit_public(range(1000), ImageSpec(3, (32, 32)), 500)) == 500


def test_normalisation_is_of_public_images(twenty):
    images, spec = twenty
    fitted = with_normalisation(spec, images, Federation())
    normal = fitted.normalise(images)
    assert normal.mean((0, *range(2, images.ndim))).abs().max() < 1e-4
    assert torch.allclose(fitted.denormalise(normal), images, atol=1e-4 * spec.range)
    assert with_normalisation(spec, images, Federation(normalize=False)) == spec
    with pytest.raises(ConfigError, match=r"case\.data\.mean and std need"):
        with_normalisation(spec, images, Federation(mean=(0.1,) * 5))
