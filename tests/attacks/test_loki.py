"""LOKI: clients whose records share rows, through secure aggregation and local steps."""

from dataclasses import replace

import pytest
import torch

from medbreach.attacks.imprint_readout import ImprintReadout
from medbreach.errors import NotApplicable
from medbreach.models.small_cnn import SmallCNN
from medbreach.protocol import User
from medbreach.randomness import Seeds
from medbreach.recovery import psnr_table
from medbreach.round import play
from medbreach.servers import room
from medbreach.servers.imprint import MaliciousModelServer
from medbreach.servers.loki import EXTRA, LokiSecret, thresholds
from medbreach.servers.modification import Modification
from medbreach.testing import check
from medbreach.testing.examples import tiny_case, tiny_collection, tiny_sample
from medbreach.types import Batch

CPU = torch.device("cpu")
FORMS = {"2D RGB": ((12, 12), 3), "2D grey": ((16, 16), 1), "3D": ((4, 8, 8), 1)}
each_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
CLIENTS, RECORDS = 3, 8
LOKI = Modification(type="LOKI", num_bins=64, num_clients=CLIENTS, measurements=1)
FED = Modification(num_bins=64, calibrate=True, linfunc="avg", connection="addition")
ONE_STEP = {"num_local_updates": 1}
STEPS = {"num_local_updates": 4, "num_data_per_local_update_step": 2}


def mirrored(form):
    """A sample whose clients have the same records, mirrored along another axis each.

    A mirrored image has the same mean, so each record shares its row with two of other clients.
    """
    space, channels = form
    images = tiny_collection(space, channels).images(range(40))
    own = images[:RECORDS]
    labels = torch.arange(RECORDS) % 2
    batches = tuple(Batch(x, labels) for x in (own, own.flip(-1), own.flip(-2)))
    sample = tiny_sample(space, channels)
    return replace(sample, batches=batches, clients=tuple(range(CLIENTS)), public=images[RECORDS:])


def seen(sample, planted=LOKI, queries=1, **user):
    """What the server sees of a round with secure aggregation."""
    user = {"num_data_points": len(sample.batches[0].labels)} | (user or ONE_STEP)
    case = tiny_case(
        user=User(user_type="multiuser_aggregate", user_range=(0, len(sample.batches)), **user),
        server=MaliciousModelServer(model_modification=planted, num_queries=queries),
        model=SmallCNN(width=4),
    )
    (exchange,) = play(case, sample, (), Seeds(0), CPU)
    return exchange


def read(exchange):
    return ImprintReadout()(exchange, torch.Generator()).images


def rows_of(exchange, images):
    """The row of each image, by hand; the layer is the first module."""
    block, spec = exchange.model[0], exchange.spec
    weight = block.weights[0][:, :-EXTRA] * block.scaling
    measured = spec.normalise(images).flatten(1) @ weight.T + block.bias
    opened = (measured > 0) & (measured < 1)
    assert opened.sum(1).eq(1).all()
    return opened.long().argmax(1).tolist()


