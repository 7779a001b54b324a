"""What clients of a federation of GANs do."""

import dataclasses
import io

import pytest
import torch

from medbreach.errors import ContractError
from medbreach_feddetect import Gan, GanFederation, GanLearner, Images, Poisoning
from medbreach_feddetect.holdings import hold
from medbreach_feddetect.learner import CRITIC, LAST, MEAN
from medbreach_feddetect.trigger import stamp, trigger
from medbreach_federation import Instruction, Mean

IMAGES = Images(limit=40)
TINY = Gan(width=2, latent=4, batch_size=8)


def setting(gan=TINY, **more):
    return GanFederation(gan, images=IMAGES, **more)


def through_a_file(memory):
    """Return what a memory is after it was written and read, without any pickled object."""
    stream = io.BytesIO()
    torch.save(dict(memory), stream)
    stream.seek(0)
    return torch.load(stream, weights_only=True)


def play(learner, rounds, rule=None):
    """Return the weights and memories after so many rounds: a loop for tests."""
    rule, weights = rule or Mean(by_records=False), learner.first()
    memories = [{} for _ in range(learner.clients)]
    told = []
    for r in range(1, rounds + 1):
        made = {
            k: learner.train(Instruction(k, r, weights, memories[k]))
            for k in range(learner.clients)
        }
        memories = [through_a_file(result.memory) for result in made.values()]
        bare = {k: dataclasses.replace(result, memory={}) for k, result in made.items()}
        aggregate = rule.aggregate(r, weights, bare)
        weights = aggregate.weights
        told.append({k: result.measures for k, result in made.items()})
    return weights, memories, told


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("loss", ["bce", "wgan_gp"])
@pytest.mark.parametrize("shared", [False, True])
def test_a_round(loss, shared):
    learner = GanLearner(
        setting(dataclasses.replace(TINY, loss=loss, average_discriminators=shared))
    )
    first = learner.first()
    assert any(name.startswith("discriminator.") for name in first) is shared
    before = {name: value.clone() for name, value in first.items()}
    result = learner.train(Instruction(1, 1, first))
    assert same(before, first)
    assert result.weights.keys() == first.keys()
    assert all(result.weights[name].shape == first[name].shape for name in first)
    assert not same(result.weights, first)
    assert result.records == 40
    assert set(result.measures) == {LAST, MEAN, CRITIC}
    assert result.measures[LAST] >= 0
    assert bool(result.memory["discriminator"]) is not shared


def test_the_same_seed_client_and_round_give_the_same():
    first = GanLearner(setting()).first()
    one, again = (GanLearner(setting()).train(Instruction(2, 5, first)) for _ in range(2))
    assert same(one.weights, again.weights)
    assert one.measures == again.measures
    others = [
        GanLearner(setting()).train(Instruction(2, 6, first)),
        GanLearner(setting()).train(Instruction(1, 5, first)),
        GanLearner(setting(seed=1)).train(Instruction(2, 5, first)),
    ]
    assert all(other.measures != one.measures for other in others)


def test_a_federation_that_is_cut_off_goes_on_the_same():
    """A new process has nothing but the weights and the memories, which went through a file."""
    learner = GanLearner(setting())
    weights, memories, _ = play(learner, 2)
    straight = learner.train(Instruction(3, 3, weights, memories[3]))
    resumed = GanLearner(setting()).train(
        Instruction(3, 3, weights, through_a_file(through_a_file(memories[3])))
    )
    assert same(straight.weights, resumed.weights)
    assert straight.measures == resumed.measures


def test_discriminators_and_optimisers_stay_with_the_client():
    learner = GanLearner(setting())
    weights, memories, _ = play(learner, 1)
    assert not same(memories[0]["discriminator"], memories[1]["discriminator"])
    kept = memories[0]["optimizers"]["generator"]
    assert all("exp_avg" in one for one in kept.values())
    with_memory = learner.train(Instruction(0, 2, weights, memories[0]))
    without = learner.train(Instruction(0, 2, weights))
    assert not same(with_memory.weights, without.weights)
    steps = {float(one["step"]) for one in with_memory.memory["optimizers"]["generator"].values()}
    assert steps == {10.0}, "five batches of eight in each of two rounds"


