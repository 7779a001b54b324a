"""Each clause of the contract catches a component that breaks it, with a sentence that says how."""

import random
import subprocess
import sys
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from medbreach import (
    Attack,
    Collection,
    Dataset,
    Defense,
    Metric,
    Model,
    NotApplicable,
    Planted,
    Reconstruction,
    Refused,
    Server,
    mean_update,
)
from medbreach.testing import Form, check, tiny_collection, tiny_exchange, tiny_task
from medbreach.types import Exchange

SMALL = [Form((8, 8), 1)]


def broken(component, sentence, **options):
    options = {} if issubclass(component, Dataset) else {"forms": SMALL} | options
    with pytest.raises(AssertionError) as failure:
        check(component, **options)
    assert sentence in str(failure.value)
    assert "\n" not in str(failure.value)


@dataclass(frozen=True)
class Public(Attack):
    """Claim public images."""

    name: ClassVar[str] = "public"
    source: ClassVar[str] = "medbreach"
    blind: ClassVar[bool] = True

    def run(self, exchange, rng):
        if not len(exchange.public):
            raise NotApplicable("no public images")
        return Reconstruction(exchange.public[:1])


@dataclass(frozen=True)
class Half(Defense):
    """Halve the update."""

    name: ClassVar[str] = "half"
    source: ClassVar[str] = "medbreach"

    def wrap(self, train):
        def trained(task):
            update = train(task)
            return replace(update, change={n: self.halve(g) for n, g in update.change.items()})

        return trained

    def halve(self, tensor):
        return tensor / 2


@dataclass(frozen=True)
class Error(Metric):
    """Mean absolute error."""

    name: ClassVar[str] = "error"
    source: ClassVar[str] = "medbreach"
    unit: ClassVar[str] = "image unit"
    better: ClassVar[str] = "lower"

    def run(self, claim, truth, spec):
        return (claim - truth).abs().flatten(1).mean(1)


@dataclass(frozen=True)
class Tiny(Dataset):
    """Tiny images."""

    name: ClassVar[str] = "tiny"
    source: ClassVar[str] = "medbreach"
    licence: ClassVar[str] = "MIT"

    def open(self):
        return tiny_collection((8, 8), 1)


@dataclass(frozen=True)
class Flat(Model):
    """A linear layer."""

    name: ClassVar[str] = "flat"
    source: ClassVar[str] = "medbreach"

    def build(self, spec, classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(64 * spec.channels, classes))


@dataclass(frozen=True)
class Plain(Server):
    """Send the network as it is."""

    name: ClassVar[str] = "plain"
    source: ClassVar[str] = "medbreach"


@pytest.mark.parametrize("component", [Public, Half, Error, Flat, Plain])
def test_components_that_keep_it_pass(component):
    check(component, forms=SMALL)


def test_a_data_set_that_keeps_it_passes():
    check(Tiny)


# What a component says of itself.


def test_a_class_of_no_kind():
    with pytest.raises(AssertionError, match="derive it from one of them"):
        check(Collection)


def test_not_a_dataclass():
    class Loose(Half):
        """Halve the update."""

    broken(Loose, "Loose is no frozen dataclass")


def test_not_frozen():
    @dataclass
    class Loose(Error.__bases__[0]):
        """Mean error."""

        def run(self, claim, truth, spec): ...

    broken(Loose, "Loose is no frozen dataclass")


@pytest.mark.parametrize("name", ["", "two words", "a+b", None])
def test_a_name_that_no_setting_could_hold(name):
    broken(
        dataclass(frozen=True)(type("Named", (Half,), {"name": name, "__doc__": "Halve."})), "name"
    )


def test_no_source():
    @dataclass(frozen=True)
    class Anonymous(Half):
        """Halve the update."""

        source: ClassVar[str] = ""

    broken(Anonymous, "half does not say where it comes from")


def test_no_docstring():
    @dataclass(frozen=True)
    class Silent(Half):
        factor: float = 2.0

    broken(Silent, "half has no docstring")


def test_an_undocumented_setting():
    @dataclass(frozen=True)
    class Silent(Half):
        """Halve the update.

        Attributes:
            other: Something else.
        """

        factor: float = 2.0

    broken(Silent, "the setting factor is not documented")


