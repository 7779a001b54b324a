"""Arguments of Opacus' PrivacyEngine, make_private and make_private_with_epsilon (1.6)."""

import math
from collections.abc import Mapping
from typing import Any, Final, Literal

from medbreach_dp_lint.configuration import (
    DELTA,
    Claim,
    Clipping,
    Configuration,
    Noise,
    Sampling,
    Schedule,
)
from medbreach_dp_lint.formats import common, plain
from medbreach_dp_lint.keys import Keys
from medbreach_dp_lint.subsampled import calibrated

NAME: Final = "Opacus"

ARGUMENTS: Final = (
    "noise_multiplier",
    "max_grad_norm",
    "target_epsilon",
    "target_delta",
    "epochs",
    "poisson_sampling",
    "accountant",
    "clipping",
    "grad_sample_mode",
    "loss_reduction",
    "batch_first",
    "secure_mode",
    "unclipped_num_std",
    "target_unclipped_quantile",
    "clipbound_learning_rate",
    "max_clipbound",
    "min_clipbound",
)
BESIDES: Final = (
    "framework",
    "delta",
    "steps",
    "accounted_steps",
    "sample_rate",
    "batch_size",
    "dataset_size",
    "clip_of",
)
_ACCOUNTANTS: Final[tuple[Literal["prv", "rdp", "gdp"], ...]] = ("prv", "rdp", "gdp")
_CLIPPED: Final[tuple[Literal["example", "batch"], ...]] = ("example", "batch")
_CLIPPING: Final = ("flat", "per_layer", "adaptive")
_MODES: Final = ("hooks", "functorch", "ew", "ghost", "ghost_fsdp", "no_op")


def recognises(found: Mapping[str, Any]) -> bool:
    """Return whether a mapping has arguments of Opacus."""
    own = ("max_grad_norm", "target_epsilon", "poisson_sampling", "grad_sample_mode")
    if found.get("framework") == "opacus" or any(key in found for key in own):
        return True
    return "noise_multiplier" in found and not plain.recognises(found)


def read(found: Mapping[str, Any], source: str, added: Mapping[str, Any]) -> Configuration:
    """Return what arguments of Opacus say.

    Raises:
        ConfigError: They are wrong.
    """
    keys = common.opened(found, source, added, (*ARGUMENTS, *BESIDES))
    _look_at_the_rest(keys)
    sampling = _sampling(keys)
    schedule = _schedule(keys, sampling.rate)
    clipping = _clipping(keys)
    accountant = keys.word("accountant", _ACCOUNTANTS) or "prv"
    delta = common.delta_of(keys, "target_delta", "delta")
    claim = _claim(keys, delta)
    multiplier = _multiplier(keys, claim, sampling, schedule, accountant)
    scale = None
    if multiplier is not None:
        scale = multiplier * (1.0 if clipping.norm is None else clipping.norm)
    return Configuration(
        source=source,
        framework=NAME,
        noise=Noise(
            scale=scale,
            multiplier=multiplier,
            calibration="given" if claim.epsilon is None else "accountant",
            bare=common.bare_layers(keys),
        ),
        clipping=clipping,
        sampling=sampling,
        schedule=schedule,
        claim=claim,
        network=common.network(keys),
        accountant=accountant,
        secure_mode=bool(keys.flag("secure_mode")),
        count_std=keys.number("unclipped_num_std"),
        assumed=_assumed(keys, delta),
    )


def _claim(keys: Keys, delta: float | None) -> Claim:
    keys.alone("target_epsilon", "noise_multiplier")
    epsilon = keys.number("target_epsilon", above=True)
    made = common.claim(keys, delta)
    return common.stated(made, epsilon, "target_epsilon", recurs=made.covers != "training")


def _multiplier(
    keys: Keys,
    claim: Claim,
    sampling: Sampling,
    schedule: Schedule,
    accountant: Literal["prv", "rdp", "gdp"],
) -> float | None:
    """Return the noise multiplier: the argument, or what Opacus finds for the target epsilon."""
    if claim.epsilon is None:
        return keys.number("noise_multiplier")
    steps = schedule.total if claim.covers == "training" else schedule.steps
    steps = schedule.accounted or steps
    delta = claim.delta or DELTA
    found = calibrated(claim.epsilon, delta, sampling.rate, steps, accountant)
    if found is None:
        raise keys.refuse(
            "target_epsilon",
            "is out of reach here: give the noise_multiplier that Opacus uses for it",
        )
    return found


def _clipping(keys: Keys) -> Clipping:
    method = keys.word("clipping", _CLIPPING) or "flat"
    norms = keys.value("max_grad_norm")
    if isinstance(norms, list):
        if method != "per_layer" or not norms:
            raise keys.refuse("max_grad_norm", "is a list, which is for clipping: per_layer only")
        each = [Keys({"max_grad_norm": n}, keys.where, ["max_grad_norm"]) for n in norms]
        parts = [common.need(k.number("max_grad_norm", above=True), k, "a norm") for k in each]
        norm: float | None = math.hypot(*parts)
    else:
        norm = keys.number("max_grad_norm", above=True)
    return Clipping(
        norm=norm,
        of=keys.word("clip_of", _CLIPPED) or "example",
        typical=keys.number("typical_norm", above=True),
    )


def _sampling(keys: Keys) -> Sampling:
    keys.alone("sample_rate", "batch_size")
    size, batch = keys.whole("dataset_size"), keys.whole("batch_size")
    rate = keys.share("sample_rate")
    if batch is not None:
        size = int(common.need(size, keys, "dataset_size"))
        if batch > size:
            raise keys.refuse("batch_size", f"is {batch}, more than dataset_size, {size}")
        rate = 1 / math.ceil(size / batch)  # as Opacus has it: one over the number of batches
    poisson = keys.flag("poisson_sampling")
    return Sampling(
        rate=1.0 if rate is None else rate,
        method="shuffle" if poisson is False else "poisson",
        population=size,
    )


def _schedule(keys: Keys, rate: float) -> Schedule:
    keys.alone("epochs", "steps")
    epochs, steps = keys.number("epochs", above=True), keys.whole("steps")
    if epochs is not None:
        if epochs / rate > 1e15:
            raise keys.refuse("epochs", "makes more steps than can be counted")
        steps = max(int(round(epochs / rate, 9)), 1)
    steps = int(common.need(steps, keys, "epochs or steps"))
    return Schedule(
        rounds=keys.whole("rounds") or 1, steps=steps, accounted=keys.whole("accounted_steps")
    )


def _look_at_the_rest(keys: Keys) -> None:
    """Check arguments that change nothing in the account."""
    keys.word("framework", ("opacus",))
    keys.word("grad_sample_mode", _MODES)
    keys.word("loss_reduction", ("mean", "sum"))
    keys.flag("batch_first")
    for key in ("target_unclipped_quantile", "clipbound_learning_rate"):
        keys.number(key)
    for key in ("max_clipbound", "min_clipbound"):
        keys.number(key)


def _assumed(keys: Keys, delta: float | None) -> tuple[str, ...]:
    told = list(common.assumptions(delta))
    if "sample_rate" not in keys and "batch_size" not in keys:
        told.append("No sampling rate is given; every record is taken to be in every step.")
    return tuple(told)
