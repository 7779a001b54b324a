"""What every attack keeps."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from medbreach.case import Case, draw
from medbreach.components import Attack, Server
from medbreach.errors import InputError, NotApplicable
from medbreach.protocol import User
from medbreach.randomness import Seeds
from medbreach.round import play
from medbreach.servers.honest_but_curious import HonestServer
from medbreach.testing.declaration import check_declaration
from medbreach.testing.examples import CPU, DECOYS, FORMS, PUBLIC, Form, tiny_case, tiny_collection
from medbreach.testing.guard import repeatable, require, running
from medbreach.types import UNKNOWN, Exchange, Reconstruction, Reveals

HONEST = HonestServer()


def check_attack(
    attack: type[Attack],
    settings: Mapping[str, Any] | None = None,
    server: Server = HONEST,
    forms: Iterable[Form] = FORMS,
) -> None:
    """Check that an attack keeps the contract.

    It is run on its control (or, blind, on a tiny case), on a batch, on an update after local
    training, and where the client withholds what it may.

    Args:
        attack: Its class.
        settings: Its settings; few iterations are enough here.
        server: A server that it works with.
        forms: Sizes and channels of the images to try; it must apply to one of them.

    Raises:
        AssertionError: It does not; the sentence says how.
    """
    made = check_declaration(attack, settings)
    unknown = set(made.needs) - set(Reveals)
    require(not unknown, f"{made.name}: needs must hold members of Reveals, not {unknown}")
    reasons = [_check_form(made, form, server) for form in forms]
    require(
        "" in reasons,
        f"{made.name} applies to none of the images that it was tried on: {'; '.join(reasons)}",
    )


def _check_form(attack: Attack, form: Form, server: Server) -> str:
    """Check an attack on one form of images; return why it does not apply, or ``""``."""
    who = f"{attack.name} on {form}"
    case = tiny_case(*form, server=server)
    with running(f"the control of {attack.name}"):
        control = attack.control(case)
    require(
        control is None or isinstance(control, Case), f"{who}: control must return a case or None"
    )
    try:
        exchange = _exchange(control or case, form)
        claim = repeatable(
            who, lambda: attack(exchange, Seeds(0).stream("attack")), exchange=exchange
        )
    except (InputError, NotApplicable) as reason:
        return f"{form}: {reason}"
    _check_claim(who, claim, exchange.classes)
    for what, variant in _variants(control or case, form, exchange):
        _try(f"{who} {what}", attack, variant)
    return ""


def _exchange(case: Case, form: Form) -> Exchange:
    sample = draw(case, tiny_collection(*form), Seeds(0), DECOYS, PUBLIC)
    return play(case, sample, [], Seeds(0), CPU)[0]


def _variants(case: Case, form: Form, exchange: Exchange) -> Iterator[tuple[str, Exchange]]:
    played = exchange.rounds[0]
    for reveals in [r for r in Reveals if getattr(played.update, r) is not None]:
        withheld: dict[str, Any] = {reveals: None}
        update = replace(played.update, **withheld)
        yield f"without {reveals}", replace(exchange, rounds=(replace(played, update=update),))
    update = replace(played.update, labels=None, count=None, buffers=None, recipe=None)
    bare = replace(exchange, rounds=(replace(played, update=update),), public=exchange.public[:0])
    yield "with everything withheld", bare
    batch = User(num_data_points=3, provide_labels=True)
    yield "of three records", _exchange(replace(case, user=batch), form)
    trained = replace(batch, user_type="local_update", num_local_updates=2)
    yield "after local training", _exchange(replace(case, user=trained), form)
    told = replace(trained, provide_local_hyperparams=True)
    yield "after local training that is described", _exchange(replace(case, user=told), form)


def _try(who: str, attack: Attack, exchange: Exchange) -> None:
    try:
        with running(who):
            claim = attack(exchange, Seeds(0).stream("attack"))
    except NotApplicable:
        return
    _check_claim(who, claim, exchange.classes)


def _check_claim(who: str, claim: Reconstruction, classes: int) -> None:
    labels, confidence = claim.labels, claim.confidence
    if labels is not None:
        require(
            not torch.is_floating_point(labels)
            and bool(((labels >= UNKNOWN) & (labels < classes)).all()),
            f"{who} claims labels that are neither {UNKNOWN} nor classes from 0 to {classes - 1}",
        )
    if confidence is not None:
        require(
            bool(((confidence >= 0) & (confidence <= 1)).all()),
            f"{who} claims confidence outside 0 to 1",
        )
