"""Every attack on every kind of exchange: it works, or says in a sentence why it does not apply."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from medbreach import config
from medbreach.assembly import assemble
from medbreach.audit import audit
from medbreach.errors import NotApplicable
from medbreach.models.mlp import MLP
from medbreach.models.rgap_cnn import RGAPNetwork
from medbreach.models.small_cnn import SmallCNN
from medbreach.models.user_network import UserNetwork
from medbreach.models.vit_april import AprilTransformer
from medbreach.protocol import LocalNoise, User
from medbreach.randomness import Seeds
from medbreach.round import play
from medbreach.servers.fishing import FishingServer
from medbreach.servers.honest_but_curious import HonestServer
from medbreach.servers.imprint import MaliciousModelServer
from medbreach.servers.modification import Modification
from medbreach.testing.examples import tiny_case, tiny_collection, tiny_sample
from medbreach.types import Reconstruction, Verdict

ATTACKS = ("invertinggradients", "modern", "legacy", "deepleakage", "seethroughgradients", "wei",
           "beyondinfering", "clsattack", "multiscale_ghiasi", "analytic", "rgap",
           "april_analytic", "imprint", "cpa", "feature_recovery")  # fmt: skip
KINDS = ("invertinggradients", "legacy", "deepleakage", "seethroughgradients", "wei",
         "clsattack", "multiscale_ghiasi", "analytic", "rgap", "april_analytic", "imprint", "cpa",
         "feature_recovery")  # fmt: skip
"""The attacks, less those whose settings bring in no code of their own."""

FORMS = {"2D grey": ((8, 8), 1), "2D RGB": ((8, 8), 3), "3D": ((4, 8, 8), 1)}
NETWORKS = Path(__file__).parent / "networks.py"
OWN = ("batchnorm", "attention", "biasless", "convolutional", "linear_chain")

STEPS = {"user_type": "local_update", "num_local_updates": 3, "num_data_per_local_update_step": 2}
MANY = {"user_type": "multiuser_aggregate", "num_data_points": 2}
USERS = {
    "one record": User(provide_labels=True),
    "one record, labels withheld": User(),
    "batch": User(num_data_points=3, provide_labels=True),
    "batch, labels withheld": User(num_data_points=3),
    "count withheld": User(num_data_points=2, provide_num_data_points=False),
    "noise": User(num_data_points=2, local_diff_privacy=LocalNoise(gradient_noise=1.0)),
    "local update": User(num_data_points=3, provide_local_hyperparams=True, **STEPS),
    "local update, recipe withheld": User(num_data_points=3, **STEPS),
    "several clients": User(**MANY, provide_labels=True),
    "several clients, plain": User(**MANY, aggregation="plain"),
    "several clients' local updates": User(
        **MANY, num_local_updates=2, provide_local_hyperparams=True
    ),
}
PLANT = MaliciousModelServer(model_modification=Modification(num_bins=8, calibrate=True))
SERVERS = {
    "public buffers": (HonestServer(), False),
    "own statistics": (HonestServer(provide_public_buffers=False), False),
    "own statistics, sent": (HonestServer(provide_public_buffers=False), True),
    "three queries": (HonestServer(num_queries=3), False),
    "planted layer": (PLANT, False),
    "fishing last layer": (FishingServer(num_queries=4), False),
}


def quick(attack):
    """Return an attack with two steps, where it has steps; one of L-BFGS, which are many."""
    if hasattr(attack, "steps"):
        return replace(attack, steps=2)
    if not hasattr(attack, "optim"):
        return attack
    steps = 1 if attack.optim.optimizer == "L-BFGS" else 2
    attack = replace(attack, optim=replace(attack.optim, max_iterations=steps))
    names = {field.name for field in fields(attack)}
    return replace(attack, num_stages=2) if "num_stages" in names else attack


@pytest.fixture(scope="module")
def attacks():
    """breaching's attacks on images, quick."""
    plan = assemble(config.load([f"attack=[{','.join(ATTACKS)}]"]))
    return {name: quick(plan.attacks[name]) for name in ATTACKS}


@pytest.fixture(scope="module")
def kinds(attacks):
    """One attack of each kind."""
    return {name: attacks[name] for name in KINDS}


def outcomes(attacks, space, channels, **changes):
    """Return what each attack makes of a round: the number of claims, or why there is none."""
    case = tiny_case(space, channels, **changes)
    sample = tiny_sample(space, channels, user=case.user)
    exchanges = play(case, sample, (), Seeds(0), torch.device("cpu"))
    found = {}
    for name, attack in attacks.items():
        try:
            claims = [attack(e, torch.Generator().manual_seed(0)) for e in exchanges]
        except NotApplicable as reason:
            found[name] = check_sentence(str(reason))
        else:
            assert all(isinstance(claim, Reconstruction) for claim in claims)
            found[name] = sum(len(claim.images) for claim in claims)
    return found


