"""What every defense keeps."""

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from medbreach.attacks.known_defenses import KnownDefenses
from medbreach.components import ClientTask, Defense
from medbreach.errors import NotApplicable, Refused
from medbreach.protocol import User
from medbreach.randomness import Seeds
from medbreach.round import agreed_network, play
from medbreach.testing.declaration import check_declaration
from medbreach.testing.examples import CPU, FORMS, Form, tiny_case, tiny_sample, tiny_task
from medbreach.testing.guard import repeatable, require
from medbreach.training import LocalTrainer
from medbreach.types import Exchange, Recipe, Update

STEPS = User(
    "local_update", num_data_points=2, num_local_updates=2, num_data_per_local_update_step=1,
    local_learning_rate=0.01, provide_labels=True, provide_local_hyperparams=True,
)  # fmt: skip
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

    It is put around gradients and local training, alone and (unless it says that this conflicts)
    twice over, and around rounds of two clients. The records and what the server sent stay as they
    were; the update keeps the network's names and shapes.

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
        _check_simulations(f"{who}, simulated", defense, form)
        if not defense.conflict([defense, defense]):
            _check_round(f"{who}, twice over", [defense, defense], form, BATCH)
    except OUTCOMES as reason:
        return f"{form}: {reason}"
    return ""


def _check_vet(who: str, defense: Defense, form: Form) -> None:
    sample = tiny_sample(*form)
    network = _agreed(defense, form)
    found = repeatable(
        who, lambda: defense.vet(network, sample.spec), OUTCOMES, network=network, spec=sample.spec
    )
    require(found is None, f"{who}: vet returns nothing; to refuse a network, raise Refused")


def _check_wrap(who: str, defense: Defense, form: Form, recipe: Recipe | None) -> None:
    task = replace(tiny_task(*form, recipe=recipe), model=_agreed(defense, form))
    local = LocalTrainer()

    def stepping(own: ClientTask) -> Update:
        return local(replace(own, gradient=defense.step(own.gradient)))

    def update() -> Any:
        own = replace(
            task, model=copy.deepcopy(task.model), rng=Seeds(0).stream("client"), memory={}
        )
        return defense.wrap(stepping)(own)

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


def _agreed(defense: Defense, form: Form) -> nn.Module:
    return agreed_network(tiny_case(*form), tiny_sample(*form), [defense], Seeds(0))


def _check_simulations(who: str, defense: Defense, form: Form) -> None:
    """Check what an attacker makes of one client, or of several where one will not do."""
    try:
        for user in (BATCH, STEPS):
            _check_simulation(who, defense, form, user)
    except NotApplicable:
        _check_simulation(who, defense, form, ROUNDS["their secure aggregate"])


def _check_simulation(who: str, defense: Defense, form: Form, user: User) -> None:
    """Check that an attacker who knows the defense can search with what it tells."""
    exchange = play(
        tiny_case(*form, user=user), tiny_sample(*form, user=user), [defense], Seeds(0), CPU
    )[0]
    images = exchange.public[: exchange.update.count].clone().requires_grad_()
    labels = exchange.update.labels
    assert labels is not None

    def change() -> Any:
        known = KnownDefenses(exchange)
        return known.change(exchange.model, images, labels, Seeds(0).stream("attack"))

    found = repeatable(who, change, OUTCOMES, exchange=exchange)
    wanted = {name: g.shape for name, g in exchange.update.change.items()}
    require(
        {name: g.shape for name, g in found.items()} == wanted,
        f"{who}: what an attacker simulates must have the names and shapes of the update",
    )
    total = torch.stack([g.square().sum() for g in found.values()]).sum()
    require(
        total.requires_grad and bool(torch.autograd.grad(total, images)[0].isfinite().all()),
        f"{who}: what an attacker simulates must be differentiable by the images",
    )
    noise: Any = defense.noise(exchange.update)
    each = list(noise.values()) if isinstance(noise, Mapping) else [noise]
    require(
        all(isinstance(std, float) and 0 <= std < math.inf for std in each),
        f"{who}: noise returns a standard deviation, or one a tensor, not {noise!r}",
    )


def _check_round(who: str, stack: Sequence[Defense], form: Form, user: User) -> None:
    case = tiny_case(*form, user=user)
    sample = tiny_sample(*form, user=user)

    def exchanges() -> tuple[Exchange, ...]:
        return play(case, sample, stack, Seeds(0), CPU)

    repeatable(who, exchanges, OUTCOMES, sample=sample)
