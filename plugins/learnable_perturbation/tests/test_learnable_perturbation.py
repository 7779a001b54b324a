"""The defense: what is sent, what is kept, what is learned, and what an attacker makes of it."""

import copy
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import nn

from medbreach import (
    Batch,
    ClientTask,
    Defense,
    ModelError,
    NotApplicable,
    Seeds,
    choices,
    config,
    mean_gradient,
    plugins,
    trainable,
)
from medbreach.attacks.known_defenses import KnownDefenses
from medbreach.audit import audit
from medbreach.errors import ConfigError
from medbreach.models.mlp import MLP
from medbreach.protocol import User
from medbreach.session import prepare
from medbreach.settings import build
from medbreach.testing import check, tiny_exchange, tiny_task
from medbreach_learnable_perturbation import (
    LearnablePerturbation,
    PerturbationConvNet,
    mismatch,
)
from medbreach_learnable_perturbation.correlation import correlation
from medbreach_learnable_perturbation.decoder import decoder_for
from medbreach_learnable_perturbation.latent import find_latent, perturbed
from medbreach_learnable_perturbation.learnable_perturbation import MEAN, MEMORY, STD

CPU = torch.device("cpu")
QUICK = LearnablePerturbation(pretrain_epochs=2)
FIXED = LearnablePerturbation(kind="fixed", mean=0.1)
SHIFT = LearnablePerturbation(kind="fixed", std=0.0, correlation_weight=0.0)


def decoder_of(memory, form=((16, 16), 3)):
    """The decoder that a client keeps."""
    task = tiny_task(*form)
    decoder = decoder_for(find_latent(task.model, task.spec).shape, task.spec)
    decoder.load_state_dict(memory[MEMORY]["decoder"])
    return decoder


def sent(defense, task):
    """Return the gradient that a client sends, and what it keeps."""
    memory = {}
    return defense.step(mean_gradient)(replace(task, memory=memory), task.batch), memory


@pytest.mark.parametrize(
    "settings",
    [
        {"pretrain_epochs": 1, "pretrain_records": 8},
        {"kind": "fixed"},
        {"kind": "fixed", "std": 0, "correlation_weight": 0},
    ],
    ids=str,
)
def test_it_keeps_the_contract(settings):
    check(LearnablePerturbation, settings)


def test_medbreach_finds_it_by_name():
    assert plugins.defenses()["learnable_perturbation"] is LearnablePerturbation
    assert plugins.models()["perturbation_convnet"] is PerturbationConvNet
    files = {"learnable_perturbation", "learnable_perturbation_fixed"}
    assert files <= set(choices.names("defense"))


@pytest.mark.parametrize(
    ("file", "made"),
    [
        ("learnable_perturbation", LearnablePerturbation()),
        ("learnable_perturbation_fixed", FIXED),
        ("learnable_perturbation_small_mean", LearnablePerturbation(mean=0.1)),
    ],
)
def test_the_files_say_what_the_class_does(file, made):
    chosen = config.read_choice("defense", file)
    settings = {k: v for k, v in chosen.items() if k != "name"}
    assert build(LearnablePerturbation, settings, "defense") == made


# What is sent.


@pytest.mark.parametrize("form", [((16, 16), 3), ((8, 16, 16), 1)], ids=str)
def test_the_update_is_that_of_the_network_alone(form):
    exchange = tiny_exchange(*form, defenses=[QUICK])
    assert list(exchange.update.change) == list(trainable(exchange.model))
    latent = (8, *(side // 4 for side in form[0]))
    assert {k: tuple(v.shape) for k, v in exchange.update.hints.items()} == {
        MEAN: latent, STD: latent
    }  # fmt: skip


def test_the_gradient_is_that_of_equation_three():
    """Against the equation, by hand: the head's layers and the decoder that the client keeps."""
    task = tiny_task()
    weight = 3.0
    change, memory = sent(replace(FIXED, std=0.0, correlation_weight=weight), task)
    inputs = task.spec.normalise(task.batch.images)
    latents = task.model[:6](inputs) + 0.1
    guesses = decoder_of(memory)(latents)
    loss = nn.functional.cross_entropy(task.model[6:](latents), task.batch.labels)
    loss = loss + weight * correlation(inputs, guesses).mean()
    expected = torch.autograd.grad(loss, list(task.model.parameters()))
    for found, wanted in zip(change.values(), expected, strict=True):
        assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-6)


def test_without_noise_and_decoder_nothing_changes():
    task = tiny_task()
    change, _ = sent(replace(SHIFT, mean=0.0), task)
    for name, gradient in mean_gradient(task, task.batch).items():
        assert torch.equal(change[name], gradient)


def test_noise_is_drawn_anew_in_each_step():
    task = replace(tiny_task(), memory={})
    step = replace(FIXED, correlation_weight=0.0).step(mean_gradient)
    first, second = (step(task, task.batch)["7.weight"] for _ in range(2))
    assert not torch.equal(first, second)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in task.model.modules())


