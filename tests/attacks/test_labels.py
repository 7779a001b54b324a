"""Labels that are withheld are inferred from the update, whatever the network looks like."""

import pytest
import torch
from test_everywhere import NETWORKS

from medbreach import config
from medbreach.assembly import assemble
from medbreach.breaching_bridge.labels import by_impact
from medbreach.errors import NotApplicable
from medbreach.federation import Federation
from medbreach.models.user_network import UserNetwork
from medbreach.protocol import LocalNoise, User
from medbreach.servers.honest_but_curious import HonestServer
from medbreach.testing.examples import tiny_exchange, tiny_sample
from medbreach.types import Change

FORMS = {"2D": ((8, 8), 3), "3D": ((4, 8, 8), 1)}
each_form = pytest.mark.parametrize(("space", "channels"), FORMS.values(), ids=FORMS)


def attack(strategy):
    plan = assemble(
        config.load(
            [
                "attack=invertinggradients",
                "attack.optim.max_iterations=1",
                f"attack.label_strategy={strategy}",
            ]
        )
    )
    return plan.attacks["invertinggradients"]


def inferred(strategy, space, channels, **changes):
    exchange = tiny_exchange(space, channels, **changes)
    return attack(strategy)(exchange, torch.Generator().manual_seed(0)).labels


def truth(space, channels, **changes):
    return tiny_sample(space, channels, **changes).truth.labels.sort().values


@each_form
@pytest.mark.parametrize("network", ["attention", "batchnorm", "convolutional"])
@pytest.mark.parametrize("strategy", ["bias-corrected", "analytic"])
def test_the_label_of_one_record(space, channels, network, strategy):
    """Also where the head is declared first, or is a convolution, which breaching gets wrong."""
    changes = {"model": UserNetwork(NETWORKS, network), "user": User()}
    found = inferred(strategy, space, channels, **changes)
    assert torch.equal(found, truth(space, channels, **changes))


@each_form
@pytest.mark.parametrize("recipe", [True, False])
def test_the_label_behind_a_change_of_weights(space, channels, recipe):
    """A change goes against the gradient."""
    user = User(user_type="local_update", num_local_updates=2, provide_local_hyperparams=recipe)
    changes = {"model": UserNetwork(NETWORKS, "batchnorm"), "user": user}
    exchange = tiny_exchange(space, channels, **changes)
    assert exchange.update.kind is Change.DIFFERENCE
    found = attack("bias-corrected")(exchange, torch.Generator().manual_seed(0)).labels
    assert torch.equal(found, truth(space, channels, **changes))


@pytest.mark.parametrize(
    "strategy", ["bias-corrected", "analytic", "wainakh-simple", "yin", "iDLG"]
)
def test_noise_never_makes_more_labels_than_records(strategy):
    for records in (1, 2):
        user = User(num_data_points=records, local_diff_privacy=LocalNoise(gradient_noise=10.0))
        changes = {"model": UserNetwork(NETWORKS, "batchnorm"), "user": user}
        assert len(inferred(strategy, (8, 8), 3, **changes)) == records


@pytest.mark.parametrize("strategy", ["bias-corrected", "analytic"])
def test_a_network_whose_labels_the_strategy_cannot_see(strategy):
    changes = {"model": UserNetwork(NETWORKS, "biasless"), "user": User()}
    with pytest.raises(NotApplicable, match=f"label_strategy {strategy} infers them from a last"):
        inferred(strategy, (8, 8), 3, **changes)
    assert len(inferred("iDLG", (8, 8), 3, **changes)) == 1  # sees weights


@pytest.mark.parametrize("written", ["null", "None"])
def test_no_strategy(written):
    with pytest.raises(NotApplicable, match="labels are withheld, and label_strategy is null"):
        inferred(written, (8, 8), 3, user=User())
    assert len(inferred(written, (8, 8), 3, user=User(provide_labels=True))) == 1


def of_batch(strategy, classes, records=6, **changes):
    """Return the labels of a batch of made-up classes and what the strategy infers of them."""
    federation = Federation(partition="random", default_clients=2, unlabelled_classes=classes)
    user = User(num_data_points=records, **changes)
    changes = {"federation": federation, "user": user}
    found = inferred(strategy, (16, 16), 1, **changes)
    return truth((16, 16), 1, **changes), found


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("changes", [{}, {
    "user_type": "local_update", "num_local_updates": 2, "provide_local_hyperparams": True
}], ids=["gradient", "change of weights"])  # fmt: skip
def test_the_mean_softmax_tells_how_many_records_each_class_has(classes, changes):
    expected, found = of_batch("mean-softmax", classes, **changes)
    assert len(expected.unique()) > 1
    assert torch.equal(found, expected)


def test_bias_corrected_tells_two_classes_apart():
    """As breaching has it, it names one class only, since one entry of the gradient is positive."""
    expected, found = of_batch("bias-corrected", 2)
    assert set(expected.tolist()) == {0, 1}
    assert torch.equal(found, expected)


def test_without_public_images_there_is_no_mean_softmax():
    changes = {"server": HonestServer(has_external_data=False), "user": User(num_data_points=2)}
    with pytest.raises(NotApplicable, match="label_strategy mean-softmax needs public images"):
        inferred("mean-softmax", (8, 8), 3, **changes)
    assert len(inferred("bias-corrected", (8, 8), 3, **changes)) == 2


def test_each_record_takes_its_impact_off_the_class_that_is_chosen():
    """Three records of class 0, two of 1, one of 2, with impacts of one each."""
    gradient = torch.tensor([[-3.0], [-2.0], [-1.0], [0.0], [0.0]]) / (1 + 1 / 5)
    assert by_impact([gradient], 6).sort().values.tolist() == [0, 0, 0, 1, 1, 2]