def test_a_setting_without_default():
    @dataclass(frozen=True)
    class Needy(Half):
        """Divide the update.

        Attributes:
            factor: What to divide it by.
        """

        factor: float

    broken(Needy, "half with its defaults: settings.factor is not set")
    check(Needy, {"factor": 2.0}, forms=SMALL)


def test_a_setting_that_a_record_cannot_hold():
    @dataclass(frozen=True)
    class Odd(Half):
        """Halve the update.

        Attributes:
            part: A network.
        """

        part: nn.Module = field(default_factory=lambda: nn.Linear(1, 1))

    broken(Odd, "half with its defaults")


# What a component does with what it is given.


def variant(base, **methods):
    """A component that differs from a sound one by some methods."""
    body = {"__doc__": base.__doc__, **methods}
    return dataclass(frozen=True)(type(f"Broken{base.__name__}", (base,), body))


def use(generator):
    def halve(self, tensor):
        generator()
        return tensor / 2

    return halve


@pytest.mark.parametrize(
    ("generator", "whose"),
    [
        (lambda: torch.rand(1), "torch's"),
        (lambda: np.random.rand(), "NumPy's"),  # noqa: NPY002
    ],
)
def test_global_randomness(generator, whose):
    broken(variant(Half, halve=use(generator)), f"uses {whose} global random generator")


def test_pythons_global_randomness():
    """In a process of its own, since checked types draw from that generator here."""
    code = (
        "import random\n"
        "from medbreach.testing.guard import repeatable\n"
        "repeatable('it', lambda: random.random() * 0)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "AssertionError: it uses Python's global random generator" in ran.stderr


def test_results_that_hang_on_pythons_global_randomness():
    found = variant(Half, halve=lambda self, tensor: tensor * random.random())
    broken(found, "does not return the same change.0.weight again with the same seed")


def test_the_global_generator_read_in_secret():
    def halve(self, tensor):
        with torch.random.fork_rng(devices=[]):
            return tensor * torch.rand(1)

    broken(variant(Half, halve=halve), "does not return the same")


def test_global_generators_are_put_back_after_a_failure():
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    broken(variant(Half, halve=use(lambda: torch.rand(1))), "uses torch's")
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


def test_a_crash_is_a_failure_and_names_the_images():
    def run(self, claim, truth, spec):
        raise ValueError("oh\nno")

    broken(variant(Error, run=run), "error on 8 x 8 grey images raised ValueError: oh no")


@pytest.mark.parametrize("base", [Public, Error])
def test_never_applicable(base):
    def run(self, *_):
        raise NotApplicable("never mind")

    broken(variant(base, run=run), "applies to none of the images that it was tried on: 8 x 8")


# Attacks.


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        (lambda self, e, rng: Reconstruction(torch.zeros(1, 1, 4, 4)), "images of shape (1, 4, 4)"),
        (lambda self, e, rng: Reconstruction(e.public[:1] / 0), "not finite"),
        (lambda self, e, rng: e.public, "no Reconstruction"),
        (lambda self, e, rng: Reconstruction(e.public[:1], torch.tensor([7])), "from 0 to 1"),
        (
            lambda self, e, rng: Reconstruction(e.public[:1], None, torch.tensor([2.0])),
            "outside 0 to 1",
        ),
        (lambda self, e, rng: Reconstruction(e.public[:1].sub_(0.1)), "its input exchange.public"),
        (
            lambda self, e, rng: (e.update.change["0.weight"].mul_(2), Reconstruction(e.public))[1],
            "its input exchange.rounds[0].update.change.0.weight",
        ),
        (
            lambda self, e, rng: Reconstruction(e.public[: len(e.update.labels)]),
            "without labels raised TypeError",
        ),
    ],
)
def test_attacks(run, sentence):
    broken(variant(Public, run=run), sentence)


def test_an_attack_that_spoils_the_network():
    def run(self, exchange, rng):
        with torch.no_grad():
            exchange.model[0].weight.zero_()
        return Reconstruction(exchange.public[:1])

    broken(variant(Public, run=run), "its input exchange.rounds[0].model 0.weight")


