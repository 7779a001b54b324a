"""breaching's config tree and ours to plain settings. The one file that knows Hydra.

A group choice such as ``case/server=malicious-model-rtf`` picks a file of `medbreach.choices`;
``case.user.num_data_points=4`` sets a key. What a component's settings may be is checked where it
is built, against its fields.
"""

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from hydra import compose, initialize
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from medbreach import captured, plugins
from medbreach.choices import KIND_KEYS, canonical, file_of, names, roots, unwritten
from medbreach.errors import ConfigError
from medbreach.overrides import GROUPS, Override, choices_of, is_literal, one, several, split
from medbreach.plan import BLIND, UNDEFENDED
from medbreach.settings import nearest

PRIMARY: Final = "medbreach"

Settings = dict[str, Any]


def load_tradeoff(
    overrides: Sequence[str] = (), folder: Path | None = None
) -> tuple[Settings, Settings]:
    """Return the resolved settings of an audit and those of the training beside it.

    Args:
        overrides: ``key=value`` each, ``training.key=value`` among them.
        folder: The user's own config tree, searched first.

    Raises:
        ConfigError: A group, name or key is unknown, or a file is no valid YAML.
    """
    parsed = [_parse(text) for text in overrides]
    own = [k for k, o in enumerate(parsed) if re.split("[./]", o.key)[0] == "training"]
    picked = {group: one(group, v) for group, v in choices_of([parsed[k] for k in own]).items()}
    composed = _compose(picked, folder)
    _set(composed, [parsed[k] for k in own if not parsed[k].is_choice])
    training = _plain(composed["training"], "training") if "training" in composed else {}
    return load([text for k, text in enumerate(overrides) if k not in own], folder), training


def load(overrides: Sequence[str] = (), folder: Path | None = None) -> Settings:
    """Return the resolved settings of an audit as plain data.

    Args:
        overrides: ``key=value`` each; ``attack`` and ``defense`` take lists too, and ``a+b`` is a
            stack of two defenses.
        folder: The user's own config tree, searched first.

    Returns:
        ``case``, ``attacks`` by name, ``stacks`` (lists of defenses) by name, and ``audit``.

    Raises:
        ConfigError: A group, name or key is unknown, or a file is no valid YAML.
    """
    parsed = [_parse(text) for text in overrides]
    for override in parsed:
        if re.split("[./]", override.key)[0] == "training":
            raise ConfigError(f"{override.key} has no effect on an audit: leave it out")
    choices = choices_of(parsed)
    values = [o for o in parsed if not o.is_choice]
    attacks = several("attack", choices.pop("attack", None)) or _default("attack", folder)
    attacks = [canonical("attack", name, folder) for name in attacks]
    attacks = [*BLIND, *dict.fromkeys(name for name in attacks if name not in BLIND)]
    stacks = several("defense", choices.pop("defense", None)) or [UNDEFENDED]
    listed = [_members(stack, folder) for stack in stacks]
    members = {"+".join(names) or UNDEFENDED: names for names in listed}
    defenses = list(dict.fromkeys(name for names in listed for name in names))
    picked = {group: one(group, value) for group, value in choices.items()}
    base = _compose(picked, folder, {"attack": attacks, "defense": defenses})
    _set(base, [o for o in values if o.key.split(".")[0] in ("case", "audit")])
    found_attacks = _components("attack", _found(base, "attack", attacks), values, folder)
    found_defenses = _components("defense", _found(base, "defense", defenses), values, folder)
    return captured.expanded(
        {
            "case": _plain(base["case"], "case"),
            "attacks": found_attacks,
            "stacks": {s: [{"label": n, **found_defenses[n]} for n in members[s]] for s in members},
            "audit": _plain(base["audit"], "audit"),
        }
    )


def read_choice(group: str, name: str) -> Settings:
    """Return the settings of one choice of a group, defaults included.

    Values that must be given are the string ``???``.

    Raises:
        ConfigError: There is no such choice.
    """
    chosen = OmegaConf.select(_compose({group: name}, None), group.replace("/", "."))
    return OmegaConf.to_container(chosen)  # type: ignore[return-value]


def value_of(text: str) -> Any:
    """Return the value of one ``key=value``.

    Raises:
        ConfigError: It cannot be read.
    """
    return _parse(text).value


def as_yaml(settings: Settings) -> str:
    """Return plain settings as YAML."""
    return OmegaConf.to_yaml(OmegaConf.create(settings))


