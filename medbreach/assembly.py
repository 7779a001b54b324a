"""Plain settings to a plan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

import torch

from medbreach import plugins
from medbreach.captured import Captured
from medbreach.case import Case
from medbreach.components import Component, Dataset, Defense, Metric, Model
from medbreach.errors import ConfigError
from medbreach.federation import Federation
from medbreach.models.user_network import UserNetwork
from medbreach.plan import Options, Plan, with_adaptive
from medbreach.protocol import User
from medbreach.servers.modification import KEYS_OF
from medbreach.settings import build, nearest

C = TypeVar("C", bound=Component)

INERT: Mapping[str, frozenset[str]] = {
    "case": frozenset({"num_queries"}),
    "case.data": frozenset({
        "modality", "task", "size", "classes", "shape", "augmentations_train", "augmentations_val",
        "batch_size", "caching", "db", "disable_mlm", "mlm_probability", "tokenizer", "vocab_size",
    }),
    "case.impl": frozenset({
        "shuffle", "sample_with_replacement", "non_blocking", "sharing_strategy", "benchmark",
        "deterministic", "pin_memory", "threads", "persistent_workers", "mixed_precision",
        "grad_scaling", "JIT", "validate_every_nth_step", "checkpoint",
        "enable_huggingface_offline_mode",
    }),
    "case.server": frozenset({"one_shot_ba", "query_once_for_labels", "grad_idx"}),
    "attack": frozenset({"type", "text_strategy", "token_recovery", "token_strategy"}),
}  # fmt: skip
"""Keys of breaching's files that have no effect here."""

PLANTED = "case.server.model_modification"

WORDS: Mapping[str, str] = {
    "case.data": "data set",
    "case.server": "server",
    "case.model": "model",
}
"""What the component of a section is called."""


@dataclass(frozen=True)
class Implementation:
    """How clients compute.

    Attributes:
        dtype: ``float`` or ``double``.
    """

    dtype: Literal["float", "double"] = "float"


def refuse_inert(overrides: Sequence[str], plan: Plan, settings: Mapping[str, Any]) -> None:
    """Refuse to set what has no effect.

    Args:
        overrides: ``key=value`` each, from the command line.
        plan: What they and the files describe.
        settings: The same as plain data.

    Raises:
        ConfigError: A key of breaching's is set that nothing here heeds, or the model beside the
            user's own network, or a key that the planted block or the attack does not heed.
    """
    _refuse_unplanted(overrides, plan, settings)
    heeding: dict[str, tuple[Component, ...]] = {
        "case.data": (plan.case.dataset,),
        "attack": tuple(plan.attacks.values()),
    }
    for text in overrides:
        path = text.partition("=")[0]
        section, _, key = path.rpartition(".")
        heeded = any(hasattr(component, key) for component in heeding.get(section, ()))
        if key in INERT.get(section, ()) and not heeded:
            raise ConfigError(f"{path} has no effect in medbreach: leave it out")
        top, _, name = section.partition(".")
        takers = [a for own, a in plan.attacks.items() if top == "attack" and name in ("", own)]
        takers = [attack for attack in takers if not attack.blind]
        if takers and all(key in getattr(attack, "unheeded", ()) for attack in takers):
            raise ConfigError(f"{path} has no effect on a {takers[0].name} attack: leave it out")
        if f"{path}.".startswith("case.model.") and isinstance(plan.case.model, UserNetwork):
            raise ConfigError(f"{path} has no effect beside --model: leave one of them out")


def _refuse_unplanted(overrides: Sequence[str], plan: Plan, settings: Mapping[str, Any]) -> None:
    """Refuse keys of the planted block that its type does not have, in a file as well.

    No file of ours or of breaching's has such keys. If the type itself is set on the command line,
    those of the file are for another type and are let pass.

    Raises:
        ConfigError: There is such a key.
    """
    planted = getattr(plan.case.server, "model_modification", None)
    if planted is None:
        return
    paths = [text.partition("=")[0] for text in overrides]
    given = [path.removeprefix(f"{PLANTED}.") for path in paths if path.startswith(f"{PLANTED}.")]
    if "type" not in given:
        given += settings["case"]["server"].get("model_modification") or ()
    for key in given:
        if key not in KEYS_OF.get(planted.type, {key}):
            raise ConfigError(f"{PLANTED}.{key} has no effect on a {planted.type}: leave it out")


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
        attacks=with_adaptive(attacks) if any(stacks.values()) else attacks,
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
    name, word = str(settings[key]), WORDS.get(where, where)
    if where in ("attack", "case.server") and name.lower() not in map(str.lower, kinds):
        raise ConfigError(
            f"there is no {word} {name!r} in medbreach: choose another by "
            f"{where.replace('.', '/')}=NAME; 'medbreach list {word}s' names them"
        )
    kind = plugins.pick(kinds, name, word)
    inert = INERT.get(where, frozenset())
    own = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    chosen = {k: v for k, v in settings.items() if k != key and (k in own or k not in inert)}
    return build(kind, chosen, where)


def _defense(settings: Mapping[str, Any]) -> Defense:
    chosen = {k: v for k, v in settings.items() if k != "label"}
    return component(plugins.defenses(), chosen, "defense")


def _metrics(options: Options) -> tuple[Metric, ...]:
    kinds = plugins.metrics()
    names = dict.fromkeys(options.metrics)
    return tuple(build(plugins.pick(kinds, n, "metric"), {}, f"metric {n}") for n in names)


def _case(settings: Mapping[str, Any], user_network: UserNetwork | None) -> Case:
    known = {"name", "data", "server", "user", "impl", "model", "weights", "captured"}
    for key in settings:
        if key not in known | INERT["case"]:
            raise ConfigError(f"case has no key {key!r}; {nearest(key, known)}")
    for key in ("name", "data", "server", "user"):
        if settings.get(key) in (None, ""):
            raise ConfigError(f"case.{key} is not set")
    for key in ("data", "server", "user", "impl"):
        if not isinstance(settings.get(key, {}), Mapping):
            raise ConfigError(f"case.{key} must be settings by key, got {settings[key]!r}")
    if not isinstance(settings["name"], str | int | float):
        raise ConfigError(f"case.name must be text, got {settings['name']!r}")
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
        captured=Captured(settings["captured"]) if settings.get("captured") else None,
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
    if settings.get("modality") and str(settings.get("name")).lower() not in map(str.lower, kinds):
        raise ConfigError(
            f"breaching's data set {settings.get('name')} is not read here: choose another by "
            "case/data=NAME, or your own images by case/data=image_folder case.data.path=FOLDER"
        )
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
    if settings in (None, ""):
        raise ConfigError("case.model is not set: name a network, or give --model FILE.py:FUNCTION")
    if not isinstance(settings, str | Mapping):
        raise ConfigError(f"case.model must be the name of a network, got {settings!r}")
    chosen = settings if isinstance(settings, Mapping) else {"name": settings}
    return component(plugins.models(), chosen, "case.model")
