"""A fishing last layer: against breaching's, and against what the equations promise."""

import importlib
import math
from dataclasses import replace

import pytest
import torch
from directly import our_attack
from torch import nn

from medbreach.attacks.catches import land
from medbreach.errors import NotApplicable
from medbreach.models.small_cnn import SmallCNN
from medbreach.models.user_network import UserNetwork
from medbreach.protocol import LocalNoise, User
from medbreach.servers.fishing import FishingSecret, FishingServer, spread_net
from medbreach.servers.honest_but_curious import HonestServer
from medbreach.testing.examples import tiny_exchange, tiny_sample
from medbreach.types import Exchange, Round, Update

FORMS = {"2D": ((12, 12), 3), "3D": ((4, 8, 12), 1)}
each_form = pytest.mark.parametrize(("space", "channels"), FORMS.values(), ids=FORMS)
ROW, BIAS = "7.weight", "7.bias"
"""The last layer's parameters in the network below, which has three classes."""

TARGET, STEEP = 1, 1e4


def network(spec):
    return SmallCNN(width=8)(spec, 3, torch.Generator().manual_seed(0)).double()


def some(space, channels, records=6):
    """Return what is known of some images, and the images, normalised."""
    sample = tiny_sample(space, channels)
    return sample.spec, sample.spec.normalise(sample.decoys[:records].double())


def inputs_of_last(model, images):
    return model[:7](images).detach()


def feature_of(model, images):
    """Return the target's own logit in units of its deviation: weights, and values, rising."""
    direction = model[7].weight[TARGET].detach().clone()
    values = inputs_of_last(model, images) @ direction
    return direction / values.std(), values / values.std()


def fishing(spec, images, rank):
    """Return a network cut so that ``rank`` of the images have a greater feature, and secret."""
    model = network(spec)
    direction, values = feature_of(model, images)
    edges = torch.cat([values.max()[None] + 1, values.sort(descending=True).values])
    cut = float(edges[rank] + torch.cat([edges, edges[-1:] - 1])[rank + 1]) / 2
    secret = FishingSecret("7", TARGET, direction, cut, STEEP)
    spread_net(model[7], secret)
    return model, secret


def gradient(model, images, labels):
    return gradient_of(model, nn.functional.cross_entropy(model(images), torch.tensor(labels)))


def gradient_of(model, value):
    names = [name for name, _ in model.named_parameters()]
    found = torch.autograd.grad(value, list(model.parameters()), materialize_grads=True)
    return dict(zip(names, found, strict=True))


def feature_gradient(spec, images, record):
    """Return the gradient of one record's feature by the parameters before the last layer."""
    model = network(spec)
    direction, _ = feature_of(model, images)
    found = gradient_of(model, model[:7](images[record : record + 1])[0] @ direction)
    return {name: g for name, g in found.items() if name not in (ROW, BIAS)}


def of_target(change):
    """Return an update without the rows of other classes, which tell of all records."""
    return {name: g[TARGET] if name in (ROW, BIAS) else g for name, g in change.items()}


def assert_equal(found, expected, tolerance=1e-6):
    """Compare to within a share of the largest entry."""
    for name, wanted in expected.items():
        atol = tolerance * float(wanted.abs().max())
        assert atol > 0
        torch.testing.assert_close(found[name], wanted, rtol=0, atol=atol)


# What one round, and the difference of two, hold.


@each_form
def test_class_fishing_leaves_the_one_record_of_its_class(space, channels):
    spec, images = some(space, channels)
    server = FishingServer(target_cls_idx=TARGET, expected_records=1)
    sent, secret = server.plant(network(spec), spec, images[:0], torch.Generator())
    assert math.isinf(secret.cut)
    update = gradient(sent, images, [0, 2, TARGET, 0, 2, 2])
    alone = gradient(sent, images[2:3], [TARGET])
    assert_equal(of_target(update), of_target({name: g / 6 for name, g in alone.items()}))