# What is kept.


def test_the_client_keeps_its_noise_and_goes_on_with_its_decoder():
    memory = {}
    task = replace(tiny_task(), memory=memory)
    step = QUICK.step(mean_gradient)
    step(task, task.batch)
    before = copy.deepcopy(memory[MEMORY])
    step(replace(task, model=copy.deepcopy(task.model)), task.batch)
    after = memory[MEMORY]
    assert torch.equal(after["mean"], before["mean"])
    assert not torch.equal(after["decoder"]["1.weight"], before["decoder"]["1.weight"])


def test_the_memory_can_be_kept_on_disk(tmp_path):
    """A round after reading it back is the round that would have followed."""
    task = replace(tiny_task(), memory={})
    QUICK.step(mean_gradient)(task, task.batch)
    torch.save(task.memory, tmp_path / "memory")
    read = torch.load(tmp_path / "memory", weights_only=True)
    changes = []
    for memory in (task.memory, read):
        again = replace(
            task, memory=memory, model=copy.deepcopy(task.model), rng=Seeds(1).stream("next")
        )
        step = QUICK.step(mean_gradient)
        changes.append([step(again, task.batch) for _ in range(2)][-1])
    for name, change in changes[0].items():
        assert torch.allclose(change, changes[1][name], atol=1e-7), name


def test_the_trained_network_is_used_with_its_noise():
    task = replace(tiny_task(), memory={})
    images = task.spec.normalise(task.batch.images)
    FIXED.wrap(lambda own: tiny_exchange().update)(task)
    shifted = replace(FIXED, std=0.0)
    shifted.wrap(lambda own: tiny_exchange().update)(replace(task, memory=(still := {})))
    by_hand = task.model[6:](task.model[:6](images) + 0.1)
    deployed = shifted.deploy(copy.deepcopy(task.model), still, Seeds(0).stream("deploy"))
    assert torch.allclose(deployed(images), by_hand, atol=1e-6)
    noisy = FIXED.deploy(copy.deepcopy(task.model), task.memory, Seeds(0).stream("deploy"))
    assert not torch.equal(noisy(images), noisy(images))


def test_noise_is_learned_before_the_first_round_from_copies():
    task = replace(tiny_task(), memory={})
    before = copy.deepcopy(task.model.state_dict())
    sent_without = replace(tiny_exchange().update, hints={"else": torch.ones(1)})
    update = QUICK.wrap(lambda own: sent_without)(task)
    assert all(torch.equal(before[k], v) for k, v in task.model.state_dict().items())
    assert set(update.hints) == {"else", MEAN, STD}
    assert (update.hints[MEAN] - 1).abs().mean() > 0.01
    assert (update.hints[STD] - 0.1).abs().mean() > 0.001
    assert (update.hints[STD] > 0).all()


def test_a_client_without_other_records_learns_from_those_of_the_round():
    task = tiny_task((8, 16, 16), 1)
    alone = ClientTask(**{k: v for k, v in vars(task).items() if k not in ("others", "memory")})
    one = Batch(task.batch.images[:1], task.batch.labels[:1])
    _, memory = sent(QUICK, replace(alone, batch=one))
    assert (memory[MEMORY]["mean"] - 1).abs().max() > 0.005


# What is learned.


