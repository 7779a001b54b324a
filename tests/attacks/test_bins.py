"""Bins filled with a few numbers instead of images: what of their records can be told."""

from itertools import product

import pytest
import torch

from medbreach.attacks.addresses import _combinations, _deltas, _possible, peel_combined
from medbreach.attacks.bin_table import SURELY, BinTable, Peeled
from medbreach.attacks.peeling_steps import _peel_single, peel, peel_beside
from medbreach.servers.peeling import PeelingBlock, energies
from medbreach.types import ImageSpec


def bins_by_hand(assigned, images, deltas, rows=3, noise=0.0, rng=None, stray=()):
    """Return the update of a layer whose bins hold what is said.

    Args:
        assigned: For each record, its bin of each measurement.
        images: One flat image a record, whose first entries are its measurements.
        deltas: The records' gradients.
        rows: Number of rows of each measurement.
        noise: Deviation of what is added to the update.
        rng: Draws it.
        stray: Records that half of the time pass into the next bin of the first measurement.
    """
    parts, voxels, measurements = 2, images.shape[1], len(assigned[0])
    block = PeelingBlock((1, 1, voxels), (rows,) * measurements, parts).double()
    block.directions[:, :measurements] = torch.eye(measurements)
    block.ends.copy_((torch.arange(rows) - 0.5).repeat(measurements))
    bins = torch.tensor(assigned) + rows * torch.arange(measurements)
    inside = torch.zeros(len(images), len(block.ends)).double().scatter_(1, bins, 1)
    held = inside.clone()
    for i in stray:
        held[i, assigned[i][0] : assigned[i][0] + 2] = 0.5
    passed = held.unflatten(1, (measurements, rows)).flip(2).cumsum(2).flip(2).flatten(1)
    caused = torch.tensor(deltas).double()[:, None] * passed
    weight = caused.T @ torch.cat([images, energies(images, parts), inside], dim=1)
    bias = caused.sum(0)
    for change in (weight, bias):
        change += noise * torch.randn(change.shape, generator=rng).double()
    spec = ImageSpec(1, (1, voxels), bounds=(-30.0, 30.0))
    return BinTable.of(weight, bias, block, spec, scale=1.0)


def records_in(assigned, seed=0):
    """Return flat images that lie in the bins that are said."""
    images = torch.rand(len(assigned), 12, generator=torch.Generator().manual_seed(seed)).double()
    images[:, : len(assigned[0])] = torch.tensor(assigned).double()
    return images


def test_a_record_alone_in_one_bin_frees_those_that_share_its_other_bins():
    """Three records in a chain: only the first is alone anywhere."""
    assigned = [(0, 0), (1, 0), (1, 1), (2, 1)]
    images, deltas = records_in(assigned), [0.5, -0.2, 0.3, 1e-3]
    table = bins_by_hand(assigned, images, deltas)
    peel(table, 1e-6)
    read = torch.stack([r.image for r in table.peeled])
    order = [int((read - image).square().sum(1).argmin()) for image in images]
    torch.testing.assert_close(read[order], images)
    assert [table.peeled[k].delta for k in order] == pytest.approx(deltas)
    assert float(table.totals.abs().max()) < 1e-12  # nothing is left


def test_records_that_share_every_bin_are_not_claimed():
    """Nor their mixture, whose energy gives it away."""
    assigned = [(0, 0), (1, 1), (1, 1)]
    images = records_in(assigned)
    table = bins_by_hand(assigned, images, [0.5, 0.2, 0.3])
    peel(table, 1e-3)
    assert len(table.peeled) == 1
    torch.testing.assert_close(table.peeled[0].image, images[0])


def test_what_was_read_stays_as_it_is():
    """The images lie side by side in memory, of which there is room for one a row."""
    images = torch.randn(6, 12, generator=torch.Generator().manual_seed(0)).double()
    table = bins_by_hand([(1, 1)] * 6, images, [0.1] * 6)
    for image in images:
        assert not table.full
        table.subtract(Peeled(image, 0.1), [1, 4])
    assert table.full
    torch.testing.assert_close(table.images, images)


