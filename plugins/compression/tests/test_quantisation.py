"""Quantisation: the values it sends, its noise, and what an attacker makes of it."""

import dataclasses

import pytest
import torch

from medbreach import config, plugins
from medbreach.attacks.known_defenses import KnownDefenses
from medbreach.errors import ConfigError
from medbreach.protocol import User
from medbreach.randomness import Seeds
from medbreach.settings import build
from medbreach.testing import check, tiny_exchange, tiny_sample, tiny_task
from medbreach.training import LocalTrainer
from medbreach_compression import Quantisation


def flat(change):
    return torch.cat([tensor.flatten() for tensor in change.values()])


@pytest.fixture(scope="module")
def bare():
    return tiny_exchange().update.change


@pytest.mark.parametrize(
    "settings", [None, {"kind": "uniform"}, {"kind": "qsgd", "levels": 1}], ids=str
)
def test_it_keeps_the_contract(settings):
    check(Quantisation, settings)


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("quantisation", Quantisation()),
        ("quantisation_int8", Quantisation("uniform")),
    ],
)
def test_medbreach_finds_it_by_name(name, made):
    chosen = config.read_choice("defense", name)
    assert plugins.defenses()["quantisation"] is Quantisation
    assert build(Quantisation, {k: v for k, v in chosen.items() if k != "name"}, "defense") == made


@pytest.mark.parametrize("levels", [1, 16])
def test_qsgd_sends_neighbouring_multiples_of_the_norm(bare, levels):
    sent = tiny_exchange(defenses=[Quantisation(levels=levels)]).update.change
    for name, tensor in bare.items():
        multiples = sent[name].double() * levels / tensor.double().norm()
        assert (multiples - multiples.round()).abs().max() < 1e-4
        distance = (sent[name] - tensor).abs().max() * levels / tensor.norm()
        assert distance < 1 + 1e-4, "an entry goes to one of its two neighbours"


def test_qsgd_has_the_mean_and_the_variance_of_the_source(bare):
    """Unbiased, with the variance that rounding at random has: step^2 f (1 - f)."""
    tensor, task = bare["2.weight"], tiny_task()
    draws = torch.stack([
        Quantisation(levels=4).wrap(LocalTrainer())(with_seed(task, k)).change["2.weight"]
        for k in range(200)
    ])  # fmt: skip
    step = tensor.norm() / 4
    part = (tensor / step) - (tensor / step).floor()
    expected = step.square() * part * (1 - part)
    often = part * (1 - part) * len(draws) > 5  # where the mean is about normal
    error = (draws.mean(0) - tensor)[often] / (expected[often] / len(draws)).sqrt()
    assert often.sum() > 100
    assert abs(error.mean()) < 4 / len(error) ** 0.5
    assert error.square().mean().item() == pytest.approx(1.0, abs=4 * (2 / len(error)) ** 0.5)
    assert draws.var(0).mean().item() == pytest.approx(expected.mean().item(), rel=0.05)
    bound = min(tensor.numel() / 4**2, tensor.numel() ** 0.5 / 4) * tensor.norm() ** 2
    assert draws.var(0).sum() <= bound, "lemma 3.1 of the source"


def with_seed(task, k):
    """Return the same task with other random numbers."""
    return dataclasses.replace(task, rng=Seeds(k).stream("client"))


@pytest.mark.parametrize("bits", [2, 8])
def test_uniform_sends_few_values_and_rounds_to_the_nearest(bare, bits):
    sent = tiny_exchange(defenses=[Quantisation("uniform", bits=bits)]).update.change
    for name, tensor in bare.items():
        assert len(sent[name].unique()) <= 2**bits - 1
        step = tensor.abs().max() / (2 ** (bits - 1) - 1)
        assert (sent[name] - tensor).abs().max() <= 0.5001 * step


@pytest.mark.parametrize("kind", ["qsgd", "uniform"])
def test_zeros_stay_zeros(kind):
    task = tiny_task()
    with torch.no_grad():  # a head of zeros passes no gradient on
        task.model[-1].weight.zero_()
    sent = Quantisation(kind).wrap(LocalTrainer())(task).change
    assert not any(tensor.any() for name, tensor in sent.items() if not name.startswith("7"))
    assert flat(sent).isfinite().all()


@pytest.mark.parametrize("bits", [3, 8])
def test_the_true_images_fit_exactly_once_rounded(bits):
    exchange = tiny_exchange(defenses=[Quantisation("uniform", bits=bits)])
    found, bare = (simulated(exchange, known) for known in (exchange.defenses, ()))
    step = {name: exchange.update.hints[f"quantisation/step/{name}"] for name in found}
    for name, tensor in found.items():
        off = (tensor - exchange.update.change[name]).abs() > 0.1 * step[name]
        assert off.float().mean() < 0.01, "ties aside, which float rounding decides"
    sent = flat(exchange.update.change)
    assert (flat(found) - sent).norm() < 0.3 * (flat(bare) - sent).norm()


def simulated(exchange, defenses):
    records = tiny_sample().batches[0]
    known = KnownDefenses(dataclasses.replace(exchange, defenses=defenses))
    stream = Seeds(0).stream("attack")
    return known.change(exchange.model, records.images, records.labels, stream)


@pytest.mark.parametrize("kind", ["qsgd", "uniform"])
@pytest.mark.parametrize("clients", [1, 2])
def test_the_noise_is_the_error_of_rounding(kind, clients):
    user = {}
    if clients > 1:
        user = {"user": User("multiuser_aggregate", num_data_points=2, provide_labels=True)}
    defense = Quantisation(kind)
    seen = tiny_exchange(defenses=[defense], **user).update
    meant = tiny_exchange(**user).update.change
    near = 1e-4 if clients == 1 else 0.5  # the errors of two clients are nearly independent
    for name, told in defense.noise(seen).items():
        error = (seen.change[name] - meant[name]).square().mean().sqrt().item()
        assert told == pytest.approx(error, rel=near, abs=1e-12), name


def test_a_message_has_one_step_a_tensor():
    assert "only once" in Quantisation().conflict([Quantisation(), Quantisation()])
    assert not Quantisation().conflict([Quantisation()])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"levels": 0}, "levels must be at least 1, got 0"),
        ({"bits": 1}, "bits must lie from 2 to 16, got 1"),
        ({"kind": "int8"}, "defense.kind must be"),
    ],
)
def test_settings_that_make_no_sense(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build(Quantisation, settings, "defense")
