"""Running one of breaching's attackers on an exchange."""

import contextlib
import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from omegaconf import OmegaConf
from torch.nn.attention import SDPBackend, sdpa_kernel

from medbreach.breaching_bridge import library
from medbreach.breaching_bridge.attackers import JointOptimization, Multiscale, Optimization
from medbreach.breaching_bridge.closed_form import April, ImprintReadout, Recursive
from medbreach.breaching_bridge.descent import Descent, Interrupted
from medbreach.breaching_bridge.values import Container, server_payload, shared_data
from medbreach.errors import NotApplicable
from medbreach.randomness import lend_global
from medbreach.types import Exchange, Reconstruction

Kind = Literal[
    "optimization",
    "joint-optimization",
    "multiscale",
    "april-analytic",
    "imprint-readout",
    "recursive",
]
ATTACKERS: dict[str, type] = {
    "optimization": Optimization,
    "joint-optimization": JointOptimization,
    "multiscale": Multiscale,
    "april-analytic": April,
    "imprint-readout": ImprintReadout,
    "recursive": Recursive,
}


def reconstruct(
    kind: Kind,
    settings: Mapping[str, Any],
    exchange: Exchange,
    rng: torch.Generator,
    secrets: Mapping[str, Any] | None = None,
) -> Reconstruction:
    """Run an attacker and return its claims in the spec's unit.

    Args:
        kind: breaching's ``attack_type``.
        settings: The attack's settings in breaching's keys.
        exchange: What the server saw.
        rng: Seeds torch's global generator, the only one that breaching reads.
        secrets: What breaching's server would remember.

    Raises:
        NotApplicable: The labels are withheld and cannot be inferred, or the network is not one
            that the attack works on.
    """
    first = next(iter(exchange.update.change.values()))
    setup = {"device": first.device, "dtype": first.dtype}
    config = OmegaConf.create(dict(settings))
    container = Container(copy.deepcopy(exchange.model))
    with lend_global(rng), library.quiet(), sdpa_kernel(SDPBackend.MATH), _second_derivatives():
        attacker = ATTACKERS[kind](container, exchange.loss, config, setup)
        attacker.exchange = exchange
        if isinstance(attacker, Descent):
            attacker.fit_to_exchange()
        try:
            found, _ = attacker.reconstruct(
                server_payload(exchange), shared_data(exchange), dict(secrets or {})
            )
        except Interrupted as error:
            raise KeyboardInterrupt from error
    images = exchange.spec.denormalise(found["data"].detach())
    labels = found["labels"]
    usable = isinstance(labels, torch.Tensor) and labels.shape == images.shape[:1]
    return Reconstruction(images, labels.long() if usable else None)


@contextlib.contextmanager
def _second_derivatives() -> Iterator[None]:
    """Turn torch's refusal to differentiate a gradient into an outcome.

    Raises:
        NotApplicable: The network has an operation without a second derivative.
    """
    try:
        yield
    except RuntimeError as error:
        missing = re.search(r"derivative for (\S+) is not implemented", str(error))
        if missing is None:
            raise
        raise NotApplicable(
            f"the network has an operation without a second derivative: {missing[1]}"
        ) from error


def imprint_secrets(exchange: Exchange, weight: str, bias: str, structure: str) -> dict[str, Any]:
    """Return a planted layer in breaching's words.

    Args:
        exchange: What the server saw.
        weight: Name of the layer's weight parameter.
        bias: Name of the layer's bias parameter.
        structure: ``cumulative`` or ``sparse``, as breaching calls how rows share records.

    Raises:
        NotApplicable: The clients do not train that layer.
    """
    names = list(exchange.update.change)
    if weight not in names or bias not in names:
        raise NotApplicable(f"the update holds no change of {weight}")
    place = {
        "weight_idx": names.index(weight),
        "bias_idx": names.index(bias),
        "bias": exchange.model.get_parameter(bias).detach(),
        "shape": tuple(exchange.spec.shape),
        "structure": structure,
    }
    return {"ImprintBlock": place}