def test_needs_that_nobody_can_reveal():
    broken(variant(Public, needs=frozenset({"images"})), "needs must hold members of Reveals")


# Servers.


def plants(change):
    def plant(self, model, spec, public, rng):
        return change(model)

    return variant(Server if change is None else Plain, plant=plant)


def test_a_server_that_changes_the_network_in_secret():
    def zero(model):
        nn.init.zeros_(model[0].weight)
        return Planted(model)

    broken(plants(zero), "say malicious: ClassVar[bool] = True")


def test_a_server_that_returns_a_bare_network():
    broken(plants(lambda model: model), "plant must return Planted(model, secret)")


def test_a_server_whose_network_has_other_outputs():
    server = plants(lambda model: Planted(model[:-2]))
    broken(replace_class(server, malicious=True), "does not give one finite output a class")


def replace_class(component, **attributes):
    return variant(component, **attributes)


# Defenses.


def test_a_defense_that_changes_the_records():
    def wrap(self, train):
        def trained(task):
            task.batch.images.mul_(0.5)
            return train(task)

        return trained

    broken(variant(Half, wrap=wrap), "changes its input batch.images")


def test_a_defense_that_changes_what_the_server_sent():
    def vet(self, model, spec):
        nn.init.zeros_(model[0].weight)

    broken(variant(Half, vet=vet), "changes its input network 0.weight")


@pytest.mark.parametrize(
    ("halve", "sentence"),
    [
        (lambda self, tensor: tensor.flatten(), "names and shapes of the network's parameters"),
        (lambda self, tensor: tensor / 0, "the update is not finite"),
    ],
)
def test_defenses(halve, sentence):
    broken(variant(Half, halve=halve), sentence)


def test_a_defense_that_sends_parameters_in_another_order():
    def wrap(self, train):
        def trained(task):
            update = train(task)
            return replace(update, change=dict(reversed(update.change.items())))

        return trained

    broken(variant(Half, wrap=wrap), "names and shapes of the network's parameters, in order")


@pytest.mark.parametrize("base", [Public, Error])
def test_only_a_defense_may_refuse(base):
    def run(self, *_):
        raise Refused("I will not")

    broken(variant(base, run=run), "I will not")


def test_a_defense_that_returns_no_update():
    broken(variant(Half, wrap=lambda self, train: lambda task: None), "must return an Update")


def test_a_defense_whose_aggregate_has_other_shapes():
    def aggregate(self, updates):
        return [replace(u, change={n: g[:1] for n, g in u.change.items()}) for u in updates]

    broken(
        variant(Half, aggregate=aggregate),
        "half returned an update of other shapes",
    )


def test_a_defense_that_refuses_everything():
    def vet(self, model, spec):
        raise Refused("no")

    broken(variant(Half, vet=vet), "half applies to none of the images")


def test_a_defense_of_several_clients_that_stands_alone_passes():
    @dataclass(frozen=True)
    class Summing(Half):
        """Sum what several clients send."""

        def aggregate(self, updates):
            if len(updates) < 2:
                raise NotApplicable("there is one client")
            return [mean_update(updates)]

        def conflict(self, stack):
            return "sums what there is" if len(stack) > 1 else ""

    check(Summing, forms=SMALL)
    broken(variant(Summing, noise=lambda self, seen: -1.0), "noise returns a standard deviation")
    broken(variant(Summing, conflict=lambda self, stack: ""), "applies to none of the images")


# Metrics.


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        (lambda self, c, t, s: (c - t).abs().mean(), "returned no number for each of 4 records"),
        (lambda self, c, t, s: (c - t).flatten(1).mean(1) * torch.nan, "returned no number"),
        (lambda self, c, t, s: -(c - t).abs().flatten(1).mean(1), "says lower is better, but"),
        (
            lambda self, c, t, s: (c - t).abs().flatten(1).mean(1) / (c - t).abs().max(),
            "",
        ),
        (lambda self, c, t, s: c.sub_(t).abs().flatten(1).mean(1), "changes its input claim"),
    ],
)
def test_metrics(run, sentence):
    broken(variant(Error, run=run), sentence)


def test_a_metric_without_unit():
    broken(variant(Error, unit=""), "error has no unit")