@each_form
def test_a_cut_between_the_top_two_leaves_one_record_of_a_class(space, channels):
    spec, images = some(space, channels)
    sent, _ = fishing(spec, images, rank=1)
    top = int(feature_of(network(spec), images)[1].argmax())
    update = gradient(sent, images, [TARGET] * 6)
    alone = gradient(sent, images[top : top + 1], [TARGET])
    assert_equal(update, {name: g / 6 for name, g in alone.items()})
    assert update[BIAS][TARGET].item() == pytest.approx(-1 / 6, rel=1e-6)


@each_form
def test_two_rounds_differ_by_the_records_between_their_cuts_of_any_class(space, channels):
    spec, images = some(space, channels)
    third = int(feature_of(network(spec), images)[1].argsort(descending=True)[2])
    expected = feature_gradient(spec, images, third)
    for label in range(3):
        labels = [0, 1, 2, 1, 0, 2]
        labels[third] = label
        high, low = (gradient(fishing(spec, images, r)[0], images, labels) for r in (2, 3))
        difference = {name: high[name] - low[name] for name in high}
        assert_equal(difference, {name: -STEEP / 6 * g for name, g in expected.items()})
        assert difference[BIAS][TARGET].item() == pytest.approx(1 / 6, rel=1e-6)


def test_a_cut_feature_is_breachings():
    """breaching cuts one feature too; it has the sign as a setting, and no calibration."""
    spec, images = some((12, 12), 3)
    sent, secret = FishingServer(target_cls_idx=TARGET, feature=5).plant(
        network(spec), spec, spec.denormalise(images), torch.Generator().manual_seed(0)
    )
    deviation = inputs_of_last(network(spec), images)[:, 5].std()
    torch.testing.assert_close(secret.direction[5], 1 / deviation)
    theirs = importlib.import_module("breaching.cases.malicious_modifications.classattack_utils")
    words = {
        "cls_to_obtain": TARGET,
        "feat_to_obtain": 5,
        "feat_value": secret.cut * float(deviation),
        "multiplier": 300 / float(deviation),
        "db_flip": -1,
        "extra_b": math.log(2),
    }
    model = network(spec)
    theirs.reconfigure_class_parameter_attack(model, network(spec), "feature_attack", words)
    for name, value in model.named_parameters():
        torch.testing.assert_close(sent.get_parameter(name), value)


# What the server sends.


@each_form
def test_only_the_last_layer_changes(space, channels):
    sample = tiny_sample(space, channels)
    honest = SmallCNN(width=8)(sample.spec, 3, torch.Generator().manual_seed(0))
    before = {name: value.clone() for name, value in honest.state_dict().items()}
    sent, _ = FishingServer().plant(honest, sample.spec, sample.public, torch.Generator())
    assert [n for n, v in sent.state_dict().items() if not torch.equal(v, before[n])] == [ROW, BIAS]


def test_cuts_lie_where_few_of_the_expected_records_are_beyond():
    sample = tiny_sample((12, 12), 3)
    model = SmallCNN(width=8)(sample.spec, 3, torch.Generator().manual_seed(0))
    inputs = inputs_of_last(model, sample.spec.normalise(sample.public))
    beyond = []
    for seed in range(40):
        server, rng = FishingServer(expected_records=8), torch.Generator().manual_seed(seed)
        fresh = SmallCNN(width=8)(sample.spec, 3, torch.Generator().manual_seed(0))
        _, secret = server.plant(fresh, sample.spec, sample.public, rng)
        share = (inputs @ secret.direction > secret.cut).double().mean().item()
        beyond.append(8 * share)
    assert max(beyond) <= 2
    assert 0.5 < sum(beyond) / len(beyond) < 1.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"opt_on_avg_grad": True}, "opt_on_avg_grad=true is not supported"),
        ({"feat_multiplier": 0.0}, "feat_multiplier must be positive"),
        ({"expected_records": 0}, "expected_records must be at least 1"),
        ({"target_cls_idx": -1}, "target_cls_idx must not be negative"),
        ({"feature": -1}, "feature must not be negative"),
    ],
)
def test_a_wrong_setting(settings, message):
    with pytest.raises(ValueError, match=message):
        FishingServer(**settings)


def without_bias(spec):
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(spec.shape), 3, bias=False))


