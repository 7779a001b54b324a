"""Planted layers: against breaching's own, and against what the equations promise."""

from dataclasses import replace

import pytest
import torch
from directly import Played, by_breaching, by_medbreach, exchange, our_attack, play
from torch import nn

from medbreach.breaching_bridge import library
from medbreach.case import draw
from medbreach.errors import NotApplicable
from medbreach.models.small_cnn import SmallCNN
from medbreach.protocol import User
from medbreach.randomness import Seeds
from medbreach.recovery import psnr_table
from medbreach.round import play as play_round
from medbreach.servers.breachings_blocks import calibrate
from medbreach.servers.imprint import MaliciousModelServer
from medbreach.servers.modification import Modification
from medbreach.servers.secrets import ImprintSecret
from medbreach.testing.examples import tiny_case, tiny_collection, tiny_exchange, tiny_sample
from medbreach.types import Batch

FORMS = {"2D RGB": ((16, 16), 3), "2D grey": ((16, 16), 1), "3D": ((8, 16, 16), 1)}
each_form = pytest.mark.parametrize(("space", "channels"), FORMS.values(), ids=FORMS)
PLANTED = ImprintSecret("0.linear0.weight", "0.linear0.bias", "cumulative")
BARE = ("breach_padding=false", "breach_reduction=null")  # ours by default


class BinsBetween(nn.Module):
    """A layer whose rows see one record less each: their bins lie between the measurements."""

    def __init__(self, images):
        super().__init__()
        self.shape, pixels = images.shape[1:], images[0].numel()
        direction = torch.randn(pixels, generator=torch.Generator().manual_seed(0)) / pixels**0.5
        measured = (images.flatten(1) @ direction).sort().values
        between = (measured[1:] + measured[:-1]) / 2
        bins = torch.cat([measured[:1] - 1, between, measured[-1:] + 1])
        self.linear0 = nn.Linear(pixels, len(bins))
        self.linear0.weight.data = direction.repeat(len(bins), 1)
        self.linear0.bias.data = -bins
        self.linear2 = nn.Linear(len(bins), pixels)
        self.linear2.weight.data.fill_(0.1)
        self.linear2.bias.data.zero_()

    def forward(self, images):
        rows = self.linear0(images.flatten(1)).relu()
        return self.linear2(rows).unflatten(1, self.shape)


def network(spec):
    return SmallCNN(width=4)(spec, 3, torch.Generator().manual_seed(0))


def nearest(claims, images):
    """Return the greatest difference of each image to the claim that is nearest to it."""
    differences = (claims[None] - images[:, None]).abs().flatten(2).amax(2)
    return differences.min(1).values


@each_form
def test_bins_that_isolate_every_record_give_every_record_away(space, channels):
    sample = tiny_sample(space, channels)
    block = BinsBetween(sample.spec.normalise(sample.decoys[:6]))
    planted = nn.Sequential(block, network(sample.spec)).double()
    played = play(planted, records=6, space=space, channels=channels, secret=PLANTED)
    found = by_medbreach("imprint", played, "impl.dtype=double")
    assert len(found.images) == 6 + 1  # the lowest row saw all of them
    assert nearest(found.images, played.images.float()).max() < 1e-5


@each_form
def test_bins_that_two_records_share_give_their_mixture_away(space, channels):
    sample = tiny_sample(space, channels)
    images = sample.spec.normalise(sample.decoys[:4])
    block = BinsBetween(images)
    measured = (images.flatten(1) @ block.linear0.weight[0]).sort()
    block.linear0.bias.data[1] = block.linear0.bias.data[0]  # no bin between the lowest two
    planted = nn.Sequential(block, network(sample.spec)).double()
    played = play(planted, records=4, space=space, channels=channels, secret=PLANTED)
    found = by_medbreach("imprint", played, "impl.dtype=double").images
    hidden, shown = measured.indices[:2], measured.indices[2:]
    assert nearest(found, played.images[shown].float()).max() < 1e-5
    assert nearest(found, played.images[hidden].float()).min() > 1e-2


def breachings_block(spec, rows=16, **settings):
    with torch.random.fork_rng(devices=[]), library.quiet():
        torch.manual_seed(0)
        return library.modifications.ImprintBlock(spec.shape, rows, gain=1.0, mode=32, **settings)