@pytest.mark.parametrize("beyond", [-1e-6, 1e-6])
def test_a_record_on_the_end_of_a_bin_is_moved_to_where_it_was(beyond):
    """Rounding sorts it elsewhere than the client did; only with it moved is another one alone."""
    other = 1 if beyond < 0 else 0
    assigned = [(0, other), (1, other), (1, 2), (1, 2)]
    images, deltas = records_in(assigned), [0.5, -0.2, 0.3, 0.4]
    images[0, 1] = 0.5 + beyond  # the client counted it on the other side
    table = bins_by_hand(assigned, images, deltas)
    assert list(table.bins_of(images[0])) == [0, 4 - other]
    peel(table, 1e-6)
    torch.testing.assert_close(table.images, images[:2])
    assert [record.delta for record in table.peeled] == pytest.approx(deltas[:2])
    assert table.totals.tolist() == pytest.approx([0, 0.7, 0, 0, 0, 0.7])


def test_the_doubt_of_a_mixture_is_the_spread_of_what_is_mixed():
    """The energy of a mean falls short of the mean energy by the variance."""
    assigned = [(1, 1), (1, 1)]
    images = records_in(assigned)
    table = bins_by_hand(assigned, images, [0.3, 0.1])
    mean = 0.75 * images[0] + 0.25 * images[1]
    parts = [
        (0.75 * a.square() + 0.25 * b.square() - m.square()).mean().item()
        for a, b, m in zip(images[0].chunk(2), images[1].chunk(2), mean.chunk(2), strict=True)
    ]
    assert table.doubt(1) == pytest.approx(max(parts))