def probabilities(spec):
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(spec.shape), 3), nn.LogSoftmax(1))


def one_output(spec):
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(spec.shape), 1))


@pytest.mark.parametrize(
    ("build", "settings", "message"),
    [
        (without_bias, {}, "does not end in one"),
        (probabilities, {}, "does not end in one"),
        (one_output, {}, "has 1 outputs"),
        (network, {"target_cls_idx": 3}, "target_cls_idx is 3, but .* 3 outputs"),
        (network, {"feature": 72}, "feature is 72, but .* 72 inputs"),
    ],
)
def test_a_network_that_cannot_fish(build, settings, message):
    sample = tiny_sample((12, 12), 3)
    with pytest.raises(NotApplicable, match=message):
        FishingServer(**settings).plant(
            build(sample.spec), sample.spec, sample.public, torch.Generator()
        )


def test_a_feature_that_is_always_the_same():
    sample = tiny_sample((12, 12), 3)
    model = network(sample.spec)
    with torch.no_grad():
        model[4].bias.fill_(-1e6)  # no ReLU after it fires
    with pytest.raises(NotApplicable, match="same for all public images"):
        FishingServer().plant(model, sample.spec, sample.public, torch.Generator())


def test_a_last_layer_of_zeros_gets_a_feature_all_the_same():
    sample = tiny_sample((12, 12), 3)
    model = network(sample.spec)
    nn.init.zeros_(model[7].weight)
    secrets = [
        FishingServer().plant(model, sample.spec, sample.public, torch.Generator())[1]
        for _ in range(2)
    ]
    assert secrets[0].direction.count_nonzero() == 72


def test_a_cut_needs_public_images():
    spec, images = some((12, 12), 3)
    with pytest.raises(NotApplicable, match=r"has_external_data=true, or .*expected_records=1"):
        FishingServer().plant(network(spec), spec, images[:0], torch.Generator())


# What the attack reads.


def seen(space=(12, 12), channels=3, queries=12, **changes):
    """Return what the server sees of rounds over six records, and the records."""
    user = changes.pop("user", User(num_data_points=6, provide_labels=True))
    server = FishingServer(num_queries=queries, expected_records=6)
    kept = {"user": user, "server": server, "model": SmallCNN(width=8), **changes}
    records = tiny_sample(space, channels, **kept).truth
    return tiny_exchange(space, channels, **kept), records


def record_of(exchange, catch, records):
    """Return which record's features a catch has."""
    inputs = inputs_of_last(
        exchange.model, exchange.spec.normalise(records.images).to(catch.features)
    )
    distances = (inputs - catch.features).norm(dim=1) / catch.features.norm()
    assert distances.min() < 1e-2
    return int(distances.argmin())


@each_form
def test_what_is_caught_is_one_records_feature_gradient(space, channels):
    exchange, records = seen(space, channels)
    caught = land(exchange, 1)
    assert len(caught) > 1
    found = [record_of(exchange, catch, records) for catch in caught]
    assert len(set(found)) == len(found)
    for record, catch in zip(found, caught, strict=True):
        assert catch.sure
        model = exchange.model
        inputs = exchange.spec.normalise(records.images[record : record + 1])
        value = model[:7](inputs)[0] @ catch.above.secret.direction
        for name, expected in gradient_of(model, value).items():
            if name not in (ROW, BIAS) and catch.records > 0.9:
                assert_equal({name: catch.mean_gradient(name)}, {name: expected}, tolerance=0.02)


def test_one_round_gives_the_record_whose_class_no_other_has():
    """Alone in its class, or the only one of another class; the labels are revealed."""
    for target in range(3):
        server = FishingServer(target_cls_idx=target, expected_records=1)
        exchange, records = seen(server=server)
        caught = land(exchange, 6)
        members = records.labels.eq(target)
        assert sum(round(catch.records) for catch in caught) == members.sum()
        if members.sum() == 1:
            assert record_of(exchange, caught[0], records) == int(members.nonzero())
            assert (caught[0].label, caught[0].sure) == (target, True)


