"""The contract, run over every registered component, those of installed plugins included."""

import pytest

from medbreach import plugins
from medbreach.servers.fishing import FishingServer
from medbreach.servers.imprint import MaliciousModelServer
from medbreach.servers.modification import Modification
from medbreach.testing import Form, check, check_declaration

FEW_STEPS = {"optim": {"max_iterations": 2}}
ATTACK_SETTINGS = {
    "fishing": FEW_STEPS,
    "optimization": FEW_STEPS,
    "joint-optimization": FEW_STEPS,
    "multiscale": {**FEW_STEPS, "num_stages": 2},
    "recursive": {"inversion": {"steps": 2}},
    "cpa": {"steps": 2},
    "feature_recovery": {"steps": 2},
}
ATTACK_OPTIONS = {
    "fishing": {"server": FishingServer(num_queries=4)},
    "imprint-readout": {"server": MaliciousModelServer()},
    "peeling": {
        "server": MaliciousModelServer(model_modification=Modification(type="PeelingBlock"))
    },
    "recursive": {"forms": [Form((8, 8), 1)]},
}
MODEL_OPTIONS = {"convnet_beyond": {"forms": [Form((28, 28), 1)]}}  # its linear layer's width
SLOW_MODELS = {
    "convnet_beyond",
    "DenseNet169",
    "monai_densenet169",
    "monai_densenet201",
    "monai_densenet264",
    "monai_resnet34",
    "monai_resnet50",
    "monai_resnet101",
    "ResNet32-10",
    "ResNet34",
    "ResNet50",
    "ResNet101",
    "ResNet152",
    "torchvision_densenet161",
    "torchvision_densenet169",
    "torchvision_densenet201",
    "torchvision_resnet34",
    "torchvision_resnet50",
    "torchvision_resnet101",
    "torchvision_resnet152",
    "torchvision_vit_b_16",
    "torchvision_vit_b_32",
    "torchvision_vit_l_16",
    "VGG13",
    "VGG16",
    "VGG19",
}
"""Larger members of families whose small ones are checked in the quick suite."""


def marked(kinds, slow=frozenset()):
    """Names; slow are those given and those of plugins, whose own tests run the contract too."""
    return [
        pytest.param(name, marks=pytest.mark.slow if name in slow or elsewhere(kind) else ())
        for name, kind in kinds.items()
    ]


def elsewhere(kind):
    return not kind.__module__.startswith(("medbreach.", "medbreach_example."))


@pytest.mark.parametrize("name", plugins.attacks())
def test_attack(name):
    options = ATTACK_OPTIONS.get(name, {})
    check(plugins.attacks()[name], ATTACK_SETTINGS.get(name), **options)


@pytest.mark.parametrize("name", plugins.servers())
def test_server(name):
    check(plugins.servers()[name])


@pytest.mark.parametrize("name", marked(plugins.defenses()))
def test_defense(name):
    check(plugins.defenses()[name])


@pytest.mark.parametrize("name", plugins.metrics())
def test_metric(name):
    metric = plugins.metrics()[name]
    check_declaration(metric)
    reason = metric().missing() if name == "lpips" else ""
    if reason:
        pytest.skip(reason)
    check(metric)


@pytest.mark.parametrize("name", marked(plugins.models(), SLOW_MODELS))
def test_model(name):
    check(plugins.models()[name], **MODEL_OPTIONS.get(name, {}))


@pytest.mark.parametrize("name", sorted(SLOW_MODELS))
def test_declaration_of_slow_models(name):
    """What the quick suite can say of the models that it does not run."""
    check_declaration(plugins.models()[name])
