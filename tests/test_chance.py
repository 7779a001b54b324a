"""What blind claims identify over many rounds, drawn as an audit draws them: no more than chance.

The claims are fixed before the round or made of public images, so whatever they identify is luck.
Each set of images has a trap: several images a patient, or classes that look different.
"""

from dataclasses import replace

import pytest
import torch
from scipy.stats import binom

from medbreach.case import Case, draw
from medbreach.collection import Collection, Entry
from medbreach.datasets.brain_mr import BrainMR
from medbreach.federation import Federation
from medbreach.models.small_cnn import SmallCNN
from medbreach.protocol import User
from medbreach.randomness import Seeds
from medbreach.scoring import Scorer, identify
from medbreach.statistics import chance, tail
from medbreach.types import ImageSpec

ROUNDS = 300


def made_up(patients, each, classes):
    """Images whose patients, and classes, look alike: a pattern a patient on one a class."""
    rng = torch.Generator().manual_seed(0)
    of_class = torch.rand(classes, 1, 8, 8, generator=rng)
    of_patient = torch.rand(patients, 1, 8, 8, generator=rng)
    entries = []
    for p in range(patients):
        for k in range(each):
            noise = torch.rand(1, 8, 8, generator=rng)
            image = 0.5 * of_class[p % classes] + 0.3 * of_patient[p] + 0.2 * noise
            label = p % classes if classes > 1 else None
            entries.append(Entry(lambda image=image: image, f"{p}.{k}", f"{p}", label))
    names = tuple(f"class {k}" for k in range(classes))
    return Collection(ImageSpec(1, (8, 8)), entries, names if classes > 1 else None)


TRAPS = {
    "places of one head": (BrainMR(space=(8, 16, 16)).open, 2, 8),
    "many images a patient": (lambda: made_up(60, 30, 1), 2, 4),
    "classes that differ": (lambda: made_up(160, 2, 8), 2, 4),
}


@pytest.mark.parametrize("claimed", ["as many as records", "all public images"])
@pytest.mark.parametrize("trap", TRAPS)
def test_blind_claims_identify_as_rarely_as_chance_says(trap, claimed):
    opened, clients, records = TRAPS[trap]
    collection = opened()
    case = Case(
        trap, BrainMR(), SmallCNN(), user=User(num_data_points=records),
        federation=Federation("random", clients),
    )  # fmt: skip
    found, tried, called_leaks, likely = 0, 0, 0, 0.0
    for seed in range(ROUNDS):
        sample = draw(case, collection, Seeds(seed), 99, 100)
        scorer = Scorer.fit(sample, (), 0.99)
        claims = sample.public if claimed == "all public images" else sample.public[:records]
        likeness = scorer.likeness(claims)
        told = identify(likeness[:, :records], likeness[:, records:], sample.rivals)
        identified = told.identified
        found, tried = found + sum(identified), tried + records
        likely = max(likely, max(chance(pool.decoys) for pool in sample.pools))
        called_leaks += tail(sum(identified), sample.pools) <= 0.05
    assert binom.sf(found - 1, tried, likely) > 1e-3
    assert binom.sf(called_leaks - 1, ROUNDS, 0.05) > 1e-3


def test_a_patients_other_images_take_no_part_in_a_round():
    collection = made_up(40, 30, 1)
    case = Case("few", BrainMR(), SmallCNN(), federation=Federation("random", 2))
    case = replace(case, user=User(num_data_points=10))
    sample = draw(case, collection, Seeds(0), 99, 1000)
    assert len(sample.decoys) == 10  # of twenty federation patients, ten are in the round
    assert sample.pools == ((10, 10),)
