"""Labels that are withheld are inferred from the update, whatever the network looks like."""

import pytest
import torch
from test_everywhere import NETWORKS

from medbreach import config
from medbreach.assembly import assemble
from medbreach.errors import NotApplicable
from medbreach.models.user_network import UserNetwork
from medbreach.protocol import LocalNoise, User
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
