"""Flower's central differential privacy (flwr 1.41): a server adds noise to the mean of updates.

Noise of standard deviation noise_multiplier * clipping norm / num_sampled_clients is added to the
mean over the clients that reply. Their number, and their weights, are settings of another class.
"""

from collections.abc import Mapping
from typing import Any, Final

from medbreach_dp_lint.configuration import Clipping, Configuration, Noise, Sampling, Schedule
from medbreach_dp_lint.formats import common
from medbreach_dp_lint.keys import Keys

NAME: Final = "Flower central"

FIXED: Final = (
    "DifferentialPrivacyServerSideFixedClipping",
    "DifferentialPrivacyClientSideFixedClipping",
)
ADAPTIVE: Final = (
    "DifferentialPrivacyServerSideAdaptiveClipping",
    "DifferentialPrivacyClientSideAdaptiveClipping",
)
KEYS: Final = (
    "strategy",
    "noise_multiplier",
    "clipping_norm",
    "num_sampled_clients",
    "initial_clipping_norm",
    "target_clipped_quantile",
    "clip_norm_lr",
    "clipped_count_stddev",
)
BESIDES: Final = (
    "delta",
    "num_clients",
    "fraction_train",
    "min_train_nodes",
    "clients_replying",
    "equal_weights",
    "largest_weight",
    "amplification",
    "accounted_rounds",
    "claimed_epsilon",
)


def recognises(found: Mapping[str, Any]) -> bool:
    """Return whether a mapping has arguments of a strategy with central privacy."""
    return any(key in found for key in ("strategy", "num_sampled_clients"))


def read(found: Mapping[str, Any], source: str, added: Mapping[str, Any]) -> Configuration:
    """Return what the strategy's arguments say.

    Raises:
        ConfigError: They are wrong.
    """
    keys = common.opened(found, source, added, (*KEYS, *BESIDES))
    sampled = int(common.need(keys.whole("num_sampled_clients"), keys, "num_sampled_clients"))
    norm, adaptive = _norm(keys)
    multiplier = keys.number("noise_multiplier")
    weight, replying = _weight(keys, sampled)
    delta = common.delta_of(keys, "delta")
    claim = common.claim(keys, delta)
    claim = common.stated(claim, keys.number("claimed_epsilon", above=True), "claimed_epsilon")
    count_std = keys.number("clipped_count_stddev")
    if adaptive and count_std is None:
        count_std = sampled / 20  # Flower's default
    rounds = keys.whole("rounds") or 1
    return Configuration(
        source=source,
        framework=f"{NAME}, {'adaptive' if adaptive else 'fixed'} clipping",
        unit="client",
        noise=Noise(
            scale=None if multiplier is None else multiplier * norm / sampled,
            multiplier=multiplier,
            bare=common.bare_layers(keys),
            added_by="server",
        ),
        clipping=Clipping(
            norm=norm,
            of="update",
            sensitivity=norm / sampled,
            weight=weight,
            typical=keys.number("typical_norm", above=True),
        ),
        sampling=_sampling(keys, replying),
        schedule=Schedule(rounds=rounds, accounted=keys.whole("accounted_rounds")),
        claim=claim,
        network=common.network(keys),
        equal_weights=_equal(keys),
        count_std=count_std if adaptive else None,
        assumed=_assumed(keys, delta),
    )


def _norm(keys: Keys) -> tuple[float, bool]:
    """Return the clipping norm, and whether it adapts."""
    strategy = keys.word("strategy", (*FIXED, *ADAPTIVE))
    adaptive = strategy in ADAPTIVE or (strategy is None and "initial_clipping_norm" in keys)
    key = "initial_clipping_norm" if adaptive else "clipping_norm"
    other = "clipping_norm" if adaptive else "initial_clipping_norm"
    if other in keys:
        raise keys.refuse(other, f"is of another strategy; give {key}")
    keys.share("target_clipped_quantile", above=False)
    keys.number("clip_norm_lr", above=True)
    norm = keys.number(key, above=True)
    if norm is None and adaptive:
        norm = 0.1  # Flower's default
    return common.need(norm, keys, key), adaptive


def _weight(keys: Keys, sampled: int) -> tuple[float, int]:
    """Return the largest share of one client in the mean, and how many reply."""
    keys.alone("largest_weight", "equal_weights")
    total = keys.whole("num_clients")
    share, least = keys.share("fraction_train"), keys.whole("min_train_nodes")
    replying = keys.whole("clients_replying")
    if replying is None and share is not None:
        known = int(common.need(total, keys, "num_clients"))
        replying = min(max(int(known * share), least or 2), known)
    replying = replying or sampled
    if total is not None and max(replying, sampled) > total:
        key = "clients_replying" if replying > total else "num_sampled_clients"
        raise keys.refuse(key, f"is more than num_clients, {total}")
    largest = keys.share("largest_weight")
    return (1 / replying if largest is None else largest), replying


def _sampling(keys: Keys, replying: int) -> Sampling:
    total = keys.whole("num_clients")
    return Sampling(
        rate=1.0 if total is None else replying / total,
        method="fixed_size",
        amplified=bool(keys.flag("amplification")),
        population=total,
    )


def _equal(keys: Keys) -> bool | None:
    if "largest_weight" in keys:
        return False
    return keys.flag("equal_weights")


def _assumed(keys: Keys, delta: float | None) -> tuple[str, ...]:
    told = list(common.assumptions(delta))
    if "clients_replying" not in keys and "fraction_train" not in keys:
        told.append("All sampled clients are taken to reply.")
    return tuple(told)