def trained(weight, steps=60):
    """Train a network by the defense's steps; return the decoder's correlation at each step."""
    task = replace(tiny_task(), memory={})
    others = task.others(18)
    batch = Batch(others.images, others.labels)
    defense = replace(FIXED, correlation_weight=weight, decoder_lr=3e-3)
    step = defense.step(mean_gradient)
    optimizer = torch.optim.Adam(task.model.parameters(), 3e-3)
    seen = []
    for _ in range(steps):
        for name, gradient in step(task, batch).items():
            task.model.get_parameter(name).grad = gradient
        optimizer.step()
        layer = task.memory[MEMORY]["layer"]
        with torch.no_grad(), perturbed(task.model, layer, lambda z: z + 0.1) as passed:
            task.model(task.spec.normalise(batch.images))
            guesses = decoder_of(task.memory)(passed.latents)
            seen.append(float(correlation(passed.inputs, guesses).mean()))
    return seen


def test_the_decoder_guesses_better_and_the_network_makes_it_guess_worse():
    indifferent, opposing = trained(1e-6), trained(5.0)
    assert indifferent[-1] > indifferent[0] + 0.3, "the decoder's turn raises the correlation"
    assert sum(opposing[-9:]) / 9 < sum(indifferent[-9:]) / 9 - 0.1, "the network's lowers it"


# What an attacker makes of it.


def test_a_known_shift_is_simulated_exactly():
    exchange = tiny_exchange(defenses=[SHIFT])
    task = tiny_task()
    found = KnownDefenses(exchange).change(
        exchange.model, task.batch.images, task.batch.labels, Seeds(0).stream("attack")
    )
    for name, tensor in exchange.update.change.items():
        assert torch.allclose(found[name], tensor, atol=1e-6)


def test_local_training_under_a_known_shift_is_simulated_exactly():
    user = User(
        "local_update", num_data_points=2, num_local_updates=3, num_data_per_local_update_step=1,
        local_learning_rate=0.01, provide_labels=True, provide_local_hyperparams=True,
    )  # fmt: skip
    exchange, task = tiny_exchange(defenses=[SHIFT], user=user), tiny_task(user=user)
    found = KnownDefenses(exchange).change(
        exchange.model, task.batch.images, task.batch.labels, Seeds(0).stream("attack")
    )
    for name, tensor in exchange.update.change.items():
        assert torch.allclose(found[name], tensor, atol=1e-6)


def test_the_attacker_uses_the_clients_own_noise():
    update = tiny_exchange(defenses=[QUICK]).update
    assert torch.equal(QUICK.noise_of(update).mean, update.hints[MEAN])
    assert torch.equal(QUICK.noise_of(replace(update, hints={})).mean, torch.tensor(1.0))


def test_a_network_can_be_used_under_its_clients_noise():
    exchange = tiny_exchange(defenses=[QUICK])
    network, images, rng = exchange.model, exchange.public[:2], Seeds(0).stream("use")
    plain = network(images)
    with QUICK.in_use(network, exchange.spec, exchange.update, rng):
        first, second = network(images), network(images)
    with QUICK.in_use(network, exchange.spec, exchange.update, Seeds(0).stream("use")):
        again = network(images)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert torch.equal(network(images), plain)


def test_under_secure_aggregation_it_knows_the_mean_of_the_clients():
    user = User(user_type="multiuser_aggregate", aggregation="plain", num_data_points=2)
    secure = replace(user, aggregation="secure")
    first = tiny_exchange(defenses=[QUICK], user=replace(user, user_range=(0, 1))).update.hints
    both = tiny_exchange(defenses=[QUICK], user=replace(secure, user_range=(0, 2))).update.hints
    second = tiny_exchange(defenses=[QUICK], user=replace(user, user_range=(1, 2))).update.hints
    assert torch.allclose(both[MEAN], (first[MEAN] + second[MEAN]) / 2)
    assert not torch.allclose(first[MEAN], second[MEAN])


def test_much_of_the_defense_is_a_shift_that_a_naive_attacker_does_not_know():
    """The cosine distance at the true images, which matching brings to 0 without a defense."""
    task = tiny_task((32, 32), model=PerturbationConvNet(width=8))
    found = mismatch(QUICK, task, Seeds(0).stream("attack"), draws=32)
    assert found.plain > 0.5
    assert found.shifted < 0.02
    assert found.adaptive < 0.02
    shift = mismatch(SHIFT, task, Seeds(0).stream("attack"), draws=1)
    assert shift.plain > 0.5, "a shift alone, without any noise, does it"
    assert shift.adaptive == pytest.approx(0, abs=1e-5)


