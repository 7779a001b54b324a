"""The contract that every component keeps, for a plugin's own test suite.

One line is a whole test:

    from medbreach.testing import check

    def test_my_defense_keeps_the_contract():
        check(MyDefense)

The component is run on real images, grey and RGB in 2D and grey in 3D. A broken contract is an
`AssertionError` with one sentence. A component may raise `NotApplicable` for images that it does
not work on (a model `ModelError`), but not for all of them. pytest is not needed.
"""

from collections.abc import Mapping
from typing import Any

from medbreach.components import Attack, Component, Dataset, Defense, Metric, Model, Server
from medbreach.testing.attack import check_attack
from medbreach.testing.dataset import check_dataset
from medbreach.testing.declaration import check_declaration
from medbreach.testing.defense import check_defense
from medbreach.testing.examples import (
    FORMS,
    Form,
    tiny_case,
    tiny_collection,
    tiny_exchange,
    tiny_sample,
    tiny_task,
)
from medbreach.testing.metric import check_metric
from medbreach.testing.model import check_model
from medbreach.testing.server import check_server

__all__ = [
    "FORMS",
    "Form",
    "check",
    "check_attack",
    "check_dataset",
    "check_declaration",
    "check_defense",
    "check_metric",
    "check_model",
    "check_server",
    "tiny_case",
    "tiny_collection",
    "tiny_exchange",
    "tiny_sample",
    "tiny_task",
]

_CHECKS: Mapping[type[Component], Any] = {
    Attack: check_attack,
    Server: check_server,
    Defense: check_defense,
    Metric: check_metric,
    Dataset: check_dataset,
    Model: check_model,
}


def check(component: Any, settings: Mapping[str, Any] | None = None, **options: Any) -> None:
    """Check everything that the contract asks of a component.

    Args:
        component: Its class.
        settings: Its settings, as a case's YAML would have them; None for the defaults.
        options: What the check of its kind takes besides, such as ``server`` for an attack.

    Raises:
        AssertionError: It breaks the contract; the sentence says how.
    """
    for base, check_kind in _CHECKS.items():
        if isinstance(component, type) and issubclass(component, base):
            check_kind(component, settings, **options)
            return
    kinds = ", ".join(base.__name__ for base in _CHECKS)
    raise AssertionError(f"{component!r} is none of {kinds}: derive it from one of them")
