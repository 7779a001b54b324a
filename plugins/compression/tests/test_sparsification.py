"""Gradient pruning and top-k: which entries are sent, and what an attacker makes of it."""

import pytest
import torch

from medbreach import choices, config, plugins
from medbreach.attacks.known_defenses import KnownDefenses
from medbreach.errors import ConfigError
from medbreach.protocol import User
from medbreach.randomness import Seeds
from medbreach.settings import build
from medbreach.testing import check, tiny_exchange, tiny_sample, tiny_task
from medbreach.training import LocalTrainer
from medbreach_compression import GradientPruning, TopK
from medbreach_compression.masks import compared, seen_as_sent

STEPS = User(
    "local_update", num_data_points=2, num_local_updates=2, num_data_per_local_update_step=1,
    local_learning_rate=0.1, provide_labels=True, provide_local_hyperparams=True,
)  # fmt: skip


def flat(change):
    return torch.cat([tensor.flatten() for tensor in change.values()])


def truth(sample, seen):
    """Return the records and labels, ordered as an attacker orders them."""
    records = sample.batches[0]
    order = records.labels.argsort(stable=True) if seen.recipe is None else slice(None)
    return records.images[order], records.labels[order]


def simulated(exchange, images, labels):
    stream = Seeds(0).stream("attack")
    return KnownDefenses(exchange).change(exchange.model, images, labels, stream)


@pytest.mark.parametrize(
    ("defense", "settings"),
    [
        (GradientPruning, None),
        (GradientPruning, {"share": 0.0}),
        (TopK, None),
        (TopK, {"keep": 0.3, "error_feedback": False}),
    ],
    ids=str,
)
def test_they_keep_the_contract(defense, settings):
    check(defense, settings)


def test_medbreach_finds_them_by_name():
    found = plugins.defenses()
    assert (found["gradient_pruning"], found["top_k"]) == (GradientPruning, TopK)
    for name in ("gradient_pruning", "top_k"):
        chosen = config.read_choice("defense", name)
        made = build(found[name], {k: v for k, v in chosen.items() if k != "name"}, "defense")
        assert made == found[name](), "the default is the file"
    assert "gradient_pruning_99" in choices.names("defense")


@pytest.mark.parametrize("share", [0.0, 0.25, 0.9])
def test_pruning_keeps_the_largest_of_each_tensor(share):
    whole = tiny_exchange().update.change
    sent = tiny_exchange(defenses=[GradientPruning(share)]).update.change
    for name, tensor in whole.items():
        kept = max(1, tensor.numel() - round(share * tensor.numel()))
        expected = tensor.flatten().clone()
        smallest = sorted(range(len(expected)), key=lambda k: -abs(expected[k].item()))[kept:]
        expected[smallest] = 0
        assert torch.equal(sent[name].flatten(), expected), name


def test_top_k_ranks_all_tensors_together():
    whole = flat(tiny_exchange().update.change)
    sent = flat(tiny_exchange(defenses=[TopK(0.01)]).update.change)
    kept = round(0.01 * len(whole))
    assert sent.count_nonzero() == kept
    assert torch.equal(sent[sent != 0], whole[sent != 0])
    assert whole[sent == 0].abs().max() <= sent[sent != 0].abs().min()


def test_error_feedback_sends_everything_in_the_end():
    """Over rounds, what was sent and what is left add up to what was computed."""
    task = tiny_task()
    train = TopK(0.05).wrap(LocalTrainer())
    sent = [flat(train(task).change) for _ in range(4)]  # the gradient of the same weights
    whole = flat(LocalTrainer()(tiny_task()).change)
    left = flat(task.memory["top_k/left"])
    assert torch.allclose(sum(sent) + left, 4 * whole, atol=1e-6)
    assert (sent[0] != 0).logical_xor(sent[3] != 0).any(), "small entries have their turn"
    assert not torch.equal(sum(sent), 4 * sent[0])


def test_without_error_feedback_rounds_are_alike():
    task = tiny_task()
    train = TopK(0.05, error_feedback=False).wrap(LocalTrainer())
    first, second = (flat(train(task).change) for _ in range(2))
    assert torch.equal(first, second)
    assert not task.memory


@pytest.mark.parametrize("defense", [GradientPruning(0.9), TopK(0.05)], ids=lambda d: d.name)
@pytest.mark.parametrize("user", [None, STEPS], ids=["gradient", "local steps"])
def test_the_true_images_fit_exactly_under_the_mask(defense, user):
    changes = {} if user is None else {"user": user}
    exchange = tiny_exchange(defenses=[defense], **changes)
    images, labels = truth(tiny_sample(**changes), exchange.update)
    found = simulated(exchange, images, labels)
    assert torch.allclose(flat(found), flat(exchange.update.change), atol=1e-6)
    bare = simulated(tiny_exchange(**changes), images, labels)
    missing = (flat(bare) - flat(exchange.update.change)).norm() / flat(bare).norm()
    assert missing > 0.05, "without the mask the true images do not fit"


def test_noise_on_top_does_not_hide_the_mask():
    seen = flat(tiny_exchange(defenses=[TopK(0.05)]).update.change)
    count = int(seen.count_nonzero())
    noisy = seen + 1e-7 * torch.randn(seen.shape, generator=Seeds(0).stream("noise"))
    assert torch.equal(seen_as_sent(seen, count), seen != 0)
    assert (seen_as_sent(noisy, count) == (seen != 0)).float().mean() > 0.99


@pytest.mark.parametrize("clients", [1, 2])
def test_entries_count_that_a_client_or_the_candidate_sent(clients):
    seen = torch.tensor([0.0, 5.0, 0.0, 0.0, 2.0, 0.0])
    candidate = torch.tensor([7.0, 0.1, 6.0, 0.3, 0.2, 0.1])
    found = compared(candidate, seen, count=1, clients=clients).tolist()
    if clients == 1:
        assert found == [True, True, False, False, False, False], "one can have been sent"
    else:
        assert found == [True, True, True, False, True, False]


def test_two_remainders_would_mix():
    assert "only once" in TopK().conflict([TopK(), TopK()])
    assert not TopK().conflict([GradientPruning(), TopK()])
    plain = TopK(error_feedback=False)
    assert not plain.conflict([plain, plain])


@pytest.mark.parametrize(
    ("defense", "settings", "sentence"),
    [
        (GradientPruning, {"share": 1.0}, "share must be at least 0 and below 1, got 1.0"),
        (GradientPruning, {"share": -0.1}, "share must be at least 0"),
        (TopK, {"keep": 0.0}, "keep must lie above 0"),
        (TopK, {"keep": 1.5}, "keep must lie above 0 and at most at 1, got 1.5"),
        (TopK, {"share": 0.1}, "defense has no key 'share'"),
    ],
)
def test_settings_that_make_no_sense(defense, settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build(defense, settings, "defense")