def as_seen(spec, images, labels, ranks, /, **withheld):
    """Return rounds with cuts below the greatest features."""
    told = {"labels": torch.tensor(labels), "count": len(labels)} | withheld
    rounds = []
    for rank in ranks:
        sent, secret = fishing(spec, images, rank)
        update = Update(gradient(sent, images, labels), **told)
        rounds.append(Round(sent, update, secret=secret))
    public = spec.denormalise(images[:0]).float()
    return Exchange(spec, 3, nn.CrossEntropyLoss(), tuple(rounds), public)


OTHERS = [0, 2, 0, 2, 0, 2]


@pytest.mark.parametrize(
    ("labels", "rank", "place", "label"),
    [
        ([TARGET] * 6, 1, 0, TARGET),  # above the cut: all are of the target class
        (OTHERS, 5, 5, None),  # below it: none is
        ([0] * 6, 5, 5, 0),
    ],
)
@pytest.mark.parametrize("withheld", [{}, {"labels": None}], ids=["labels", "no labels"])
def test_one_round_with_a_cut(labels, rank, place, label, withheld):
    spec, images = some((12, 12), 3)
    (catch,) = land(as_seen(spec, images, labels, [rank], **withheld), 1)
    expected = int(feature_of(network(spec), images)[1].argsort(descending=True)[place])
    wanted = inputs_of_last(network(spec), images)[expected]
    torch.testing.assert_close(catch.features, wanted, rtol=1e-4, atol=1e-6)
    assert catch.sure == (not withheld)
    assert catch.label == (label if not withheld or label == TARGET else None)


@pytest.mark.parametrize("withheld", [{}, {"labels": None}], ids=["labels", "no labels"])
def test_a_round_that_mixes_both_sides_of_its_cut_is_left(withheld):
    """Three below the cut, two of the target class beyond it: the weights add up to 1."""
    spec, images = some((12, 12), 3)
    order = feature_of(network(spec), images)[1].argsort(descending=True).tolist()
    labels = [0] * 6
    labels[order[0]] = labels[order[1]] = TARGET
    exchange = as_seen(spec, images, labels, [3], **withheld)
    assert exchange.update.change[BIAS][TARGET].item() == pytest.approx(1 / 6, rel=1e-6)
    caught = land(exchange, 1)
    assert not caught or (withheld and not caught[0].sure)


def test_more_records_at_once_if_asked_for():
    spec, images = some((12, 12), 3)
    exchange = as_seen(spec, images, [0, 1, 2, 0, 1, 2], [1, 2, 5])
    assert [round(catch.records, 3) for catch in land(exchange, 1)] == [1.0]
    assert [round(catch.records, 3) for catch in land(exchange, 3)] == [1.0, 3.0]


def test_a_record_that_two_rounds_show_is_claimed_once():
    spec, images = some((12, 12), 3)
    again = as_seen(spec, images, [TARGET] * 6, [1, 1, 2])
    assert len(land(again, 1)) == 2  # the top record and the next


def test_without_the_number_of_records_the_lightest_catch_counts_as_one():
    spec, images = some((12, 12), 3)
    exchange = as_seen(spec, images, [0, 1, 2, 0, 1, 2], [1, 2, 5], count=None, labels=None)
    caught = land(exchange, 3)
    assert sorted(round(catch.records, 3) for catch in caught)[:2] == [1.0, 3.0]
    assert not any(catch.sure for catch in caught)


@pytest.mark.parametrize("told", [True, False])
def test_one_local_step_is_a_gradient(told):
    """In double precision: a small change of large weights has few digits."""
    user = User(num_data_points=6, provide_labels=True)
    step = replace(user, user_type="local_update", num_local_updates=1)
    step = replace(step, provide_local_hyperparams=told)
    exchange, records = seen(user=step, dtype=torch.float64)
    plain, _ = seen(user=user, dtype=torch.float64)
    assert exchange.update.kind != plain.update.kind
    found = {record_of(exchange, catch, records) for catch in land(exchange, 1)}
    assert found >= {record_of(plain, catch, records) for catch in land(plain, 1)}