def _parse(text: str) -> Override:
    """Parse one override.

    Raises:
        ConfigError: It is no ``key=value``, its key is of no section, or its value cannot be read.
    """
    key, written = split(text)
    if is_literal(key, written):
        return Override(key, written)
    try:
        parsed = OverridesParser.create().parse_override(text)
    except HydraException as error:
        if written.startswith(("[", "{", "'", '"')):
            raise ConfigError(f"the value in {text!r} has brackets or quotes left open") from error
        return Override(key, written)  # letters that Hydra wants in quotes
    if parsed.is_sweep_override():
        raise ConfigError(f"{text!r} has several values: write a list as {key}=[a,b]")
    return Override(key, parsed.value())


def _members(stack: str, folder: Path | None) -> list[str]:
    if stack == UNDEFENDED:
        return []
    return [canonical("defense", name, folder) for name in stack.split("+")]


def _default(group: str, folder: Path | None) -> list[str]:
    return [name for key, name in _defaults(_primary(folder)).items() if key == group]


def _primary(folder: Path | None) -> Path:
    return next(file for root in roots(folder) if (file := root / f"{PRIMARY}.yaml").is_file())


def _defaults(file: Path) -> dict[str, str]:
    """Return the choices in a file's list of defaults, by group.

    Raises:
        ConfigError: It is no valid YAML.
    """
    with _one_sentence(str(file)):
        content = OmegaConf.to_container(OmegaConf.load(file))
    listed = content.get("defaults") if isinstance(content, dict) else None
    single = [e for e in listed or () if isinstance(e, dict) and len(e) == 1]
    return {str(group): str(name) for entry in single for group, name in entry.items()}


def _compose(
    choices: Mapping[str, str],
    folder: Path | None,
    beside: Mapping[str, Sequence[str]] | None = None,
) -> DictConfig:
    """Compose the tree with some choices, whose letter case does not matter.

    Args:
        choices: One choice a group.
        folder: The user's own config tree.
        beside: Several choices a group, whose settings `_found` returns.

    Raises:
        ConfigError: A choice is unknown or its file is damaged.
    """
    found = {group: canonical(group, name, folder) for group, name in choices.items()}
    if "case" in found:
        found = {**_inside_case(found["case"], set(found), folder), **found}
    picked = [f"{group}={_quoted(name)}" for group, name in found.items()]
    for group, several_names in (beside or {}).items():
        places = enumerate(several_names)
        picked += [f"+{group}@{group}s.n{k}={_quoted(name)}" for k, name in places]
    _store_unwritten(folder)
    primary = _primary(folder)
    path = ",".join(_quoted(f"file://{tree}") for tree in roots(folder))
    with _one_sentence(str(primary)), initialize(config_path=None, version_base="1.3"):
        # Hydra wants the primary file in the first tree, but a user's own tree need not have one
        ConfigStore.instance().store(f"_{PRIMARY}", OmegaConf.load(primary))
        composed = compose(f"_{PRIMARY}", [*picked, f"hydra.searchpath=[{path}]"])
    absent = {"case", "audit"} - set(composed)
    if absent:
        raise ConfigError(f"{primary} chooses no {' and no '.join(sorted(absent))}")
    return composed


def _found(composed: DictConfig, group: str, names: Sequence[str]) -> dict[str, DictConfig]:
    return {name: composed[f"{group}s"][f"n{k}"] for k, name in enumerate(names)}


def _inside_case(case: str, settled: set[str], folder: Path | None) -> dict[str, str]:
    """Return the choices that a case's own file makes of groups that are not settled yet.

    Raises:
        ConfigError: One is unknown.
    """
    file = file_of("case", case, folder)
    inside = {f"case/{key}": name for key, name in (_defaults(file) if file else {}).items()}
    return {
        group: canonical(group, name, folder)
        for group, name in inside.items()
        if group in GROUPS and group not in settled
    }


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _components(
    group: str,
    found: Mapping[str, DictConfig],
    values: Sequence[Override],
    folder: Path | None,
) -> dict[str, Settings]:
    """Return the settings of each chosen attack or defense, with the overrides that are for it.

    ``attack.key=value`` is for every chosen attack that has the key, ``attack.name.key=value`` for
    one.

    Raises:
        ConfigError: No chosen one has the key.
    """
    for override in values:
        top, _, rest = override.key.partition(".")
        if top != group:
            continue
        first, _, inner = rest.partition(".")
        if first in found and inner:
            _update(found[first], inner, override.value, override.key)
            continue
        takers = [name for name in found if first in _keys(group, found[name])]
        if not takers:
            raise ConfigError(_no_taker(group, override.key, first, found, folder))
        for name in takers:
            _update(found[name], rest, override.value, override.key)
    return {name: _plain(settings, f"{group}.{name}") for name, settings in found.items()}