@pytest.mark.parametrize(
    "settings",
    [BARE, ("breach_padding=true", "breach_reduction=bias"), ("breach_reduction=weight",)],
    ids=str,
)
@pytest.mark.parametrize("records", [1, 5])
def test_readout_is_breachings_in_2d(settings, records):
    spec = tiny_sample((12, 12), 3).spec
    planted = nn.Sequential(breachings_block(spec), network(spec))
    place = {"weight_idx": 0, "bias_idx": 1, "shape": spec.shape, "structure": "cumulative"}
    played = play(planted, records=records, secret=PLANTED, secrets={"ImprintBlock": place})
    images, _ = by_breaching("imprint", played, *settings)
    ours = by_medbreach("imprint", played, *settings)
    torch.testing.assert_close(ours.images, images, atol=1e-6, rtol=0)


def test_the_server_plants_breachings_block():
    spec, public = tiny_sample((12, 12), 3).spec, torch.zeros(0, 3, 12, 12)
    for kind in ("avg", "fourier"):
        chosen = Modification(num_bins=16, linfunc=kind, connection="linear")
        server = MaliciousModelServer(model_modification=chosen)
        sent, secret = server.plant(network(spec), spec, public, torch.Generator())
        theirs = breachings_block(spec, linfunc=kind)
        assert secret == PLANTED
        for name in ("linear0.weight", "linear0.bias", "linear2.weight"):
            assert torch.equal(sent[0].get_parameter(name), theirs.get_parameter(name))
        images = torch.rand(2, 3, 12, 12)
        torch.testing.assert_close(sent[1](images), network(spec)(images))


def planting(kind, **settings):
    return MaliciousModelServer(model_modification=Modification(type=kind, **settings))


def rounds(space, channels, server, records=1, seeds=range(6), **changes):
    """Yield the images of one round a seed, and what the server sees of it."""
    user = User(num_data_points=records)
    case = tiny_case(space, channels, server=server, user=user, **changes)
    for seed in seeds:
        sample = draw(case, tiny_collection(space, channels), Seeds(seed), 9, 20)
        yield sample, play_round(case, sample, (), Seeds(seed), torch.device("cpu"))[0]


@each_form
def test_a_calibrated_layer_gives_every_single_record_away(space, channels):
    """Also records that the network would be sure of, had the layer's output any size."""
    attack = our_attack("imprint")
    for sample, seen in rounds(space, channels, planting("ImprintBlock", calibrate=True)):
        claims = attack(seen, torch.Generator()).images
        assert nearest(claims, sample.truth.images).item() < 1e-3 * sample.spec.range


@each_form
@pytest.mark.parametrize("kind", ["ImprintBlock", "SparseImprintBlock", "CuriousAbandonHonesty"])
def test_what_comes_through_one_row_alone_is_the_record(space, channels, kind):
    """With one record in the round, whatever a block's rows see is that record."""
    attack, shown = our_attack("imprint"), 0
    for sample, seen in rounds(space, channels, planting(kind, num_bins=32)):
        claims = attack(seen, torch.Generator()).images
        difference = (claims - sample.truth.images).abs().flatten(1).amax(1)
        assert difference.le(0.02 * sample.spec.range).all()
        shown += len(claims) > 0
    assert shown  # a row sees a record only if its measurement is in the row's reach


@each_form
def test_one_shot_gets_the_record_whose_measurement_it_was_told(space, channels):
    """One record of four, isolated by two rows around its measurement."""
    attack, isolated = our_attack("imprint"), 0
    plain = planting("OneShotBlock", num_bins=64)
    for seed, (sample, seen) in enumerate(rounds(space, channels, plain, records=4)):
        row = seen.model[0].linear0.weight[0].detach()
        measured = sample.spec.normalise(sample.truth.images).flatten(1) @ row
        told = planting("OneShotBlock", num_bins=64, target_val=float(measured[0]))
        ((sample, seen),) = rounds(space, channels, told, records=4, seeds=[seed])
        low, high = (-seen.model[0].linear0.bias.detach()).tolist()
        if [low <= value < high for value in measured.tolist()] == [True, False, False, False]:
            claims = attack(seen, torch.Generator()).images
            isolated += int(nearest(claims, sample.truth.images[:1]) < 0.02 * sample.spec.range)
    assert isolated


