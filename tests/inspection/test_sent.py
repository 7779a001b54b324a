"""A model file against the agreed architecture."""

import copy
from dataclasses import replace

import planted as plants
import pytest
import served
import torch
from torch import nn

from medbreach.defenses.model_inspection import ModelInspection
from medbreach.errors import ModelError, Refused
from medbreach.inspection import Agreed, inspect_sent
from medbreach.inspection.agreement import compare
from medbreach.models.small_cnn import SmallCNN
from medbreach.randomness import lend_global
from medbreach.testing.examples import tiny_exchange, tiny_sample

SAMPLE = tiny_sample((16, 16), 1)
RTF = served.server("rtf")


def network(seed=0):
    return SmallCNN(width=8)(SAMPLE.spec, 3, torch.Generator().manual_seed(seed))


def agreed():
    return Agreed(network(1), "small_cnn", SAMPLE.spec)


def rows(kind="robbing the fed", disguise="plain"):
    with lend_global(torch.Generator().manual_seed(0)):
        return plants.plant(kind, network(), SAMPLE.spec, SAMPLE.public, disguise)[0]


def signs(state, **options):
    return inspect_sent(state, agreed(), **options).signs


def test_the_agreed_model_is_not_blamed():
    assert signs(network().state_dict()) == ()
    assert signs(network().state_dict(), previous=network().state_dict()) == ()


@pytest.mark.parametrize("disguise", ["plain", "split", "all"])
@pytest.mark.parametrize("place", ["before", "inside"])
@pytest.mark.parametrize("kind", ["robbing the fed", "trap weights", "quantile biases"])
def test_planted_layers_are_named_and_explained(kind, place, disguise):
    block, model = rows(kind, disguise), network()
    if place == "before":
        model, prefix = nn.Sequential(block, model), "0."
    else:
        model[0], prefix = nn.Sequential(block, model[0]), "0.0."
    found = signs(model.state_dict())
    dense = next(sign for sign in found if sign.kind == "unexpected dense layer")
    assert dense.where[0].startswith(f"{prefix}rows")
    assert {sign.kind for sign in found} & {"ladder", "trap weights", "rare gates"}
    assert {"unexpected layers", "unexpected dense layer"} <= {sign.kind for sign in found}


def test_what_else_is_wrong_has_the_name_that_it_has_in_the_file():
    model = nn.Sequential(rows(), plants.class_fishing(network()))
    (sign,) = [s for s in signs(model.state_dict()) if s.kind == "one class left"]
    assert sign.where == ("1.7.weight",)


def test_layers_that_appeared_since_the_last_round():
    planted = nn.Sequential(rows(), network())
    (sign,) = [
        s
        for s in signs(planted.state_dict(), previous=network().state_dict())
        if s.kind == "unexpected dense layer"
    ]
    assert "agreed small_cnn" in sign.words  # said once


def test_counters_of_normalisations_do_not_count():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    old = {n: t for n, t in model.state_dict().items() if "num_batches" not in n}
    assert compare(model.state_dict(), old).missing == ()
    assert compare(old, model.state_dict()).extra == ()


def without(state, name):
    return {n: t for n, t in state.items() if n != name}


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (without(network().state_dict(), "7.bias"), "7.bias is not in the file where small_cnn"),
        (
            network().state_dict() | {"7.weight": torch.zeros(5, 128)},
            "7.weight is 5 x 128 in the file where small_cnn has 3 x 128",
        ),
        (nn.LSTM(4, 4, 2).state_dict(), "fits another network: it has 0 of the 8 tensors"),
    ],
    ids=["missing", "other shape", "other network"],
)
def test_a_file_of_another_network(state, words):
    with pytest.raises(ModelError, match=words):
        signs(state)


# The defense.


@pytest.mark.parametrize("space", [(16, 16), (8, 16, 16)], ids=str)
def test_the_defense_refuses_what_a_malicious_server_sends(space):
    tiny_exchange(space, 1, [ModelInspection()])
    with pytest.raises(Refused, match=r"before convolutions \(0.linear0.weight\): .*ladder"):
        tiny_exchange(space, 1, [ModelInspection()], server=RTF)


def test_the_defense_knows_the_agreed_architecture():
    defense = ModelInspection(architecture="mlp")
    with pytest.raises(Refused, match="the agreed mlp has"):
        defense.vet(network(), SAMPLE.spec)
    deeper = copy.deepcopy(network())
    deeper.insert(6, nn.Sequential(nn.Conv2d(8, 8, 1)))
    defense = ModelInspection(architecture="small_cnn")
    ModelInspection().vet(deeper, SAMPLE.spec)
    with pytest.raises(Refused, match="unexpected layers"):
        defense.vet(deeper, SAMPLE.spec)


def test_the_defense_can_be_told_to_be_sure():
    model = network()
    with torch.no_grad():
        model[0].weight[4:] = 0  # medium: empty kernels
    with pytest.raises(Refused, match="empty kernels"):
        ModelInspection().vet(model, SAMPLE.spec)
    replace(ModelInspection(), sure="high").vet(model, SAMPLE.spec)
