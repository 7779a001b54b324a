"""The client configuration of an NVFlare job: its outgoing filters (nvflare 2.9.0).

Only the filters are looked at. What is not in them (rounds, size of the model, delta) is given by
options.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from medbreach import ConfigError
from medbreach_dp_lint.configuration import (
    Claim,
    Configuration,
    Filter,
    Network,
    Schedule,
    SparseVector,
)
from medbreach_dp_lint.formats import common
from medbreach_dp_lint.keys import Keys, shown

NAME: Final = "NVFlare"

SVT: Final = (
    "fraction",
    "epsilon",
    "noise_var",
    "gamma",
    "tau",
    "data_kinds",
    "replace",
    "epsilon_threshold",
    "epsilon_query",
    "epsilon_release",
)
PERCENTILE: Final = ("percentile", "gamma", "data_kinds")
NEUTRAL: Final = ("ConvertWeights", "DXOBlocker", "ExcludeVars", "StatisticsPrivacyFilter")
ENCRYPTION: Final = ("HEModelEncryptor", "HEModelDecryptor")


def recognises(found: Mapping[str, Any]) -> bool:
    """Return whether a mapping has NVFlare's filters."""
    return any(k in found for k in ("task_result_filters", "filters", "executors")) or (
        "args" in found and ("path" in found or "name" in found)
    )


def read(found: Mapping[str, Any], source: str, added: Mapping[str, Any]) -> Configuration:
    """Return what the outgoing filters say.

    Raises:
        ConfigError: They are wrong.
    """
    if "delta" in added:
        raise ConfigError(f"{source}: leave out --delta, as these filters are counted at delta 0")
    extra = Keys(added, source, ("rounds", "parameters"))
    parameters = extra.whole("parameters")
    chain = list(_filters(found, source))
    svt = [keys for name, keys in chain if name == "SVTPrivacy"]
    if len(svt) > 1:
        raise ConfigError(f"{source}: SVTPrivacy is there {len(svt)} times; lint each by itself")
    vector = _sparse_vector(svt[0]) if svt else SparseVector()
    return Configuration(
        source=source,
        framework=f"{NAME}, {' and '.join(name for name, _ in chain) or 'no outgoing filter'}",
        mechanism="svt" if svt else "none",
        unit="client",
        schedule=Schedule(rounds=extra.whole("rounds") or 1),
        claim=Claim(
            epsilon=vector.selection if svt else None,
            by="epsilon of SVTPrivacy",
            recurs=True,
            covers="round",
        ),
        network=Network(parameters=parameters),
        svt=vector,
        filters=tuple(_known(name) for name, _ in chain if name != "SVTPrivacy"),
        assumed=_assumed(extra, vector) if svt else (),
    )


def _filters(found: Mapping[str, Any], source: str) -> Iterator[tuple[str, Keys]]:
    """Yield the name of each outgoing filter with its arguments."""
    for path, entry in _entries(found, source):
        if not isinstance(entry, dict):
            raise ConfigError(f"{source}: {path} has to be a mapping, not {shown(entry)}")
        name = entry.get("path", entry.get("name"))
        if not isinstance(name, str) or not name:
            raise ConfigError(f"{source}: {path} has neither path nor name")
        name = name.rsplit(".", 1)[-1]
        arguments = entry.get("args") or {}
        if not isinstance(arguments, dict):
            raise ConfigError(f"{source}: {path}.args has to be a mapping, not {shown(arguments)}")
        known = {"SVTPrivacy": SVT, "PercentilePrivacy": PERCENTILE}.get(name, tuple(arguments))
        keys = Keys(arguments, f"{source}: {path}.args", known)
        if name == "PercentilePrivacy":
            keys.number("percentile")
            keys.number("gamma")
        yield name, keys


def _entries(found: Mapping[str, Any], source: str) -> Iterator[tuple[str, Any]]:
    if "task_result_filters" not in found:
        lone = "args" in found
        yield from (
            [("filter", found)] if lone else _listed(found.get("filters"), "filters", source)
        )
        return
    outer = _listed(found["task_result_filters"], "task_result_filters", source)
    for path, group in outer:
        if not isinstance(group, dict):
            raise ConfigError(f"{source}: {path} has to be a mapping, not {shown(group)}")
        yield from _listed(group.get("filters"), f"{path}.filters", source)


def _listed(value: Any, path: str, source: str) -> list[tuple[str, Any]]:
    if value is not None and not isinstance(value, list):
        raise ConfigError(f"{source}: {path} has to be a list, not {shown(value)}")
    return [(f"{path}[{k}]", entry) for k, entry in enumerate(value or [])]


def _sparse_vector(keys: Keys) -> SparseVector:
    stock = SparseVector()
    for key in ("epsilon_threshold", "epsilon_query"):
        keys.number(key, above=True)
    keys.number("tau")
    keys.flag("replace")
    gamma = keys.number("gamma", above=True)
    fraction = keys.share("fraction")
    epsilon = keys.number("epsilon", above=True)
    noise_var = keys.number("noise_var", above=True)
    return SparseVector(
        fraction=stock.fraction if fraction is None else fraction,
        selection=stock.selection if epsilon is None else epsilon,
        noise_var=stock.noise_var if noise_var is None else noise_var,
        release=keys.number("epsilon_release", above=True),
        gamma=stock.gamma if gamma is None else gamma,
    )


def _known(name: str) -> Filter:
    if name == "PercentilePrivacy":
        return Filter(name, "heuristic")
    if name in NEUTRAL:
        return Filter(name, "neutral")
    return Filter(name, "encryption" if name in ENCRYPTION else "unknown")


def _assumed(extra: Keys, vector: SparseVector) -> tuple[str, ...]:
    told: list[str] = []
    if "parameters" not in extra and vector.release is None:
        told.extend(common.assumptions(0.0, None))
    if "rounds" not in extra:
        told.append("One round is counted; say --rounds.")
    told.append("The class's own sum is taken at its word; delta is 0.")
    return tuple(told)