def test_a_bin_that_holds_another_bins_records_and_one_more_gives_that_one_away():
    """No record is alone anywhere; those that share both bins stay hidden."""
    assigned = [(0, 0), (0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (2, 2)]
    images, deltas = records_in(assigned), [0.5, 0.2, 0.3, -0.4, 0.1, 0.6, 0.7]
    table = bins_by_hand(assigned, images, deltas)
    _peel_single(table, range(len(table.totals)), 1e-6)
    assert not table.peeled
    peel(table, 1e-6)
    read = torch.stack([r.image for r in table.peeled])
    wanted = images[2:5]
    torch.testing.assert_close(read[read.sum(1).argsort()], wanted[wanted.sum(1).argsort()])


def test_a_bin_with_a_known_and_an_unknown_record_gives_both_away():
    assigned = [(1, 1), (1, 1), (2, 2), (2, 2)]
    images, deltas = records_in(assigned), [0.5, 0.2, 0.7, 0.1]
    table = bins_by_hand(assigned, images, deltas)
    peel(table, 1e-6)
    assert not table.peeled
    peel_beside(table, [images[0], images[3]], 1e-6)
    found = {tuple(r.image.round(decimals=6).tolist()): r.delta for r in table.peeled}
    wanted = zip(images.round(decimals=6).tolist(), deltas, strict=True)
    assert found == {tuple(image): pytest.approx(delta) for image, delta in wanted}


def test_records_that_another_round_gave_away_are_told_where_they_share_every_bin():
    assigned = [(1, 1)] * 3
    images, deltas = records_in(assigned), [0.5, -0.2, 0.7]
    table = bins_by_hand(assigned, images, deltas)
    peel_beside(table, list(images[[2, 0, 1]]), 1e-6)
    assert [record.delta for record in table.peeled] == pytest.approx([0.7, 0.5, -0.2])
    assert float(table.totals.abs().max()) < 1e-9


def test_two_known_records_beside_an_unknown_one_do_not_help():
    assigned = [(1, 1)] * 3
    images = records_in(assigned)
    table = bins_by_hand(assigned, images, [0.5, -0.2, 0.7])
    peel_beside(table, list(images[:2]), 1e-6)
    assert not table.peeled


def test_a_known_record_beside_two_unknown_ones_does_not_help():
    assigned = [(1, 1)] * 3
    images = records_in(assigned)
    table = bins_by_hand(assigned, images, [0.5, 0.2, 0.7])
    peel_beside(table, [images[0]], 1e-6)
    assert not table.peeled


# Where records lie, and how bins combine to them.


def spread(records, rows, measurements, seed=0):
    """Return a bin of each measurement for each record, its image and its gradient."""
    rng = torch.Generator().manual_seed(seed)
    assigned = torch.randint(rows, (records, measurements), generator=rng)
    deltas = torch.randn(records, generator=rng)
    return list(map(tuple, assigned.tolist())), records_in(assigned.tolist(), seed), deltas.tolist()


def bins_at(place, rows):
    """Return the bins at a place, which counts each measurement's own."""
    return [b + rows * j for j, b in enumerate(place)]


def read_of(table, images):
    """Return which images were read, and how many claims are none of them."""
    apart = (images[:, None] - table.images[None]).abs().amax(2)
    return (apart < 1e-6).any(1), int((apart >= 1e-6).all(0).sum())


def test_records_that_are_alone_nowhere_are_solved_for():
    assigned = [
        (0, 0, 0),
        (0, 1, 1),
        (1, 0, 1),
        (1, 1, 2),
        (2, 2, 0),
        (2, 3, 2),
        (3, 2, 3),
        (3, 3, 3),
    ]
    images = records_in(assigned)
    table = bins_by_hand(assigned, images, torch.linspace(1, 2, 8).tolist(), rows=4)
    _peel_single(table, range(12), 1e-6)
    assert not table.peeled
    peel(table, 1e-6)
    read, false = read_of(table, images)
    assert read.all()
    assert false == 0


def test_records_that_pass_into_the_next_bin_half_of_the_time():
    """What their own two bins tell is wrong; the others tell enough."""
    assigned, images, deltas = spread(56, 20, 4, seed=4)
    stray = [i for i, place in enumerate(assigned) if place[0] < 19][:4]
    table = bins_by_hand(assigned, images, deltas, rows=20, stray=stray)
    peel(table, 1e-9)
    read, false = read_of(table, images)
    assert read.all()
    assert false == 0


@pytest.mark.parametrize("measurements", [2, 3, 4])
def test_what_linear_algebra_allows_is_read(measurements):
    """Records that share every bin count as one, which is not claimed."""
    rows, records = 60 // measurements, 40
    for seed in range(10):
        assigned, images, deltas = spread(records, rows, measurements, seed)
        table = bins_by_hand(assigned, images, deltas, rows)
        peel(table, 1e-9)
        places = sorted(set(assigned))
        holds = torch.zeros(len(places), 60).double()
        holds.scatter_(1, torch.tensor([bins_at(place, rows) for place in places]), 1)
        told = dict(zip(places, (holds @ torch.linalg.pinv(holds)).diagonal() > 0.999, strict=True))
        wanted = [bool(told[place]) and assigned.count(place) == 1 for place in assigned]
        read, false = read_of(table, images)
        assert read.tolist() == wanted
        assert false == 0


def test_addresses_are_those_whose_bins_all_share_a_record():
    assigned, images, deltas = spread(9, 6, 4)
    table = bins_by_hand(assigned, images, deltas, rows=6)
    shared = table.register.abs() > 1e-9
    wanted = [
        place
        for place in product(range(6), range(6, 12), range(12, 18), range(18, 24))
        if all(shared[one, other] for one in place for other in place)
    ]
    found = _possible(shared, table.groups)
    assert sorted(map(tuple, found.tolist())) == wanted
    assert {tuple(bins_at(place, 6)) for place in assigned} <= set(wanted)


def test_the_register_tells_each_gradient():
    assigned, images, deltas = spread(9, 6, 4)
    table = bins_by_hand(assigned, images, deltas, rows=6)
    found = _possible(table.register.abs() > 1e-9, table.groups)
    told_deltas, told = _deltas(table.register, found)
    assert told.all()
    at = dict(zip(map(tuple, found.tolist()), told_deltas.tolist(), strict=True))
    for place, delta in zip(assigned, deltas, strict=True):
        assert at.pop(tuple(bins_at(place, 6))) == pytest.approx(delta)
    assert max(map(abs, at.values()), default=0) < 1e-9


def test_combinations_are_of_what_is_left():
    assigned, images, deltas = spread(14, 8, 3)
    table = bins_by_hand(assigned, images, deltas, rows=8)
    table.subtract(Peeled(images[0], deltas[0]), bins_at(assigned[0], 8))
    left = {tuple(bins_at(place, 8)): k for k, place in enumerate(assigned) if k}
    for address, delta, factors in _combinations(table):
        expected = sum(f * table.content(b) for b, f in enumerate(factors.tolist()))
        torch.testing.assert_close(table.combined(factors), expected)
        record = left.pop(tuple(address))
        assert delta == pytest.approx(deltas[record])
        torch.testing.assert_close(expected / delta, images[record])
    assert len(left) < 3


def test_of_far_too_many_records_none_is_claimed_wrongly():
    assigned, images, deltas = spread(300, 8, 4)
    table = bins_by_hand(assigned, images, deltas, rows=8)
    peel(table, 1e-6)
    assert read_of(table, images)[1] == 0


def test_one_measurement_has_nothing_to_combine():
    assigned, images, deltas = spread(6, 12, 1)
    table = bins_by_hand(assigned, images, deltas, rows=12)
    assert peel_combined(table, 1e-6) == []
    peel(table, 1e-6)
    read, false = read_of(table, images)
    assert read.tolist() == [assigned.count(place) == 1 for place in assigned]
    assert false == 0


@pytest.mark.parametrize("faint", [1e-14, 1e-13, 1e-12])
def test_a_mixture_of_faint_records_is_claimed_in_doubt_if_at_all(faint):
    """Rounding blurs what tells it from one record."""
    images = records_in([(0, 0, 0)] * 3)
    images[1:] = 0.9 * images[1:2] + 0.1 * images[1:]
    images[1:, :3] = 1
    assigned = [(0, 0, 0), (1, 1, 1), (1, 1, 1)]
    table = bins_by_hand(assigned, images, [1, 5 * faint, 4 * faint])
    peel(table, 1e-4)
    assert table.peeled[0].doubt < 1e-4
    assert all(record.doubt > 1e-4 for record in table.peeled[1:])


def test_one_measurement_tells_no_address():
    assigned, images, deltas = spread(6, 12, 1)
    table = bins_by_hand(assigned, images, deltas, rows=12)
    assert not any(table.address(b) for b in range(12))


def test_the_floor_is_noise_that_what_is_told_twice_shows():
    assigned, images, deltas = spread(20, 16, 3)
    exact = bins_by_hand(assigned, images, deltas, rows=16)
    assert not exact.noisy
    rng = torch.Generator().manual_seed(0)
    noisy = bins_by_hand(assigned, images, deltas, rows=16, noise=1e-3, rng=rng)
    assert noisy.noisy
    assert noisy.floor == pytest.approx(SURELY * 1e-3 * 2**0.5, rel=0.1)  # of two rows' difference


def test_under_noise_all_bins_of_a_record_together_tell_it_better_than_one():
    """Of three that hold it alone the noise is less by the root of three."""
    images = records_in([(k, k, k) for k in range(12)])
    rng = torch.Generator().manual_seed(0)
    assigned = [(k, k, k) for k in range(12)]
    table = bins_by_hand(assigned, images, [1.0] * 12, rows=12, noise=1e-3, rng=rng)
    table.scale = float(images.square().mean())
    peel(table, 1e-9)
    order = [int(r.image[0].round()) for r in table.peeled]
    assert sorted(order) == list(range(12))
    deltas = torch.tensor([record.delta for record in table.peeled])
    error = (deltas[:, None] * table.images - images[order]).std()
    assert float(error) == pytest.approx(1e-3 * 2**0.5 / 3**0.5, rel=0.2)
