"""OASIS: its copies, what planted rows give with it, and what an attacker makes of it."""

from dataclasses import replace

import pytest
import torch

from medbreach import Batch, Defense, Guarantee, choices, config, plugins
from medbreach.attacks.known_defenses import KnownDefenses
from medbreach.components import mean_gradient
from medbreach.errors import ConfigError
from medbreach.protocol import User
from medbreach.randomness import Seeds
from medbreach.settings import build
from medbreach.testing import check, tiny_exchange, tiny_sample, tiny_task
from medbreach_augmentation import Oasis
from medbreach_augmentation.copies import rotated, sheared

FORMS = [((16, 16), 3), ((8, 16, 16), 1)]
STEPS = User(
    "local_update", num_data_points=2, num_local_updates=2, num_data_per_local_update_step=1,
    local_learning_rate=0.1, provide_labels=True, provide_local_hyperparams=True,
)  # fmt: skip


def images(space=(16, 16), channels=3):
    return tiny_sample(space, channels).batches[0].images


@pytest.mark.parametrize(
    "settings", [None, {"shears": []}, {"rotations": False, "flips": True, "shears": [-0.3]}],
    ids=str,
)  # fmt: skip
def test_it_keeps_the_contract(settings):
    check(Oasis, settings)


def test_medbreach_finds_it_by_name():
    chosen = config.read_choice("defense", "oasis")
    assert plugins.defenses()["oasis"] is Oasis
    assert build(Oasis, {k: v for k, v in chosen.items() if k != "name"}, "defense") == Oasis()
    assert "oasis_rotations" in choices.names("defense")


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_quarter_turns_are_exact_and_in_the_plane(form):
    whole = images(*form)
    once = rotated(whole, 1)
    assert torch.equal(once, whole.transpose(-1, -2).flip(-2))
    assert torch.equal(rotated(once, 3), whole)
    assert torch.equal(rotated(whole, 2), whole.flip(-1).flip(-2))
    means = whole.flatten(1).mean(1), once.flatten(1).mean(1)
    assert torch.allclose(*means), "a turn keeps the mean brightness"


@pytest.mark.parametrize("space", [(16, 12), (8, 16, 12)], ids=str)
def test_turned_oblongs_are_resampled_to_their_size(space):
    """Linear ramps stay linear ramps, so that is easy to tell."""
    ramp = torch.linspace(0, 1, space[-1]).expand(1, 2, *space)
    turned = rotated(ramp, 1)
    assert turned.shape == ramp.shape
    down = turned[0, 0].reshape(-1, *space[-2:])[0]
    assert torch.allclose(down, down[:, :1].expand_as(down)), "constant along each row"
    assert down[0, 0] > 0.95
    assert down[-1, 0] < 0.05
    assert torch.equal(rotated(ramp, 2), ramp.flip(-1)), "half a turn needs no resampling"


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_shear_moves_rows_by_whole_pixels_where_the_factor_says_so(form):
    """Shearing by 2 moves each row by an odd number of pixels: an independent computation."""
    whole = images(*form)
    found = sheared(whole, 2.0, background=-1.0)
    near = 1e-4 * whole.abs().max().item()
    for row in range(16):
        shift = 2 * row - 15  # rows above the middle move one way, those below it the other
        for column in range(16):
            old = column + shift
            expected = whole[..., row, old] if 0 <= old < 16 else torch.full((), -1.0)
            assert torch.allclose(found[..., row, column], expected, atol=near), (row, column)


def test_a_shear_by_nothing_changes_nothing():
    assert torch.allclose(sheared(images(), 0.0, 0.0), images(), atol=1e-5)


def test_the_step_is_the_mean_over_records_and_copies():
    task = tiny_task()
    defense = Oasis(flips=True, shears=(0.5, -0.5))
    parts = [task.batch.images]
    parts += [torch.rot90(parts[0], k, dims=(-2, -1)) for k in (1, 2, 3)]
    parts += [parts[0].flip(-1), parts[0].flip(-2)]
    parts += [sheared(parts[0], factor, task.spec.bounds[0]) for factor in (0.5, -0.5)]
    each = [mean_gradient(task, Batch(part, task.batch.labels)) for part in parts]
    found = defense.step(mean_gradient)(task, task.batch)
    for name, tensor in found.items():
        expected = sum(gradient[name] for gradient in each) / len(each)
        assert torch.allclose(tensor, expected, atol=1e-6)


def test_the_client_does_not_tell_of_copies():
    seen = tiny_exchange(defenses=[Oasis()]).update
    assert seen.count == 2
    assert torch.equal(seen.labels, tiny_sample().batches[0].labels.sort().values)


@pytest.mark.parametrize("user", [None, STEPS], ids=["gradient", "local steps"])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_true_images_fit_for_who_knows_it(user, form):
    changes = {} if user is None else {"user": user}
    exchange = tiny_exchange(*form, defenses=[Oasis()], **changes)
    records = tiny_sample(*form, **changes).batches[0]
    found, bare = (
        KnownDefenses(replace(exchange, defenses=known)).change(
            exchange.model, records.images, records.labels, Seeds(0).stream("attack")
        )
        for known in (exchange.defenses, ())
    )
    off = {
        name: (distance(found, exchange, name), distance(bare, exchange, name)) for name in found
    }
    assert max(knowing for knowing, _ in off.values()) < 1e-6
    assert max(not_knowing for _, not_knowing in off.values()) > 1e-4


def distance(found, exchange, name):
    return (found[name] - exchange.update.change[name]).abs().max().item()


class Counting(Defense):
    """Bounds each record of a step, and claims a guarantee for it."""

    name = "counting"
    source = "test"

    def step(self, gradient):
        return gradient

    def guarantee(self, work):
        return Guarantee(1.0, 0.0, "record", "add or remove one", 1, "test")


def test_it_must_not_be_around_what_counts_records():
    inner, oasis = Counting(), Oasis()
    assert "put oasis before it" in oasis.conflict([inner, oasis])
    assert not oasis.conflict([oasis, inner])
    assert not oasis.conflict([oasis, oasis])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"rotations": False, "shears": []}, "oasis adds no copies"),
        ({"shears": [0.0]}, "shears must lie from -2 to 2 and not be 0"),
        ({"shears": [3.0]}, "shears must lie from -2 to 2"),
        ({"angles": [90]}, "defense has no key 'angles'"),
    ],
)
def test_settings_that_make_no_sense(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build(Oasis, settings, "defense")