def test_calibration_puts_bins_at_quantiles_and_keeps_the_output_in_range():
    sample = tiny_sample((16, 16), 1)
    public = sample.spec.normalise(sample.public)
    block = breachings_block(sample.spec, rows=10, connection="linear")
    calibrate(block, sample.spec, sample.public, Modification(num_bins=10, connection="linear"))
    measured = public.flatten(1) @ block.linear0.weight[0]
    below = (measured[:, None] < -block.linear0.bias.detach()).double().mean(0)
    torch.testing.assert_close(below, torch.arange(10).double() / 9, atol=0.15, rtol=0)
    outputs = block(public).detach()
    assert outputs.mean().abs() < 1e-4
    assert outputs.flatten(1)[:, 0].std().item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("gain", [0.1, 1.0])
def test_a_calibrated_block_that_is_added_stays_small(gain):
    sample = tiny_sample((16, 16), 1)
    public = sample.spec.normalise(sample.public)
    block = breachings_block(sample.spec, rows=10, connection="addition")
    calibrate(block, sample.spec, sample.public, Modification(num_bins=10, gain=gain))
    added = (block(public) - public).detach().flatten(1)
    assert added.std(1).max() < 1e-5  # one number for all pixels
    larger = max(added[:, 0].std().item(), added[:, 0].mean().item())
    assert larger == pytest.approx(gain, rel=1e-4)


@each_form
def test_calibrated_sparse_rows_see_one_bin_each(space, channels):
    sample = tiny_sample(space, channels)
    server = planting("SparseImprintBlock", num_bins=8, calibrate=True)
    sent, secret = server.plant(network(sample.spec), sample.spec, sample.public, torch.Generator())
    rows = sent[0].linear0(sample.spec.normalise(sample.public).flatten(1)).detach()
    inside = (rows > 0) & (rows < 1)
    assert secret.structure == "sparse"
    assert inside.any(1).all()
    assert inside.sum(1).max() == 1


def test_a_calibrated_one_shot_is_after_one_person_in_so_many():
    sample = tiny_sample((16, 16), 1)
    measured = sample.spec.normalise(sample.public).flatten(1)
    server = planting("OneShotBlock", num_bins=5, calibrate=True, linfunc="avg", target_val=0.1)
    sent, _ = server.plant(
        network(sample.spec), sample.spec, sample.public, torch.Generator().manual_seed(0)
    )
    low, high = (-sent[0].linear0.bias).tolist()
    values = measured @ sent[0].linear0.weight[0].detach()
    assert low <= 0.1 < high
    share = ((values >= low) & (values < high)).double().mean().item()
    assert share == pytest.approx(1 / 5, abs=0.15)


def test_shuffled_rows_are_sorted_where_the_layer_is():
    sample = tiny_sample((12, 12), 3)
    block = BinsBetween(sample.spec.normalise(sample.decoys[:5]))
    order = torch.tensor([3, 0, 4, 1, 5, 2])
    block.linear0.weight.data = block.linear0.weight.data[order]
    block.linear0.bias.data = block.linear0.bias.data[order]
    before = nn.Identity()
    before.unused = nn.Linear(2, 2)  # so that the layer's are not the first parameters
    planted = nn.Sequential(before, block, network(sample.spec)).double()
    place = ImprintSecret("1.linear0.weight", "1.linear0.bias", "cumulative")
    played = played_with_unused_parameters(planted, place)
    found = by_medbreach("imprint", played, "impl.dtype=double", "sort_by_bias=true")
    assert nearest(found.images, played.images.float()).max() < 1e-5
    found = by_medbreach("imprint", played, "impl.dtype=double")
    assert nearest(found.images, played.images.float()).max() > 1e-2


def played_with_unused_parameters(planted, place):
    for parameter in planted[0].parameters():
        parameter.requires_grad_(False)
    trained = [p for p in planted.parameters() if p.requires_grad]
    sample = tiny_sample((12, 12), 3)
    images, labels = sample.decoys[:5].double(), torch.arange(5) % 3
    loss = nn.functional.cross_entropy(planted(sample.spec.normalise(images)), labels)
    gradients = [torch.zeros(2, 2), torch.zeros(2), *torch.autograd.grad(loss, trained)]
    return Played(planted, sample.spec, images, labels, gradients, labels, secret=place)


def test_more_channels_than_three():
    sample = tiny_sample((12, 12), 3)
    images = torch.cat([sample.decoys, sample.decoys.mean(1, keepdim=True)], dim=1)[:4]
    spec = replace(sample.spec, channels=4, mean=(0.5,) * 4, std=(0.2,) * 4)
    block = BinsBetween(spec.normalise(images))
    planted = nn.Sequential(block, network(spec)).double()
    labels = torch.arange(4) % 3
    loss = nn.functional.cross_entropy(planted(spec.normalise(images.double())), labels)
    gradients = list(torch.autograd.grad(loss, list(planted.parameters())))
    played = Played(planted, spec, images, labels, gradients, labels, secret=PLANTED)
    found = by_medbreach("imprint", played, "impl.dtype=double")
    assert nearest(found.images, images).max() < 1e-5