def test_the_decoder_hides_something_of_the_encoder_and_nothing_of_the_head():
    task = tiny_task((32, 32))
    encoder = [name for name in trainable(task.model) if not name.startswith("7")]
    quiet = replace(FIXED, std=0.0, correlation_weight=1.0)
    inside = mismatch(quiet, task, Seeds(0).stream("attack"), draws=1, only=encoder)
    head = mismatch(quiet, task, Seeds(0).stream("attack"), draws=1, only=["7.weight", "7.bias"])
    assert inside.adaptive > 0.05
    assert inside.oracle == pytest.approx(0, abs=1e-4)
    assert head.adaptive == pytest.approx(0, abs=1e-5)


def test_averaging_draws_brings_a_simulation_to_the_expected_gradient():
    """The noise redrawn: the mean of many draws is nearer to another client's draw than one is."""
    exchange = tiny_exchange(defenses=[replace(FIXED, mean=0.0, correlation_weight=0.0)])
    task = tiny_task()

    def off(draws, seed):
        known = KnownDefenses(exchange, draws)
        found = known.change(
            exchange.model, task.batch.images, task.batch.labels, Seeds(seed).stream("attack")
        )
        return sum((found[k] - v).square().sum() for k, v in exchange.update.change.items())

    assert off(64, 0) < 0.75 * sum(off(1, seed) for seed in range(8)) / 8


# What it does not fit.


@dataclass(frozen=True)
class Private(Defense):
    """A defense that gives a guarantee."""

    name: ClassVar[str] = "private"
    source: ClassVar[str] = "tests"

    def guarantee(self, work):
        return None


def test_stacks_that_contradict():
    private = Private()
    assert QUICK.conflict([QUICK]) == ""
    assert "once only" in QUICK.conflict([QUICK, FIXED])
    assert "the noise of private" in QUICK.conflict([private, QUICK])
    assert "kind=fixed" in FIXED.conflict([private, FIXED])
    assert SHIFT.conflict([private, SHIFT]) == ""


def test_it_gives_no_guarantee():
    assert type(QUICK).guarantee is Defense.guarantee


def test_a_network_that_cannot_be_cut_is_refused():
    with pytest.raises(ModelError, match="take a convolutional network"):
        tiny_exchange(defenses=[QUICK], model=MLP())
    with pytest.raises(ModelError, match="no module named 'encoder'"):
        tiny_exchange(defenses=[replace(QUICK, layer="encoder")])


def test_what_a_server_sent_may_not_have_the_layer():
    task = replace(tiny_task(), model=nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3)))
    with pytest.raises(NotApplicable, match="in the network that the server sent"):
        sent(QUICK, task)


def test_another_layer_can_be_named():
    exchange = tiny_exchange(defenses=[replace(QUICK, layer="1")])
    assert exchange.update.hints[MEAN].shape == (8, 16, 16)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"kind": "none"}, "defense.kind must be"),
        ({"std": 0.0}, "std must be positive for learned noise, got 0.0"),
        ({"kind": "fixed", "std": -1.0}, "std must be finite, not negative, got -1.0"),
        ({"mean": float("inf")}, "mean must be finite"),
        ({"correlation_weight": -1.0}, "correlation_weight must be finite, not negative"),
        ({"decoder_lr": 0.0}, "decoder_lr must be positive, got 0.0"),
        ({"pretrain_noise_lr": -1.0}, "pretrain_noise_lr must be positive"),
        ({"pretrain_epochs": 0}, "pretrain_epochs must be at least 1, got 0"),
        ({"pretrain_records": -1}, "pretrain_records must be at least 0"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build(LearnablePerturbation, settings, "defense")


def test_an_audit_runs_with_it():
    settings = config.load([
        "case=dermoscopy_2d", "case.user.num_data_points=1", "attack=invertinggradients",
        "attack.optim.max_iterations=3", "defense=learnable_perturbation",
        "defense.pretrain_epochs=1", "audit.null_draws=1", "audit.metrics=[mse]",
    ])  # fmt: skip
    session = prepare(settings, CPU)
    found = [o.finding for o in audit(session.plan, session.collection, CPU)]
    assert found
    assert all(f.guarantees == () for f in found)
