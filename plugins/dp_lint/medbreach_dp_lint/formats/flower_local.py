"""Flower's LocalDpMod (flwr 1.41): each client clips its update and adds Gaussian noise.

The standard deviation is sensitivity * sqrt(2 ln(1.25 / delta)) / epsilon; the sensitivity is a
number of its own that nothing ties to the clipping norm.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

from medbreach_dp_lint.configuration import (
    DELTA,
    Clipping,
    Configuration,
    Noise,
    Sampling,
    Schedule,
)
from medbreach_dp_lint.formats import common
from medbreach_dp_lint.gaussian import classic_multiplier

NAME: Final = "Flower LocalDpMod"

KEYS: Final = (
    "mod",
    "clipping_norm",
    "sensitivity",
    "epsilon",
    "delta",
    "num_clients",
)


def recognises(found: Mapping[str, Any]) -> bool:
    """Return whether a mapping has LocalDpMod's arguments."""
    return "mod" in found or {"clipping_norm", "sensitivity"} <= set(found)


def read(found: Mapping[str, Any], source: str, added: Mapping[str, Any]) -> Configuration:
    """Return what LocalDpMod's arguments say.

    Raises:
        ConfigError: They are wrong.
    """
    keys = common.opened(found, source, added, KEYS)
    keys.word("mod", ("LocalDpMod",))
    norm = common.need(keys.number("clipping_norm", above=True), keys, "clipping_norm")
    sensitivity = common.need(keys.number("sensitivity"), keys, "sensitivity")
    epsilon = common.need(keys.number("epsilon", above=True), keys, "epsilon")
    delta = common.delta_of(keys, "delta")
    multiplier = classic_multiplier(epsilon, delta or DELTA)
    scale = sensitivity * multiplier
    if not math.isfinite(scale) or not math.isfinite(multiplier):
        raise keys.refuse("epsilon", "is too small: the noise would be infinite")
    claim = common.stated(common.claim(keys, delta), epsilon, "epsilon", recurs=True)
    return Configuration(
        source=source,
        framework=NAME,
        unit="client",
        noise=Noise(
            scale=scale,
            multiplier=multiplier,
            calibration="classic",
            bare=common.bare_layers(keys),
        ),
        clipping=Clipping(
            norm=norm,
            of="update",
            sensitivity=sensitivity,
            typical=keys.number("typical_norm", above=True),
        ),
        sampling=Sampling(amplified=False, population=keys.whole("num_clients")),
        schedule=Schedule(rounds=keys.whole("rounds") or 1),
        claim=claim,
        network=common.network(keys),
        assumed=common.assumptions(delta),
    )
