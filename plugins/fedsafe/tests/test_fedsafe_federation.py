"""Clients and server, driven by a plain loop on packaged images of skin and of a head."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

from medbreach import Collection, ConfigError, DataError, Entry, ImageSpec, Seeds
from medbreach.settings import build as build_settings
from medbreach.testing import check
from medbreach_federation import Instruction, Result
from medbreach_fedsafe import learner as learners
from medbreach_fedsafe.evasion import Evasion, predicted
from medbreach_fedsafe.learner import ClassifierLearner, clipped, learner_of
from medbreach_fedsafe.network import FedSafeCNN
from medbreach_fedsafe.noise import with_noise
from medbreach_fedsafe.reproduction.setting import pgd
from medbreach_fedsafe.rule import FedSafeRule
from medbreach_fedsafe.settings import FedSafe, Retraining, Setup
from medbreach_fedsafe.shares import Labelled, Roles, Shares, case_of, share_out
from medbreach_fedsafe.training import norm_of

CPU = torch.device("cpu")
SIMPLER = "fgsm", "bim"
CASE = ("case=dermoscopy_melanoma", "case.data.default_clients=3", "case.model.width=4")
WHOLE = Retraining(share=1.0)
SHORT = dataclasses.replace(WHOLE, share=0.05, attack=Evasion("bim", iterations=2))


def setup(**settings):
    return Setup(CASE, fedsafe=FedSafe(**{"local_epochs": 1, **settings}))


def play(learner, rule, rounds):
    weights = learner.first()
    for number in range(1, rounds + 1):
        results = {
            k: learner.train(Instruction(k, number, rule.send(k, number, weights)))
            for k in range(learner.clients)
        }
        weights = rule.aggregate(number, weights, results).weights
    return weights


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_no_lesion_has_two_roles():
    _, shares = share_out(CASE, 0, 0.5)
    entries, roles = shares.collection.entries, shares.roles
    parts = [
        {entries[i].patient for i in part} for part in (*roles.clients, roles.pool, roles.test)
    ]
    assert len(set.union(*parts)) == sum(map(len, parts))
    for part in (*roles.clients, roles.pool, roles.test):
        assert {entries[i].label for i in part} == {0, 1}
    assert set(shares.test.patients.tolist()).isdisjoint(shares.pool.patients.tolist())


def test_a_smaller_share_of_the_pool_lies_within_a_greater_one():
    _, shares = share_out(CASE, 0, 0.5)
    few, many = shares.of_pool(0.1), shares.of_pool(0.5)
    assert len(few) == round(0.1 * len(shares.pool))
    assert torch.equal(many.images[: len(few)], few.images)


def test_noise_is_gaussian_on_trained_tensors_and_nowhere_else():
    weights = {"w": torch.ones(200, 200), "b": torch.zeros(3), "count": torch.tensor(5)}
    rng = torch.Generator().manual_seed(1)
    noisy = with_noise(weights, 0.3, {"w"}, rng)
    noise = noisy["w"] - 1
    assert abs(float(noise.std()) - 0.3) < 0.006
    assert abs(float(noise.mean())) < 0.006
    assert abs(float((noise / 0.3).pow(4).mean()) - 3) < 0.15
    assert torch.equal(noisy["b"], weights["b"])
    assert noisy["count"] == 5
    assert torch.equal(weights["w"], torch.ones(200, 200))


def test_downlink_noise_is_each_clients_own_and_each_rounds():
    learner = learner_of(setup(sigma=0.02))
    rule, again = (FedSafeRule.beside(learner, 0) for _ in range(2))
    weights = learner.first()
    assert same(rule.send(0, 1, weights), weights)
    sent = {(k, r): rule.send(k, r, weights) for k in (0, 1) for r in (2, 3)}
    assert same(again.send(1, 3, weights), sent[1, 3])
    noise = [
        torch.cat([(one[n] - weights[n]).flatten() for n in weights]) / 0.02
        for one in sent.values()
    ]
    pairs = torch.corrcoef(torch.stack(noise))
    assert (pairs - torch.eye(4)).abs().max() < 0.06
    assert all(abs(float(one.std()) - 1) < 0.05 for one in noise)
    assert not same(FedSafeRule.beside(learner, 1).send(0, 2, weights), sent[0, 2])


def test_uplink_noise_is_all_that_it_changes():
    """With and without, the same training; the difference is noise of the asked deviation."""
    loud, quiet = learner_of(setup(uplink=True, sigma=0.05)), learner_of(setup())
    task = Instruction(1, 2, quiet.first())
    a, b = loud.train(task), quiet.train(task)
    apart = torch.cat([(a.weights[n] - b.weights[n]).flatten() for n in a.weights])
    assert abs(float(apart.std()) - 0.05) < 0.003
    assert same(loud.train(task).weights, a.weights)
    assert a.records == len(quiet.shares.client(1))


def test_a_client_tells_no_number_about_its_records_but_how_many():
    """A loss beside noisy weights would be what no epsilon is of."""
    learner = learner_of(setup(uplink=True, sigma=0.05, max_update_norm=1.0))
    assert set(learner.train(Instruction(0, 1, learner.first())).measures) == {"seconds"}


def test_gradients_are_clipped_as_the_source_does():
    """One step with norm 1e-3 moves the weights by the learning rate times that."""
    learner = learner_of(setup(max_grad_norm=1e-3, learning_rate=0.5, batch_size=1000))
    before = learner.first()
    sent = learner.train(Instruction(0, 1, before)).weights
    moved = norm_of({n: sent[n] - before[n] for n in before})
    assert moved == pytest.approx(5e-4, rel=1e-2)


def test_an_update_is_clipped_to_its_norm():
    learner = learner_of(setup(max_update_norm=0.01))
    before = learner.first()
    sent = learner.train(Instruction(0, 1, before)).weights
    assert norm_of({n: sent[n] - before[n] for n in before}) == pytest.approx(0.01, rel=1e-3)
    short = {"w": torch.tensor([3.0, 4.0])}
    assert same(clipped(short, {"w": torch.zeros(2)}, frozenset({"w"}), 9.0), short)


@pytest.fixture(scope="module")
def learned():
    """Four rounds without noise."""
    learner = learner_of(setup(downlink=False, local_epochs=5, batch_size=20, learning_rate=0.05))
    rule = FedSafeRule.beside(learner, 0, past=2)
    return learner, rule, play(learner, rule, 4)


def test_a_federation_learns(learned):
    learner, rule, weights = learned
    first, last = learner.evaluate(0, learner.first()), learner.evaluate(4, weights)
    assert last["accuracy"] > max(0.6, first["accuracy"])
    assert len(rule.past) == 2
    assert same(rule.past[-1], weights)


def test_the_main_attack_is_no_weaker_than_simpler_ones(learned):
    """On a trained network; with the published 6 steps of a sixth it is, even than FGSM."""
    learner, _, weights = learned
    test, spec, network = learner.shares.test, learner.shares.spec, learner.network(weights)
    right = predicted([network], test.images, spec) == test.labels

    def success(attack):
        rng = Seeds(0).stream("attack")
        made = attack([network], test.images, test.labels, spec, rng)
        fooled = predicted([network], made, spec) != test.labels
        return int((right & fooled).sum())

    main = pgd(0.03)
    rates = {method: success(dataclasses.replace(main, method=method)) for method in SIMPLER}
    assert success(main) >= max(rates.values())
    assert success(main) > success(dataclasses.replace(main, step=0.005, iterations=6))


def test_a_rule_goes_on_with_what_it_kept(learned):
    learner, rule, weights = learned
    other = FedSafeRule.beside(learner, 0, past=2)
    other.go_on(rule.keep())
    assert same(other.past[-1], weights)
    assert len(other.past) == 2
    assert other.past.maxlen == 2


def test_retraining_alone_is_of_the_mean_and_the_same_for_all():
    learner = learner_of(setup(downlink=False, retraining=SHORT))
    rule = FedSafeRule.beside(learner, 0)
    weights = learner.first()
    results = {0: Result(weights, 1), 1: Result(weights, 1)}
    new = rule.aggregate(1, weights, results).weights
    assert not same(new, weights)
    assert same(rule.send(0, 2, new), rule.send(1, 2, new))
    assert same(rule.send(0, 2, new), new)


def test_retraining_with_noise_is_of_each_clients_noisy_network():
    learner = learner_of(setup(retraining=SHORT))
    rule, bare = FedSafeRule.beside(learner, 0), FedSafeRule.beside(learner_of(setup()), 0)
    weights = learner.first()
    assert same(rule.aggregate(1, weights, {0: Result(weights, 1)}).weights, weights)
    sent, noisy = rule.send(0, 2, weights), bare.send(0, 2, weights)
    assert not same(sent, noisy)
    assert same(sent, FedSafeRule.beside(learner, 0).send(0, 2, weights))
    near = norm_of({n: sent[n] - noisy[n] for n in sent})
    assert near < norm_of({n: sent[n] - weights[n] for n in sent}) / 5


def test_retraining_fits_the_adversarial_images_that_were_made_of_the_pool(learned):
    """Made again outside: their loss falls, that of the pool as it is by less."""
    learner, _, trained = learned
    attack = Evasion("pgd", eps=0.03, step=0.01, iterations=6, labels="true")
    retraining = Retraining(0.5, epochs=5, batch_size=20, learning_rate=0.05, attack=attack)
    hard = dataclasses.replace(learner.settings, retraining=retraining)
    rule = FedSafeRule(learner.shares, learner.network(trained), hard, 0, CPU)
    after = rule.aggregate(5, trained, {0: Result(trained, 1)}).weights
    spec, part = learner.shares.spec, learner.shares.of_pool(0.5)
    before = learner.network(trained)
    rng = Seeds(0).stream("retrain/all/5")
    attacked = attack([before], part.images, part.labels, spec, rng)
    gains = []
    for images in (attacked, part.images):
        loss = []
        for network in (before, learner.network(after)):
            with torch.no_grad():
                outputs = network(spec.normalise(images))
            loss.append(float(nn.functional.cross_entropy(outputs, part.labels)))
        gains.append(loss[0] - loss[1])
    assert gains[0] > max(0.2, gains[1])


def test_the_server_looks_at_the_pool_alone():
    """With the images for evaluation out of reach nothing is missed."""
    _, shares = share_out(CASE, 0, 0.5)
    roles = Roles(shares.roles.clients, shares.roles.pool, (10**9,))
    learner = learner_of(setup(retraining=SHORT))
    blind = dataclasses.replace(shares, roles=roles)
    rule = FedSafeRule(blind, learner.network(learner.first()), learner.settings, 0, CPU)
    assert same(
        rule.send(0, 2, learner.first()), FedSafeRule.beside(learner, 0).send(0, 2, learner.first())
    )


def test_buffers_leave_without_noise_and_are_averaged():
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(1800, 2))
    _, shares = share_out(CASE, 0, 0.5)
    settings = FedSafe(sigma=5.0, uplink=True, local_epochs=1)
    learner = ClassifierLearner(shares, network, settings, 0, CPU)
    sent = learner.train(Instruction(0, 1, learner.first())).weights
    quiet = ClassifierLearner(shares, network, FedSafe(local_epochs=1), 0, CPU)
    without = quiet.train(Instruction(0, 1, learner.first())).weights
    buffers = [name for name, _ in network.named_buffers()]
    assert len(buffers) == 3
    assert all(torch.equal(sent[n], without[n]) for n in buffers)
    rule = FedSafeRule(shares, network, settings, 0, CPU)
    whole = rule.aggregate(1, sent, {0: Result(sent, 1), 1: Result(learner.first(), 1)}).weights
    assert whole["1.running_var"].min() > 0
    assert whole["1.num_batches_tracked"] == 1  # the mean of 2 and 0


def test_a_process_builds_the_same_learner_from_the_folder(tmp_path):
    made = dataclasses.replace(setup(sigma=0.02, retraining=SHORT), seed=3)
    made.write(tmp_path)
    assert Setup.read(tmp_path) == made
    learner = learners.build(tmp_path)
    assert same(learner.first(), learner_of(made).first())
    assert learner.settings == made.fedsafe
    assert json.loads((tmp_path / "fedsafe.json").read_text())["fedsafe"]["sigma"] == 0.02


def brain(count=28):
    """Blocks of a head MR; the class is whether a block is brighter than most: a real task."""
    _, collection = case_of(("case=brain_mr_3d",))
    bright = [float(collection.image(i).mean()) for i in range(2 * count)]
    middle = float(np.median(bright))
    entries = [
        dataclasses.replace(collection.entries[i], label=int(bright[i] > middle))
        for i in range(2 * count)
    ]
    sorted_ = Collection(collection.spec, entries, ("dark", "bright"))
    spec = dataclasses.replace(collection.spec, mean=(250.0,), std=(200.0,))
    places = sorted({e.patient for e in entries})
    role = {place: k % 4 for k, place in enumerate(places)}
    parts = [tuple(i for i, e in enumerate(entries) if role[e.patient] == k) for k in range(4)]
    return Shares(spec, ("dark", "bright"), sorted_, Roles((parts[0], parts[1]), *parts[2:]))


def test_volumes_are_learned_and_attacked():
    """A 3D network on blocks of a head, in HU-like units: PGD fools it, random signs do not."""
    shares = brain()
    network = nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.AvgPool3d(4), nn.Flatten(), nn.Linear(128, 2)
    )
    settings = FedSafe(downlink=False, local_epochs=10, batch_size=5, learning_rate=0.05,
                       retraining=dataclasses.replace(SHORT, share=0.5))  # fmt: skip
    learner = ClassifierLearner(shares, network, settings, 0, CPU)
    weights = play(learner, FedSafeRule.beside(learner, 0), 3)
    trained = learner.network(weights)
    test = shares.test
    right = predicted([trained], test.images, shares.spec) == test.labels
    assert right.float().mean() > 0.7
    rates = {}
    for method in ("pgd", "random"):
        attacked = Evasion(method, eps=0.15, step=0.03)(
            [trained], test.images, test.labels, shares.spec, torch.Generator().manual_seed(0)
        )
        assert (attacked - test.images).abs().max() <= 0.15 * shares.spec.range * 1.0001
        assert 0 <= attacked.min() <= attacked.max() <= 1000
        moved = predicted([trained], attacked, shares.spec) != test.labels
        rates[method] = float((right & moved).sum() / right.sum())
    assert rates["pgd"] > 0.5 > 0.2 > rates["random"]


@pytest.mark.parametrize("settings", [None, {"width": 0.02}])
def test_the_network_keeps_the_contract(settings):
    check(FedSafeCNN, {"width": 0.05} if settings is None else settings)


def test_the_network_is_the_published_one():
    """36,000 features of 100 x 100 pixels, 12,250 of 60 x 60."""
    for side, features in ((100, 36000), (60, 12250)):
        network = FedSafeCNN()(ImageSpec(3, (side, side)), 4, Seeds(0).stream("model"))
        shapes = [tuple(m.weight.shape) for m in network if isinstance(m, nn.Linear)]
        assert shapes == [(64, features), (32, 64), (16, 32), (8, 16), (4, 8)]
        channels = [m.out_channels for m in network if isinstance(m, nn.Conv2d)]
        assert channels == [100, 150, 200, 200, 250, 250]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sigma": -0.1}, "sigma must be 0 or greater"),
        ({"retraining": {"share": 1.2}}, "share .p. must lie from 0 to 1, got 1.2"),
        ({"retraining": {"share": -0.2}}, "share .p. must lie from 0 to 1"),
        ({"uplink": "false"}, "uplink"),
        ({"local_epochs": 0}, "local_epochs must be at least 1"),
        ({"max_update_norm": 0.0}, "max_update_norm must be positive"),
        ({"retraining": {"attack": {"method": "deepest"}}}, "method"),
    ],
)
def test_settings_that_are_refused(settings, words):
    """The text 'false' among them: it is no truth value, as it was in the released flags."""
    with pytest.raises(ConfigError, match=words):
        build_settings(FedSafe, settings, "fedsafe")


def test_a_pool_that_is_too_small():
    learner = learner_of(setup(retraining=dataclasses.replace(WHOLE, share=0.001)))
    with pytest.raises(
        DataError, match=r"retraining pool is too small: a share of 0\.001 of its 300"
    ):
        FedSafeRule.beside(learner, 0)


def test_images_that_do_not_do():
    with pytest.raises(DataError, match="the images have no classes"):
        share_out(("case=brain_mr_3d",), 0, 0.5)
    with pytest.raises(ConfigError, match="pool_share must lie between"):
        build_settings(Setup, {"case": list(CASE), "pool_share": 1.0}, "fedsafe")


def test_too_few_patients_for_pool_and_evaluation():
    with pytest.raises(DataError, match="left for retraining and evaluation, which take at least"):
        share_out((*CASE, "case.data.public_share=0.02"), 0, 0.5)


def test_one_class_only(tmp_path):
    from PIL import Image

    (tmp_path / "tumor").mkdir()
    for k in range(4):
        Image.fromarray(np.eye(16, dtype=np.uint8) * (60 + k)).save(tmp_path / "tumor" / f"{k}.png")
    with pytest.raises(DataError, match="has the one class folder tumor"):
        share_out(("case=my_folder", f"case.data.path={tmp_path}"), 0, 0.5)


def test_a_folder_without_its_file(tmp_path):
    with pytest.raises(ConfigError, match=r"fedsafe\.json is missing or damaged"):
        Setup.read(tmp_path)


def test_labelled_images_by_hand():
    entries = [Entry(lambda: torch.rand(1, 8, 8), f"{k}", f"p{k}", k % 2) for k in range(12)]
    collection = Collection(ImageSpec(1, (8, 8)), entries, ("a", "b"))
    shares = Shares(collection.spec, ("a", "b"), collection, Roles(((0, 1),), (2, 3), (4, 5)))
    assert isinstance(shares.pool, Labelled)
    assert shares.client(0).labels.tolist() == [0, 1]
    assert shares.test.patients.tolist() == [6, 7]  # p4 and p5, in order of their names
