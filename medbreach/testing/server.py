"""What every server keeps."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from medbreach.case import Sample
from medbreach.components import Planted, Server
from medbreach.errors import NotApplicable
from medbreach.randomness import Seeds
from medbreach.round import honest_network, play
from medbreach.testing.declaration import check_declaration
from medbreach.testing.examples import CPU, FORMS, Form, tiny_case, tiny_sample
from medbreach.testing.guard import difference, repeatable, require, running


def check_server(
    server: type[Server], settings: Mapping[str, Any] | None = None, forms: Iterable[Form] = FORMS
) -> None:
    """Check that a server keeps the contract: what it sends can be trained on.

    Args:
        server: Its class.
        settings: Its settings.
        forms: Sizes and channels of the images to try; it must apply to one of them.

    Raises:
        AssertionError: It does not; the sentence says how.
    """
    made = check_declaration(server, settings)
    reasons = [_check_form(made, form) for form in forms]
    require("" in reasons, f"{made.name} applies to no network it was given: {'; '.join(reasons)}")


def _check_form(server: Server, form: Form) -> str:
    """Check a server on one form of images; return why it does not apply, or ``""``."""
    who = f"{server.name} on {form}"
    case, sample = tiny_case(*form, server=server), tiny_sample(*form, server=server)
    with running(who):
        honest = honest_network(case, sample, Seeds(0))

    def plant(public: torch.Tensor) -> Any:
        rng = Seeds(0).stream("plant")
        return server.plant(copy.deepcopy(honest), sample.spec, public, rng)

    try:
        planted = repeatable(
            who, lambda: plant(sample.public), spec=sample.spec, public=sample.public
        )
    except NotApplicable as reason:
        return f"{form}: {reason}"
    _check_planted(who, server, planted, honest, sample)
    with running(who):
        play(case, sample, [], Seeds(0), CPU)
    try:
        with running(f"{who} without public images"):
            plant(sample.public[:0])
    except NotApplicable:
        pass
    return ""


def _check_planted(
    who: str, server: Server, planted: Any, honest: nn.Module, sample: Sample
) -> None:
    require(
        isinstance(planted, Planted) and isinstance(planted.model, nn.Module),
        f"{who}: plant must return Planted(model, secret)",
    )
    changed = difference(honest, planted.model)
    require(
        server.malicious or (changed is None and planted.secret is None),
        f"{who} changes the network or keeps a secret: say malicious: ClassVar[bool] = True",
    )
    images = sample.spec.normalise(sample.batches[0].images)
    with running(f"the network that {server.name} sends"), torch.no_grad():
        outputs = planted.model.eval()(images)
    require(
        tuple(outputs.shape) == (len(images), sample.classes) and bool(outputs.isfinite().all()),
        f"{who}: the network that it sends does not give one finite output a class",
    )
