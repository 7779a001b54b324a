"""Plain numbers: options of the command, or a file with the same names for any mechanism."""

from collections.abc import Mapping
from typing import Any, Final, Literal

from medbreach_dp_lint.configuration import (
    Claim,
    Clipping,
    Configuration,
    Noise,
    Sampling,
    Schedule,
)
from medbreach_dp_lint.formats import common
from medbreach_dp_lint.keys import Keys

NAME: Final = "plain numbers"

KEYS: Final = (
    "noise",
    "noise_multiplier",
    "noise_scale",
    "clip",
    "clip_order",
    "clip_of",
    "sensitivity",
    "mechanism",
    "sample_rate",
    "sampling",
    "amplification",
    "steps",
    "accounted_steps",
    "delta",
    "population",
    "claimed_epsilon",
    "accountant",
)
_OWN: Final = ("noise", "noise_scale", "clip")
_NOISE: Final[tuple[Literal["gaussian", "laplace"], ...]] = ("gaussian", "laplace")
_ORDER: Final[tuple[Literal["l2", "l1"], ...]] = ("l2", "l1")
_OF: Final[tuple[Literal["example", "batch", "update"], ...]] = ("example", "batch", "update")
_METHODS: Final[tuple[Literal["poisson", "shuffle", "fixed_size"], ...]] = (
    "poisson",
    "shuffle",
    "fixed_size",
)
_UNITS: Final[tuple[Literal["record", "client"], ...]] = ("record", "client")
_ACCOUNTANTS: Final[tuple[Literal["prv", "rdp", "gdp"], ...]] = ("prv", "rdp", "gdp")


def recognises(found: Mapping[str, Any]) -> bool:
    """Return whether a mapping has plain numbers."""
    return any(key in found for key in _OWN)


def read(found: Mapping[str, Any], source: str, added: Mapping[str, Any]) -> Configuration:
    """Return what plain numbers say.

    Raises:
        ConfigError: They are wrong.
    """
    keys = common.opened(found, source, added, KEYS)
    clipping = _clipping(keys)
    delta = common.delta_of(keys, "delta")
    rate = keys.share("sample_rate")
    unit = "client" if clipping.of == "update" else "record"
    noise = _noise(keys, clipping)
    return Configuration(
        source=source,
        framework=NAME,
        unit=keys.word("mechanism", _UNITS) or ("client" if unit == "client" else "record"),
        noise=noise,
        clipping=clipping,
        sampling=Sampling(
            rate=1.0 if rate is None else rate,
            method=keys.word("sampling", _METHODS) or "poisson",
            amplified=keys.flag("amplification") is not False,
            population=keys.whole("population"),
        ),
        schedule=Schedule(
            rounds=keys.whole("rounds") or 1,
            steps=int(common.need(keys.whole("steps"), keys, "steps")),
            accounted=keys.whole("accounted_steps"),
        ),
        claim=_claim(keys, delta),
        network=common.network(keys),
        accountant=keys.word("accountant", _ACCOUNTANTS),
        assumed=_assumed(keys, delta, noise, clipping, rate),
    )


def _noise(keys: Keys, clipping: Clipping) -> Noise:
    keys.alone("noise_multiplier", "noise_scale")
    multiplier, scale = keys.number("noise_multiplier"), keys.number("noise_scale")
    counted = clipping.norm if clipping.sensitivity is None else clipping.sensitivity
    if multiplier is not None:
        scale = multiplier * (1.0 if counted is None else counted)
    elif scale is not None and counted:
        multiplier = scale / counted
    return Noise(
        kind=keys.word("noise", _NOISE) or "gaussian",
        scale=scale,
        multiplier=multiplier,
        bare=common.bare_layers(keys),
    )


def _clipping(keys: Keys) -> Clipping:
    return Clipping(
        norm=keys.number("clip", above=True),
        order=keys.word("clip_order", _ORDER) or "l2",
        of=keys.word("clip_of", _OF) or "example",
        sensitivity=keys.number("sensitivity", above=True),
        typical=keys.number("typical_norm", above=True),
    )


def _claim(keys: Keys, delta: float | None) -> Claim:
    epsilon = keys.number("claimed_epsilon", above=True)
    return common.stated(common.claim(keys, delta), epsilon, "claimed_epsilon")


def _assumed(
    keys: Keys, delta: float | None, noise: Noise, clipping: Clipping, rate: float | None
) -> tuple[str, ...]:
    laplace = noise.kind == "laplace"
    told = list(common.assumptions(0.0 if laplace else delta))
    if laplace and clipping.order == "l2" and "parameters" not in keys:
        told.extend(common.assumptions(0.0, None))
    if rate is None:
        told.append("No sampling rate is given; everybody is taken to be in every step.")
    elif "sampling" not in keys and rate < 1:
        told.append("Sampling is taken to be Poisson sampling.")
    return tuple(told)
