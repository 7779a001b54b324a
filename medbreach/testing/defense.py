"""What every defense keeps."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from medbreach.components import Defense
from medbreach.errors import NotApplicable, Refused
from medbreach.protocol import User
from medbreach.randomness import Seeds
from medbreach.round import honest_network, play
from medbreach.testing.declaration import check_declaration
from medbreach.testing.examples import CPU, FORMS, Form, tiny_case, tiny_sample, tiny_task
from medbreach.testing.guard import repeatable, require
from medbreach.training import LocalTrainer
from medbreach.types import Exchange, Recipe, Update

OUTCOMES = (NotApplicable, Refused)
BATCH = User(num_data_points=2, provide_labels=True)
GRADIENTS = replace(BATCH, user_type="multiuser_aggregate", aggregation="plain")
ROUNDS = {
    "gradients of two clients": GRADIENTS,
    "their secure aggregate": replace(GRADIENTS, aggregation="secure"),
    "changes of weights": replace(GRADIENTS, num_local_updates=2, local_learning_rate=0.01),
}


def check_defense(
    defense: type[Defense], settings: Mapping[str, Any] | None = None, forms: Iterable[Form] = FORMS
) -> None:
    """Check that a defense keeps the contract.

    It is put around gradients and local training, alone and twice over, and around rounds of two
    clients. The records and what the server sent stay as they were; the update keeps the network's
    names and shapes.

    Args:
        defense: Its class.
        settings: Its settings.
        forms: Sizes and channels of the images to try; it must apply to one of them.

    Raises:
        AssertionError: It does not; the sentence says how.
    """
    made = check_declaration(defense, settings)
    reasons = [_check_form(made, form) for form in forms]
    require(
        "" in reasons,
        f"{made.name} applies to none of the images that it was tried on: {'; '.join(reasons)}",
    )


def _check_form(defense: Defense, form: Form) -> str:
    """Check a defense on one form of images; return why it does not apply, or ``""``."""
    who = f"{defense.name} on {form}"
    try:
        _check_vet(who, defense, form)
        for recipe in (None, Recipe(steps=2, records_per_step=1, lr=0.01)):
            _check_wrap(who, defense, form, recipe)
        for what, user in ROUNDS.items():
            _check_round(f"{who}, {what}", [defense], form, user)
        _check_round(f"{who}, twice over", [defense, defense], form, BATCH)
    except OUTCOMES as reason:
        return f"{form}: {reason}"
    return ""


def _check_vet(who: str, defense: Defense, form: Form) -> None:
    case, sample = tiny_case(*form), tiny_sample(*form)
    network = honest_network(case, sample, Seeds(0))
    found = repeatable(
        who, lambda: defense.vet(network, sample.spec), OUTCOMES, network=network, spec=sample.spec
    )
    require(found is None, f"{who}: vet returns nothing; to refuse a network, raise Refused")


def _check_wrap(who: str, defense: Defense, form: Form, recipe: Recipe | None) -> None:
    task = tiny_task(*form, recipe=recipe)

    def update() -> Any:
        own = replace(task, model=copy.deepcopy(task.model), rng=Seeds(0).stream("client"))
        return defense.wrap(LocalTrainer())(own)

    found = repeatable(who, update, OUTCOMES, batch=task.batch, spec=task.spec)
    require(isinstance(found, Update), f"{who}: the wrapped training must return an Update")
    shapes = [(name, p.shape) for name, p in task.model.named_parameters()]
    require(
        [(name, g.shape) for name, g in found.change.items()] == shapes,
        f"{who}: the update must have the names and shapes of the network's parameters, in order",
    )
    require(
        all(bool(g.isfinite().all()) for g in found.change.values()),
        f"{who}: the update is not finite",
    )


def _check_round(who: str, stack: Sequence[Defense], form: Form, user: User) -> None:
    case = tiny_case(*form, user=user)
    sample = tiny_sample(*form, user=user)

    def exchanges() -> tuple[Exchange, ...]:
        return play(case, sample, stack, Seeds(0), CPU)

    repeatable(who, exchanges, OUTCOMES, sample=sample)