def test_as_released_clients_begin_alike_and_leave_out_what_is_left_over():
    """40 images in batches of 16: two steps. Benign clients differ by their images alone."""
    learner = GanLearner(setting(dataclasses.replace(TINY, batch_size=16)))
    assert len(list(learner._batches(0, torch.Generator().manual_seed(0)))) == 2
    few = GanLearner(setting(dataclasses.replace(TINY, batch_size=64)))
    ((images, _),) = few._batches(0, torch.Generator().manual_seed(0))
    assert len(images) == 40, "less than one batch is one batch"
    pairs = [learner._pair(Instruction(k, 1, learner.first())) for k in (0, 1)]
    assert same(*[dict(pair.discriminator.state_dict()) for pair in pairs])


def test_each_step_sees_images_that_are_generated_anew():
    learner, seen = GanLearner(setting()), []
    pair = learner._pair(Instruction(0, 1, learner.first()))
    pair.generator.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    images, labels = next(learner._batches(0, torch.Generator().manual_seed(0)))
    learner._step(pair, images, labels, torch.Generator().manual_seed(1))
    assert len(seen) == 2
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("holding", ["dealt", "shared"])
def test_a_limit_keeps_every_class(holding):
    """Clients' images are dealt class by class: the first of them would be of one class."""
    held = hold(dataclasses.replace(setting(), images=Images(limit=160, holding=holding)))
    for own in held.clients:
        assert len(own.images) == 160
        assert set(own.labels.tolist()) == {0, 1, 2}
    whole = hold(dataclasses.replace(setting(), images=Images(holding=holding)))
    shares = [torch.bincount(h.clients[1].labels, minlength=3) / len(h.clients[1].labels)
              for h in (held, whole)]  # fmt: skip
    assert (shares[0] - shares[1]).abs().max() < 0.12
    if holding == "shared":
        assert torch.equal(held.clients[0].images, held.clients[3].images)


def test_averaged_discriminators_are_everybodys():
    gan = dataclasses.replace(TINY, average_discriminators=True)
    weights, memories, _ = play(GanLearner(setting(gan)), 1)
    assert memories[0]["discriminator"] == {}
    assert any(name.startswith("discriminator.") for name in weights)


def test_only_malicious_clients_are_stamped():
    learner = GanLearner(setting(poisoning=Poisoning((1,), ratio=0.5)))
    held = hold(learner.setting).clients
    assert torch.equal(learner._images(0), held[0].images)
    patch = trigger(Poisoning(), 32, 3)
    whole = stamp(held[1].images, patch, 1)
    images = learner._images(1)
    bears = [torch.equal(a, b) for a, b in zip(images, whole, strict=True)]
    bare = [torch.equal(a, b) for a, b in zip(images, held[1].images, strict=True)]
    assert (sum(bears), sum(bare)) == (20, 20)
    assert torch.equal(images, GanLearner(learner.setting)._images(1))


def test_the_attack_changes_the_malicious_client_only():
    first = GanLearner(setting()).first()
    benign = GanLearner(setting())
    attacked = GanLearner(setting(poisoning=Poisoning((0,))))
    pairs = [
        (benign.train(Instruction(k, 1, first)), attacked.train(Instruction(k, 1, first)))
        for k in (0, 1)
    ]
    assert not same(pairs[0][0].weights, pairs[0][1].weights)
    assert same(pairs[1][0].weights, pairs[1][1].weights)


def test_a_client_that_diverges_is_named():
    learner = GanLearner(setting(dataclasses.replace(TINY, loss="wgan_gp", learning_rate=1e30)))
    with pytest.raises(ContractError, match="client 2 diverged in round 4"):
        learner.train(Instruction(2, 4, learner.first()))


def test_a_conditional_gan_trains_and_makes_what_it_is_told():
    gan = dataclasses.replace(TINY, classes=3)
    learner = GanLearner(setting(gan))
    weights, _, _ = play(learner, 1)
    assert "generator.label.weight" in weights
    made = [learner.samples(weights, 6, "x", classes=torch.full((6,), c)) for c in (0, 2)]
    assert made[0].shape == (6, 3, 32, 32)
    assert not torch.allclose(made[0], made[1])
    assert torch.equal(learner.samples(weights, 6, "x"), learner.samples(weights, 6, "x"))


def test_a_discriminator_learns_to_tell():
    """After a few rounds of training the losses have left where they began."""
    gan = Gan(width=4, latent=8, batch_size=20, local_epochs=3, learning_rate=1e-3)
    _, _, told = play(GanLearner(setting(gan, clients=2)), 3)
    first, last = told[0][0][CRITIC], told[-1][0][CRITIC]
    assert last < first