def check_sentence(text):
    assert 20 < len(text) < 250
    assert "\n" not in text
    return text


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("user", USERS)
def test_every_user_and_form(kinds, form, user):
    found = outcomes(kinds, *FORMS[form], model=SmallCNN(width=2, pool=2), user=USERS[user])
    never = {"analytic", "rgap", "april_analytic", "imprint", "clsattack", "cpa"}
    for name in never:
        assert isinstance(found[name], str)
    records = USERS[user].num_data_points
    clients = 2 if USERS[user].user_type == "multiuser_aggregate" else 1
    assert 1 <= found["feature_recovery"] <= clients * min(records, 3)  # one a class
    for name in set(KINDS) - never - {"feature_recovery"}:
        if user == "count withheld":
            assert "count" in found[name]
        elif name == "multiscale_ghiasi" and form != "2D RGB":
            assert "3 channels" in found[name] or "3D" in found[name]
        elif name == "deepleakage" and USERS[user].provide_local_hyperparams:
            assert "several local steps" in found[name]
        else:
            assert found[name] == clients * records


@pytest.mark.parametrize("form", ["2D RGB", "3D"])
@pytest.mark.parametrize("server", SERVERS)
def test_every_server_and_form(kinds, form, server):
    chosen, sent = SERVERS[server]
    model = UserNetwork(NETWORKS, "batchnorm")
    user = User(num_data_points=3, provide_buffers=sent)
    found = outcomes(kinds, *FORMS[form], model=model, server=chosen, user=user)
    assert found["legacy"] == 3
    assert isinstance(found["imprint"], int) == (server == "planted layer")
    assert isinstance(found["clsattack"], int) == (server == "fishing last layer")


@pytest.mark.parametrize("form", ["2D RGB", "3D"])
@pytest.mark.parametrize("network", OWN)
def test_every_network_and_form(kinds, form, network):
    model = UserNetwork(NETWORKS, network)
    user = User(num_data_points=2)
    local = replace(user, provide_local_hyperparams=True, **STEPS)
    first = outcomes(kinds, *FORMS[form], model=model, user=user)
    second = outcomes(kinds, *FORMS[form], model=model, user=local)
    assert first["seethroughgradients"] == 2
    assert second["seethroughgradients"] == 2
    infers = network != "biasless"
    assert isinstance(first["invertinggradients"], int) == infers
    assert infers or "a bias" in first["invertinggradients"]
    assert isinstance(first["analytic"], int) == (network == "linear_chain")


@pytest.mark.parametrize("form", ["2D RGB", "3D"])
def test_a_network_without_second_derivatives(kinds, form):
    model = UserNetwork(NETWORKS, "fused_attention")
    found = outcomes(kinds, *FORMS[form], model=model, user=User(provide_labels=True))
    for name in ("invertinggradients", "deepleakage", "wei", "legacy"):
        assert "without a second derivative" in found[name]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("records", [1, 2])
def test_the_networks_of_the_closed_forms(attacks, form, records):
    space, channels = FORMS[form]
    closed = {name: attacks[name] for name in ("analytic", "rgap", "april_analytic", "cpa")}
    user = User(num_data_points=records)
    found = outcomes(closed, space, channels, model=MLP(width=8, hidden=1), user=user)
    assert found["analytic"] == records
    assert found["cpa"] == records
    if form != "3D":
        found = outcomes(closed, space, channels, model=RGAPNetwork(depth=1), user=user)
        assert found["rgap"] == (1 if records == 1 else "rgap reconstructs one record, not a batch")
        model = AprilTransformer(width=16)
        found = outcomes(closed, space, channels, model=model, user=user)
        assert found["april_analytic"] == 1 or channels == 1


@pytest.mark.parametrize("form", FORMS)
def test_an_audit_of_them_all_has_no_failed_finding(attacks, form):
    """Their controls included, whose networks are the attacks' own."""
    space, channels = FORMS[form]
    plan = assemble(config.load(["audit.null_draws=5", "audit.decoys=3", "audit.public=10"]))
    case = tiny_case(space, channels, user=User(num_data_points=2))
    plan = replace(plan, case=case, attacks={**plan.attacks, **attacks})
    verdicts = {
        outcome.attempt.id: (outcome.finding.verdict, outcome.finding.note)
        for outcome in audit(plan, tiny_collection(space, channels), torch.device("cpu"))
    }
    assert len(verdicts) >= 2 * len(ATTACKS)
    failed = {k: note for k, (verdict, note) in verdicts.items() if verdict is Verdict.FAILED}
    assert not failed