def _no_taker(
    group: str, key: str, first: str, found: Mapping[str, DictConfig], folder: Path | None
) -> str:
    """Return what is wrong with a key that no chosen component has."""
    if not found:
        return f"{key} has no effect, since no {group} is chosen: add {group}=NAME"
    if first in names(group, folder):
        return f"{key} has no effect, since {first} is not chosen: add it to {group}="
    if first == KIND_KEYS[group]:
        return f"{key} cannot be set: choose another {group} by {group}=NAME"
    known = {known for name in found for known in _fields(group, found[name])}
    return f"no chosen {group} has the key {key.partition('.')[2]!r}; {nearest(first, known)}"


def _keys(group: str, settings: DictConfig) -> set[str]:
    """Return the keys of a chosen component: those of its class and those of its file."""
    fields = _fields(group, settings)
    blind = group == "attack" and str(settings.get(KIND_KEYS[group])) in BLIND
    return fields if blind else {*map(str, settings), *fields} - {KIND_KEYS[group]}


def _fields(group: str, settings: DictConfig) -> set[str]:
    kinds: Mapping[str, Any] = plugins.attacks() if group == "attack" else plugins.defenses()
    kind = kinds.get(str(settings.get(KIND_KEYS[group])))
    return {f.name for f in dataclasses.fields(kind)} if kind else set()


def _set(settings: DictConfig, values: Sequence[Override]) -> None:
    """Set keys of the case and the audit.

    Raises:
        ConfigError: A key is that of a group.
    """
    for key, value in values:
        group = key.replace(".", "/")
        if group in GROUPS and not isinstance(value, dict):
            raise ConfigError(
                f"{key} is a group of settings: choose one by {group}=NAME, or set a key by "
                f"{key}.KEY=value"
            )
        model = OmegaConf.select(settings, "case.model")
        if key.startswith("case.model.") and isinstance(model, str):
            _update(settings, "case.model", {"name": model}, key)
        _update(settings, key, value, key)


def _update(settings: DictConfig, key: str, value: Any, shown: str) -> None:
    OmegaConf.set_struct(settings, value=False)
    with _one_sentence(shown):
        OmegaConf.update(settings, key, value)


def _plain(settings: Any, where: str) -> Settings:
    """Return a config as plain data.

    Raises:
        ConfigError: A value that must be given is not, or one refers to something unknown.
    """
    with _one_sentence(where):
        resolved = OmegaConf.to_container(settings, resolve=True)
        missing = sorted(OmegaConf.missing_keys(settings))
    if missing:
        key = missing[0] if missing[0].startswith(f"{where}.") else f"{where}.{missing[0]}"
        raise ConfigError(f"{key} is not set: add {key}=VALUE")
    if not isinstance(resolved, dict):
        raise ConfigError(f"{where} must be settings by key, got {resolved!r}")
    return {str(key): value for key, value in resolved.items()}


@contextlib.contextmanager
def _one_sentence(where: str) -> Iterator[None]:
    """Turn errors of Hydra, OmegaConf and the YAML library into a sentence.

    Raises:
        ConfigError: There was one.
    """
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        first = str(error).split("\n", 1)[0]
        raise ConfigError(f"{where}: {first}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where} is no text in UTF-8") from error
    except RecursionError as error:
        raise ConfigError(f"{where}: a file's defaults lead back to the file itself") from error
    except Exception as error:  # what the YAML library raises has no base that is public here
        if type(error).__module__.partition(".")[0] == "yaml":
            raise ConfigError(
                f"{where} is no valid YAML: {' '.join(str(error).split())}"
            ) from error
        raise


def _store_unwritten(folder: Path | None) -> None:
    store = ConfigStore.instance()
    for group in KIND_KEYS:
        for name, node in unwritten(group).items():
            if file_of(group, name, folder) is None:
                store.store(name=name, node=node, group=group)