def test_several_clients_updates_are_one_sum():
    clients = User(
        user_type="multiuser_aggregate", num_data_points=3, user_range=(0, 2), provide_labels=True
    )
    exchange, records = seen(user=clients)
    assert len(records.labels) == exchange.update.count == 6
    caught = land(exchange, 1)
    assert caught
    assert len({record_of(exchange, catch, records) for catch in caught}) == len(caught)


def test_noise_that_drowns_the_cut_leaves_little_to_claim():
    noise = LocalNoise(gradient_noise=10.0)
    exchange, _ = seen(user=User(num_data_points=6, local_diff_privacy=noise))
    clear, _ = seen()
    assert len(land(exchange, 1)) < len(land(clear, 1))


# What it cannot read.


def test_several_local_steps():
    user = User(
        num_data_points=6,
        user_type="local_update",
        num_local_updates=2,
        provide_local_hyperparams=True,
    )
    with pytest.raises(NotApplicable, match="several local steps"):
        land(seen(user=user)[0], 1)


@pytest.mark.parametrize("name", ["batchnorm", "attention"])
def test_records_that_the_clients_mix(name, request):
    networks = request.config.rootpath / "tests" / "attacks" / "networks.py"
    server = FishingServer(num_queries=2, provide_public_buffers=False)
    exchange, _ = seen(server=server, model=UserNetwork(networks, name))
    with pytest.raises(NotApplicable, match="provide_public_buffers=true"):
        land(exchange, 1)


def test_an_honest_server():
    exchange, _ = seen(server=HonestServer())
    with pytest.raises(NotApplicable, match="case/server=malicious-fishing"):
        our_attack("clsattack")(exchange, torch.Generator())


def test_a_layer_that_clients_do_not_train():
    exchange, _ = seen()
    frozen = {name: g for name, g in exchange.update.change.items() if name != BIAS}
    rounds = tuple(replace(r, update=replace(r.update, change=frozen)) for r in exchange.rounds)
    with pytest.raises(NotApplicable, match=r"no change of 7\.weight and its bias"):
        land(replace(exchange, rounds=rounds), 1)


# What it reconstructs.


@each_form
def test_what_is_caught_is_reconstructed(space, channels):
    exchange, records = seen(space, channels)
    attack = our_attack("clsattack", "optim.max_iterations=300", "max_records=1")
    claims = attack(exchange, torch.Generator().manual_seed(0))
    differences = (claims.images[:, None] - records.images[None]).square().flatten(2).mean(2)
    psnr = -10 * (differences.amin(1) / exchange.spec.range**2).log10()
    assert len(psnr) == len(land(exchange, 1)) > 1
    assert psnr.max() > 25
    assert claims.confidence[psnr.argmax()] > 0.9


def test_claims_of_one_class_have_its_label():
    user = User(num_data_points=3, provide_labels=True)
    server = FishingServer(target_cls_idx=0, expected_records=1)
    exchange, records = seen(user=user, server=server)
    attack = our_attack("clsattack", "optim.max_iterations=2", "max_records=3")
    claims = attack(exchange, torch.Generator())
    assert claims.labels.tolist() == [0] * int(records.labels.eq(0).sum())


def test_a_network_that_is_one_linear_layer_shows_its_input():
    """There is no layer before it: the last one's input is the image."""
    sample = tiny_sample((12, 12), 3)
    images = sample.spec.normalise(sample.decoys[:2].double())
    model = nn.Sequential(nn.Flatten(), nn.Linear(432, 3)).double()
    server = FishingServer(target_cls_idx=TARGET, expected_records=1)
    sent, secret = server.plant(model, sample.spec, images[:0], torch.Generator())
    update = Update(gradient(sent, images, [0, TARGET]), labels=torch.tensor([0, TARGET]), count=2)
    exchange = Exchange(
        sample.spec, 3, nn.CrossEntropyLoss(), (Round(sent, update, secret=secret),), sample.public
    )
    (catch,) = land(exchange, 1)
    torch.testing.assert_close(catch.features, images[1].flatten())
    few = ("optim.max_iterations=300", "regularization=null", "optim.warmup=0")
    claims = our_attack("clsattack", *few)(exchange, torch.Generator())
    assert (claims.images - sample.decoys[1:2]).abs().mean() < 0.02