def isolated(rows, per_step):
    """Which records are the first in their row, and alone in it in that step."""
    steps = [k // per_step for k in range(len(rows))]
    firsts = {row: steps[rows.index(row)] for row in rows}
    there = list(zip(rows, steps, strict=True))
    return [
        k for k, (row, step) in enumerate(there)
        if step == firsts[row] and there.count((row, step)) == 1
    ]  # fmt: skip


def nearest(claims, images):
    """The greatest difference of each image to the claim that is nearest to it."""
    differences = (claims[None] - images[:, None]).abs().flatten(2).amax(2)
    return differences.amin(1) if len(claims) else torch.full((len(images),), torch.inf)


def shown_and_hidden(sample, exchange, per_step):
    """Records that must come out, and those that must not; the same of each client."""
    alone = isolated(rows_of(exchange, sample.batches[0].images), per_step)
    shared = [k for k in range(RECORDS) if k not in alone]
    assert len(alone) >= 4  # else the test says little
    images = [b.images for b in sample.batches]
    return (torch.cat([x[k] for x in images]) for k in (alone, shared))


@each_form
def test_clients_that_share_rows_do_not_mix(form):
    sample = mirrored(form)
    exchange = seen(sample)
    shown, hidden = shown_and_hidden(sample, exchange, RECORDS)
    claims = read(exchange)
    assert len(claims) == len(shown)
    assert nearest(claims, shown).max() < 1e-4 * sample.spec.range
    if len(hidden):
        assert nearest(claims, hidden).min() > 1e-2 * sample.spec.range


@each_form
def test_robbing_the_fed_mixes_them(form):
    sample = mirrored(form)
    claims = read(seen(sample, FED))
    assert len(claims)
    assert nearest(claims, sample.truth.images).min() > 1e-2 * sample.spec.range


@each_form
def test_records_of_different_local_steps_do_not_mix(form):
    sample = mirrored(form)
    exchange = seen(sample, **STEPS)
    shown, hidden = shown_and_hidden(sample, exchange, 2)
    claims = read(exchange)
    assert len(claims) == len(shown)
    assert nearest(claims, shown).max() < 1e-3 * sample.spec.range
    if len(hidden):
        assert nearest(claims, hidden).min() > 1e-2 * sample.spec.range


def one_client_with(images, sample):
    labels = torch.arange(len(images)) % 2
    return replace(sample, batches=(Batch(images, labels),), clients=(0,))


@each_form
def test_a_row_closes_behind_the_record_that_came_through(form):
    """Its mirror image, which would come through the same row, comes in the next step."""
    sample = mirrored(form)
    first = sample.batches[0].images[:1]
    pair = one_client_with(torch.cat([first, first.flip(-1)]), sample)
    steps = {"num_local_updates": 2, "num_data_per_local_update_step": 1}
    claims = read(seen(pair, **steps))
    assert len(claims) == 1
    assert nearest(claims, first) < 1e-3 * sample.spec.range
    mixed = seen(pair, replace(LOKI, scaling=1.0), **steps)
    change = mixed.update.change[mixed.secret.weight(0)]
    opened = change[change[:, -EXTRA] != 0]
    assert len(opened) == 1
    quotient = opened[:, :-EXTRA] / opened[:, -EXTRA, None] * mixed.secret.constant
    image = sample.spec.denormalise(quotient.reshape(1, *sample.spec.shape))
    assert nearest(image, first) > 1e-2 * sample.spec.range


@each_form
def test_a_mixture_is_told_from_a_record(form):
    """Both in one step: the quotient looks like an image, but its energy does not fit."""
    sample = mirrored(form)
    first = sample.batches[0].images[:1]
    pair = one_client_with(torch.cat([first, first.flip(-1)]), sample)
    exchange = seen(pair)
    assert exchange.update.change[exchange.secret.weight(0)].any()
    assert len(read(exchange)) == 0


@each_form
def test_a_client_beyond_the_sets_shares_one(form):
    sample = mirrored(form)
    two = seen(sample, replace(LOKI, num_clients=2))
    shown, _ = shown_and_hidden(sample, two, RECORDS)
    each = len(shown) // CLIENTS
    differences = nearest(read(two), shown).div(sample.spec.range).split(each)
    assert differences[1].max() < 1e-4
    for shared in (differences[0], differences[2]):
        assert shared.min() > 1e-4
        assert shared.median() > 1e-2  # all but those that mix with a gradient of nearly zero


def test_several_measurements_and_rounds_claim_a_record_once():
    """The second round has the same mean intensity, and other random measurements."""
    sample = mirrored(FORMS["2D RGB"])
    first = one_client_with(sample.batches[0].images[:1], sample)
    planted = replace(LOKI, num_bins=48, measurements=4)
    exchange = seen(first, planted, queries=2)
    assert not torch.equal(*[one.model[0].weights[0] for one in exchange.rounds])
    changes = [one.update.change["0.weights.0"][:, -EXTRA] for one in exchange.rounds]
    assert [int((change != 0).sum()) for change in changes] == [4, 4]
    claims = read(exchange)
    assert len(claims) == 1
    assert nearest(claims, first.truth.images) < 1e-4


def test_more_measurements_isolate_more_records():
    sample = mirrored(FORMS["2D RGB"])
    everyone = torch.cat([x.images for x in sample.batches])  # each three times, but for mirroring
    found = []
    for count in (1, 3):
        planted = replace(LOKI, num_bins=96, measurements=count)
        claims = read(seen(one_client_with(everyone, sample), planted))
        found.append(int((nearest(claims, everyone) < 1e-3).sum()))
        assert len(claims) == found[-1]
    assert found[0] == 0
    assert found[1] >= 16


def test_noise_makes_no_claims_of_rows_that_nothing_came_through():
    sample = mirrored(FORMS["2D grey"])
    exchange = seen(sample)
    shown, _ = shown_and_hidden(sample, exchange, RECORDS)
    clean = exchange.update.change
    typical = max(clean[f"0.weights.{k}"][:, :-EXTRA].std() for k in range(CLIENTS))
    rng = torch.Generator().manual_seed(0)
    noisy = {n: g + 0.01 * typical * torch.randn(g.shape, generator=rng) for n, g in clean.items()}
    (only,) = exchange.rounds
    one = replace(only, update=replace(only.update, change=noisy))
    claims = read(replace(exchange, rounds=(one,)))
    assert len(shown) / 2 <= len(claims) <= CLIENTS * RECORDS


def test_confidence_falls_with_noise():
    """What has a confidence near 1 is a record, and without noise everything claimed has."""
    sample = mirrored(FORMS["2D RGB"])
    exchange = seen(sample, replace(LOKI, num_bins=96))
    clean, (only,) = exchange.rounds[0].update.change, exchange.rounds
    typical = max(clean[f"0.weights.{k}"][:, :-EXTRA].std() for k in range(CLIENTS))
    mean, right = [], []
    for size in (0.0, 0.001, 0.01, 0.1, 0.3):
        rng = torch.Generator().manual_seed(0)
        noisy = {
            n: g + size * typical * torch.randn(g.shape, generator=rng) for n, g in clean.items()
        }
        one = replace(only, update=replace(only.update, change=noisy))
        claims = ImprintReadout()(replace(exchange, rounds=(one,)), torch.Generator())
        best = psnr_table(claims.images, sample.truth.images, sample.spec).max(1).values
        mean.append(claims.confidence.mean().item())
        right.append((best[claims.confidence > 0.9] >= 30).tolist())
        assert claims.confidence[best < 25].lt(0.75).all()
    assert mean[0] > 0.99
    assert mean == sorted(mean, reverse=True)
    assert mean[-1] < 0.75
    assert all(map(all, right))


def test_an_update_of_nothing_but_zeros():
    exchange = seen(mirrored(FORMS["3D"]))
    (only,) = exchange.rounds
    change = {n: torch.zeros_like(g) for n, g in only.update.change.items()}
    one = replace(only, update=replace(only.update, change=change))
    assert len(read(replace(exchange, rounds=(one,)))) == 0


def test_a_layer_that_clients_do_not_train():
    exchange = seen(mirrored(FORMS["3D"]))
    (only,) = exchange.rounds
    change = {n: g for n, g in only.update.change.items() if not n.startswith("0.weights")}
    one = replace(only, update=replace(only.update, change=change))
    with pytest.raises(NotApplicable, match=r"no change of 0\.weights\.0"):
        read(replace(exchange, rounds=(one,)))


# What is planted and sent.


def planted(modification=LOKI, public=None):
    sample = mirrored(FORMS["2D grey"])
    network = SmallCNN(width=4)(sample.spec, 2, torch.Generator().manual_seed(0))
    public = sample.public if public is None else public
    server = MaliciousModelServer(model_modification=modification)
    return server, server.plant(network, sample.spec, public, torch.Generator().manual_seed(0))


def test_clients_get_networks_that_differ_in_their_kernels_only():
    server, made = planted()
    assert made.secret == LokiSecret("0", CLIENTS, made.secret.constant)
    kernels = made.model[0].kernels.clone()
    sent = [server.send(made, k) for k in range(CLIENTS + 1)]
    assert sent[0] is made.model
    assert torch.equal(made.model[0].kernels, kernels)
    for k, network in enumerate(sent):
        assert all(a is b for a, b in zip(network.parameters(), sent[0].parameters(), strict=True))
        used = network[0].kernels.flatten(1).any(1).nonzero().flatten().tolist()
        assert used == [k % CLIENTS]


def test_the_image_is_hardly_changed():
    """What is added is the share of rows that the record has passed, at most the gain."""
    _, made = planted(replace(LOKI, gain=0.1))
    images = torch.randn(5, 1, 16, 16)
    added = made.model[0](images) - images
    assert added.flatten(1).std(1).max() < 1e-6
    assert added.min() > -1e-6
    assert added.max() < 0.1 + 1e-6


def test_planting_before_a_named_module():
    sample = mirrored(FORMS["2D RGB"])
    exchange = seen(sample, replace(LOKI, position="0"))
    assert exchange.secret.block == "0.0"
    assert len(read(exchange)) >= 12


def test_rows_are_open_equally_often():
    """More equally than between quantiles of the sample, for new values of the population."""
    rng = torch.Generator().manual_seed(0)
    normal = torch.distributions.Normal(3.0, 2.0)
    sample = 3 + 2 * torch.randn(200, generator=rng)
    ends = thresholds(sample, 100)
    plain = sample.quantile(torch.linspace(0, 1, 101))
    chances = [normal.cdf(values).diff() for values in (ends, plain)]
    collisions, without_smoothing = (float(p.square().sum()) for p in chances)
    assert collisions < 1.15 / 100
    assert without_smoothing > 1.25 / 100
    assert chances[0].sum() > 0.9999


def test_thresholds_rise_where_public_images_are_all_the_same():
    ends = thresholds(torch.full((5,), 0.25), 8)
    assert ends.diff().min() > 0
    assert ends.isfinite().all()


def test_bins_need_public_images():
    with pytest.raises(NotApplicable, match="has_external_data=true"):
        planted(public=torch.zeros(1, 1, 16, 16))


def test_memory_is_checked_before_it_is_taken(monkeypatch):
    monkeypatch.setattr(room, "available_memory", lambda: 10**6)
    with pytest.raises(NotApplicable, match=r"LOKI with 64 rows for 3 clients has 0\.0 GiB"):
        planted()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_clients": 0}, "num_clients must be at least 1, got 0"),
        ({"scaling": 0.0}, "scaling must be positive"),
        ({"measurements": 33}, "num_bins must be at least 66, two a measurement, got 64"),
        ({"measurements": 0}, "measurements must be at least 1"),
    ],
)
def test_settings_that_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        replace(LOKI, **settings)


def test_the_contract():
    settings = {"type": "LOKI", "num_bins": 30, "num_clients": 2, "measurements": 2}
    check(MaliciousModelServer, {"model_modification": settings})
    server = MaliciousModelServer(model_modification=Modification(**settings))
    check(ImprintReadout, server=server)