def test_a_score_that_depends_on_other_records():
    def run(self, claim, truth, spec):
        error = (claim - truth).abs().flatten(1).mean(1)
        return error - error.min() + error * 1e-3

    broken(variant(Error, run=run), "a record's score depends on the other records")


# Data sets.


def opened(**changes):
    return variant(Tiny, open=lambda self: replace(tiny_collection((8, 8), 1), **changes))


def test_a_data_set_without_terms():
    broken(variant(Tiny, licence=""), "tiny does not tell the images' terms")


def test_a_data_set_of_one_patient():
    entries = [replace(e, patient="me") for e in tiny_collection((8, 8), 1).entries]
    broken(opened(entries=entries), "one patient cannot be dealt")


def test_a_data_set_whose_patients_are_not_known():
    entries = [replace(e, patient="") for e in tiny_collection((8, 8), 1).entries]
    broken(opened(entries=entries), "has no patient")


def test_a_data_set_with_a_wrong_spec():
    spec = tiny_collection((8, 8), 1).spec
    broken(
        opened(spec=replace(spec, space=(4, 4), spacing=None)),
        "has shape (1, 8, 8), the others (1, 4, 4)",
    )
    broken(opened(spec=replace(spec, bounds=(0.0, 65535.0))), "is their unit right?")


def test_a_data_set_in_another_order_each_time():
    def shuffled(self):
        collection = tiny_collection((8, 8), 1)
        return replace(collection, entries=random.sample(collection.entries, 40))

    broken(variant(Tiny, open=shuffled), "does not return the same entries[0]")


def test_a_data_set_that_is_not_here():
    away = variant(Tiny, missing=classmethod(lambda cls: "fetch it first"))
    broken(away, "tiny is not here to be checked: fetch it first")


# Models.


class Logarithm(nn.Module):
    def forward(self, images):
        return (images - images.amin()).log().flatten(1)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (
            lambda self, s, c: nn.Sequential(nn.Flatten(), nn.Linear(64, c + 1)),
            "one output a class",
        ),
        (lambda self, s, c: nn.Sequential(Logarithm(), nn.Linear(64, c)), "not finite"),
        (lambda self, s, c: nn.Sequential(nn.Flatten(), nn.Linear(63, c)), "takes none of the"),
        (lambda self, s, c: nn.Sequential(nn.AdaptiveAvgPool2d((1, c)), nn.Flatten()), "train"),
        (
            lambda self, s, c: nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, c)),
            "changes its input images",
        ),
        (
            lambda self, s, c: nn.Sequential(
                nn.Flatten(), nn.Dropout(), nn.Linear(64, c), nn.Linear(c, c).requires_grad_(False)
            ),
            "",
        ),
    ],
)
def test_models(build, sentence):
    if sentence:
        broken(variant(Flat, build=build), sentence)
    else:
        check(variant(Flat, build=build), forms=SMALL)


# What plugin authors borrow.


@pytest.mark.parametrize(("space", "channels"), [((16, 16), 3), ((12, 20), 1), ((8, 8, 8), 1)])
def test_a_tiny_exchange_is_of_real_images(space, channels):
    exchange = tiny_exchange(space, channels)
    assert isinstance(exchange, Exchange)
    assert exchange.spec.shape == (channels, *space)
    images = exchange.public
    steps = torch.cat([images.diff(dim=axis).flatten() for axis in range(2, images.ndim)])
    assert steps.std() < 0.8 * images.std() * 2**0.5, "neighbours are alike, unlike in noise"


def test_tiny_images_that_do_not_exist():
    with pytest.raises(ValueError, match="of 1 channel in 2D and 3D and of 3 in 2D, not 3 in 3D"):
        tiny_collection((8, 8, 8), 3)


def test_a_tiny_task_gives_the_exchange():
    from medbreach.training import LocalTrainer

    update = LocalTrainer()(tiny_task((8, 8), 1))
    seen = tiny_exchange((8, 8), 1).update
    assert all(torch.equal(update.change[n], g) for n, g in seen.change.items())


def test_pytest_is_not_needed():
    code = "import sys, medbreach.testing; sys.exit('pytest' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