@pytest.mark.parametrize("linked", ["linear", "addition"])
def test_planting_before_a_named_module(linked):
    server = planting("ImprintBlock", calibrate=True, position="0", connection=linked)
    ((sample, seen),) = rounds((12, 12), 3, server, seeds=[0])
    assert seen.secret.weight == "0.0.linear0.weight"
    claims = our_attack("imprint")(seen, torch.Generator()).images
    assert nearest(claims, sample.truth.images).item() < 1e-3


def test_the_number_of_records_is_not_needed():
    user = User(num_data_points=2, provide_num_data_points=False)
    seen = tiny_exchange((12, 12), 3, user=user, server=planting("ImprintBlock", calibrate=True))
    assert seen.update.count is None
    assert len(our_attack("imprint")(seen, torch.Generator()).images) >= 2
    with pytest.raises(NotApplicable, match="need the number of records"):
        our_attack("imprint", "breach_padding=true")(seen, torch.Generator())


@pytest.mark.parametrize(
    ("settings", "space", "message"),
    [
        ({"position": "layer9"}, (12, 12), "no module 'layer9' to plant before: "),
        ({"position": "2"}, (12, 12), "does not take the image"),
    ],
)
def test_a_layer_that_cannot_be_planted(settings, space, message):
    spec = tiny_sample(space, 3).spec
    server = MaliciousModelServer(model_modification=Modification(**settings))
    with pytest.raises(NotApplicable, match=message):
        server.plant(network(spec), spec, torch.zeros(0, 3, *space), torch.Generator())


def test_calibration_needs_public_images():
    spec = tiny_sample((12, 12), 3).spec
    with pytest.raises(NotApplicable, match="has_external_data=true"):
        planting("ImprintBlock", calibrate=True).plant(
            network(spec), spec, torch.zeros(0, 3, 12, 12), torch.Generator()
        )


@pytest.mark.parametrize("settings", [{"model_gain": 2.0}, {"normalize_rounds": 1}])
def test_throughput_is_left_alone(settings):
    with pytest.raises(ValueError, match="model_gain and normalize_rounds"):
        MaliciousModelServer(**settings)


def test_reading_needs_a_planted_layer():
    with pytest.raises(NotApplicable, match="choose a server that plants one"):
        by_medbreach("imprint", play(network(tiny_sample((12, 12), 3).spec)))


@pytest.mark.parametrize("kind", ["ImprintBlock", "QBI", "CuriousAbandonHonesty"])
def test_every_round_is_read_and_a_record_claimed_once(kind):
    """Rows are drawn anew in each round and isolate other records."""
    collection = tiny_collection((16, 16), 3)
    images = collection.images(range(40))
    batch = Batch(images[:12], torch.arange(12) % 2)
    sample = replace(tiny_sample((16, 16), 3), batches=(batch,), clients=(0,), public=images[12:])
    settings = {"linfunc": "randn", "scale_factor": None, "gain": 0.1, "num_bins": 16}
    server = replace(planting(kind, calibrate=True, **settings), num_queries=4)
    case = tiny_case(server=server, user=User(num_data_points=12), model=SmallCNN(width=4))
    (seen,) = play_round(case, sample, (), Seeds(0), torch.device("cpu"))
    attack, shown, claimed = our_attack("imprint"), [], []
    for rounds in (seen.rounds[:1], seen.rounds, seen.rounds[:1] * 2):
        claims = attack(replace(seen, rounds=rounds), torch.Generator()).images
        near = psnr_table(claims, batch.images, sample.spec) >= 60
        shown.append(int(near.any(0).sum()))
        claimed.append(len(claims))
        assert len(rounds) == 1 or near.sum(0).max() <= 1
    assert shown[1] > shown[0] == shown[2]
    assert claimed[2] <= claimed[0]


def test_a_layer_that_clients_do_not_train():
    spec = tiny_sample((12, 12), 3).spec
    played = play(network(spec), secret=PLANTED)
    with pytest.raises(NotApplicable, match="the update holds no change"):
        our_attack("imprint")(exchange(played), torch.Generator())
