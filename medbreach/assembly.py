"""Plain settings to a plan."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

import torch

from medbreach import plugins
from medbreach.case import Case
from medbreach.components import Component, Dataset, Defense, Metric, Model
from medbreach.errors import ConfigError
from medbreach.models.user_network import UserNetwork
from medbreach.plan import Options, Plan
from medbreach.population import Federation
from medbreach.protocol import User
from medbreach.settings import build, nearest

C = TypeVar("C", bound=Component)

INERT: Mapping[str, frozenset[str]] = {
    "case": frozenset({"num_queries"}),
    "case.data": frozenset(
        "modality task size classes shape augmentations_train augmentations_val batch_size caching "
        "db disable_mlm mlm_probability tokenizer vocab_size".split()
    ),
    "case.server": frozenset(),
    "case.impl": frozenset(
        "shuffle sample_with_replacement non_blocking sharing_strategy benchmark deterministic "
        "pin_memory threads persistent_workers mixed_precision grad_scaling JIT "
        "validate_every_nth_step checkpoint enable_huggingface_offline_mode".split()
    ),
    "attack": frozenset({"type", "text_strategy", "token_recovery", "token_strategy"}),
}
"""Keys of breaching's files that have no effect here."""


@dataclass(frozen=True)
class Implementation:
    """How clients compute.

    Attributes:
        dtype: ``float`` or ``double``.
    """

    dtype: Literal["float", "double"] = "float"


def refuse_inert(overrides: list[str]) -> None:
    """Refuse to set a key of breaching's that has no effect here.

    Raises:
        ConfigError: One is set.
    """
    for text in overrides:
        section, _, key = text.partition("=")[0].rpartition(".")
        if key in INERT.get(section, ()):
            raise ConfigError(f"{section}.{key} has no effect in medbreach: leave it out")


def assemble(settings: Mapping[str, Any], user_network: UserNetwork | None = None) -> Plan:
    """Return the plan that resolved settings describe.

    Args:
        settings: What `medbreach.config.load` returns.
        user_network: The network that the user named on the command line.

    Raises:
        ConfigError: A name or key is unknown, or a value is refused.
    """
    options = build(Options, settings["audit"], "audit")
    attacks = {
        name: component(plugins.attacks(), chosen, "attack", key="attack_type")
        for name, chosen in settings["attacks"].items()
    }
    stacks = {
        name: tuple(_defense(chosen) for chosen in members)
        for name, members in settings["stacks"].items()
    }
    return Plan(
        case=_case(settings["case"], user_network),
        attacks=attacks,
        stacks=stacks,
        metrics=_metrics(options),
        options=options,
    )


def component(
    kinds: Mapping[str, type[C]], settings: Mapping[str, Any], where: str, key: str = "name"
) -> C:
    """Return one component, made with its settings.

    Args:
        kinds: Classes by name.
        settings: The component's name and its fields.
        where: Dotted path of the settings, for errors.
        key: Key of the name.

    Raises:
        ConfigError: The name or a key is unknown, or a value is refused.
    """
    if not settings.get(key):
        raise ConfigError(f"{where}.{key} is not set; {nearest('', kinds)}")
    kind = plugins.pick(kinds, str(settings[key]), where.rpartition(".")[2])
    inert = INERT.get(where, frozenset())
    own = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    chosen = {k: v for k, v in settings.items() if k != key and (k in own or k not in inert)}
    return build(kind, chosen, where)


def _defense(settings: Mapping[str, Any]) -> Defense:
    chosen = {k: v for k, v in settings.items() if k != "label"}
    return component(plugins.defenses(), chosen, "defense")


def _metrics(options: Options) -> tuple[Metric, ...]:
    kinds = plugins.metrics()
    offered = [name for name in kinds if not kinds[name].__module__.startswith("medbreach.")]
    names = dict.fromkeys([*options.metrics, *offered])
    return tuple(build(plugins.pick(kinds, n, "metric"), {}, f"metric {n}") for n in names)


def _case(settings: Mapping[str, Any], user_network: UserNetwork | None) -> Case:
    known = {"name", "data", "server", "user", "impl", "model", "weights"}
    for key in settings:
        if key not in known | INERT["case"]:
            raise ConfigError(f"case has no key {key!r}; {nearest(key, known)}")
    absent = known - {"impl", "weights", "model"} - set(settings)
    if absent:
        raise ConfigError(f"the case has no {', '.join(sorted(absent))}")
    dataset, federation = _dataset(settings["data"])
    weights = settings.get("weights")
    impl = build(Implementation, _effective(settings.get("impl"), "case.impl"), "case.impl")
    return Case(
        name=str(settings["name"]),
        dataset=dataset,
        model=user_network or _model(settings.get("model")),
        server=component(plugins.servers(), settings["server"], "case.server"),
        user=build(User, settings["user"], "case.user"),
        federation=federation,
        dtype=torch.float64 if impl.dtype == "double" else torch.float32,
        weights=None if weights is None else str(weights),
    )


def _effective(settings: Mapping[str, Any] | None, where: str) -> dict[str, Any]:
    return {k: v for k, v in (settings or {}).items() if k not in INERT[where]}


def _dataset(settings: Mapping[str, Any]) -> tuple[Dataset, Federation]:
    """Return a data set and how its patients are dealt, whose keys share one section.

    Raises:
        ConfigError: The data are text, or a name or key is unknown.
    """
    if settings.get("modality", "vision") != "vision":
        raise ConfigError(f"case.data {settings.get('name')} is {settings['modality']}, not images")
    dealing = {f.name for f in fields(Federation)}
    kinds = plugins.datasets()
    kind = plugins.pick(kinds, str(settings.get("name")), "data set")
    own = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    for key in settings:
        if key not in own | dealing | INERT["case.data"] | {"name"}:
            raise ConfigError(f"case.data has no key {key!r}; {nearest(key, own | dealing)}")
    dataset = component(
        kinds, {k: v for k, v in settings.items() if k in own | {"name"}}, "case.data"
    )
    dealt = {k: v for k, v in settings.items() if k in dealing}
    return dataset, build(Federation, dealt, "case.data")


def _model(settings: Any) -> Model:
    if settings is None:
        raise ConfigError("case.model is not set: name a network, or give --model file.py:function")
    chosen = settings if isinstance(settings, Mapping) else {"name": settings}
    return component(plugins.models(), chosen, "case.model")
