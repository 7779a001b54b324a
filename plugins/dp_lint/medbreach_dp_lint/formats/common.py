"""The keys that medbreach's own files share, whatever the framework."""

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

from medbreach import ConfigError
from medbreach_dp_lint.configuration import (
    DELTA,
    PARAMETERS,
    Adjacency,
    Amount,
    Claim,
    Network,
    Unit,
)
from medbreach_dp_lint.keys import Keys

DESCRIPTION: Final = (
    "rounds",
    "parameters",
    "protects",
    "adjacency",
    "against",
    "epsilon_covers",
    "layers",
    "layers_with_noise",
    "frozen",
    "model",
    "typical_norm",
)
_MODEL: Final = ("batch_norm", "buffers_sent")
_AGAINST: Final[tuple[Literal["server", "others"], ...]] = ("server", "others")


def opened(
    found: Mapping[str, Any], source: str, added: Mapping[str, Any], known: Iterable[str]
) -> Keys:
    """Return the keys of a file, with what the user gave besides.

    Args:
        found: What was read.
        source: Where it comes from, for errors.
        added: What the user gave, by name.
        known: The format's own keys.

    Raises:
        ConfigError: A key is unknown, or given by the file and by the user.
    """
    known = {*known, *DESCRIPTION}
    for key in added:
        if found.get(key) is not None:
            raise ConfigError(f"{source}: {key} is in the file already; leave out --{key}")
    return Keys({**found, **added}, source, known)


def need(value: float | None, keys: Keys, names: str) -> float:
    """Return a value that has to be there.

    Raises:
        ConfigError: It is not.
    """
    if value is None:
        raise keys.refuse(names, "is missing: nothing can be counted without it")
    return value


def claim(keys: Keys, delta: float | None) -> Claim:
    """Return whom the file says that it protects, without an epsilon."""
    return Claim(
        covers=keys.word("epsilon_covers", _words(Amount)),
        delta=delta,
        unit=keys.word("protects", _words(Unit)),
        adjacency=keys.word("adjacency", _words(Adjacency)),
        against_server=keys.word("against", _AGAINST) == "server",
    )


def delta_of(keys: Keys, *names: str) -> float | None:
    """Return the delta, below 1.

    Raises:
        ConfigError: It is none, or given twice.
    """
    keys.alone(*names)
    for name in names:
        value = keys.number(name)
        if value is not None and value >= 1:
            raise keys.refuse(name, f"has to be below 1, and is {value:g}")
        if value is not None:
            return value
    return None


def network(keys: Keys) -> Network:
    """Return what the file says of the network."""
    model = keys.inner("model", _MODEL)
    sent = model.flag("buffers_sent")
    return Network(
        parameters=keys.whole("parameters"),
        batch_norm=bool(model.flag("batch_norm")),
        buffers_sent=True if sent is None else sent,
    )


def bare_layers(keys: Keys) -> tuple[str, ...]:
    """Return the trained layers that get no noise.

    Raises:
        ConfigError: Layers are named that the network does not have.
    """
    layers = keys.names("layers")
    noisy, frozen = keys.names("layers_with_noise"), keys.names("frozen")
    for key, names in (("layers_with_noise", noisy), ("frozen", frozen)):
        strange = [name for name in names if name not in layers]
        if strange:
            raise keys.refuse(key, f"names {strange[0]!r}, which is not among layers")
    if "layers_with_noise" not in keys:
        return ()
    return tuple(name for name in layers if name not in (*noisy, *frozen))


def assumptions(delta: float | None, parameters: int | None = PARAMETERS) -> tuple[str, ...]:
    """Return what is assumed where delta, or the number of parameters, is missing."""
    told = []
    if delta is None:
        told.append(f"No delta is given; {DELTA:g} is counted with.")
    if parameters is None:
        told.append(f"The update is taken to have {PARAMETERS:,} values; say --parameters.")
    return tuple(told)


def stated(made: Claim, epsilon: float | None, by: str, *, recurs: bool = False) -> Claim:
    """Return a claim with an epsilon."""
    return dataclasses.replace(made, epsilon=epsilon, by=by, recurs=recurs)


def _words(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind)
