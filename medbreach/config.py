"""breaching's config tree and ours to plain settings. The one file that knows Hydra.

The search path is the user's folder, ours, each plugin's, then breaching's. A group choice such as
``case/server=malicious-model-rtf`` picks a file; ``case.user.num_data_points=4`` sets a key. What a
component's settings may be is checked where it is built, against its fields.
"""

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from medbreach import plugins
from medbreach.errors import ConfigError
from medbreach.plan import BLIND, UNDEFENDED
from medbreach.settings import nearest

PRIMARY = "medbreach"
TOPS = ("case", "attack", "defense", "audit")
GROUPS = (*TOPS, "case/data", "case/server", "case/user", "case/impl")
KIND_KEYS = {"attack": "attack_type", "defense": "name", "case/server": "name", "case/data": "name"}

Settings = dict[str, Any]


class Override(NamedTuple):
    """One ``key=value`` of the command line."""

    key: str
    value: Any

    @property
    def is_choice(self) -> bool:
        """Whether it picks a file rather than sets a key."""
        return "/" in self.key or self.key in TOPS


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
    choices = {o.key: o.value for o in parsed if o.is_choice}
    values = [o for o in parsed if not o.is_choice]
    attacks = _names(choices.pop("attack", None), default=_default("attack", folder))
    stacks = _names(choices.pop("defense", None), default=[UNDEFENDED])
    picked = [f"{key}={value}" for key, value in choices.items()]
    base = _compose(picked, folder)
    _set(base, [o for o in values if o.key.split(".")[0] in ("case", "audit")])
    attacks = [*(b for b in BLIND if b not in attacks), *attacks]
    members = {stack: stack.split("+") if stack != UNDEFENDED else [] for stack in stacks}
    defenses = list(dict.fromkeys(name for names in members.values() for name in names))
    found_attacks = _components("attack", attacks, values, folder)
    found_defenses = _components("defense", defenses, values, folder)
    return {
        "case": _plain(base["case"]),
        "attacks": found_attacks,
        "stacks": {s: [{"label": n, **found_defenses[n]} for n in members[s]] for s in members},
        "audit": _plain(base["audit"]),
    }


def names(group: str, folder: Path | None = None) -> list[str]:
    """Return every choice of a group, from every config tree and from components without YAML."""
    found = set(_unwritten(group))
    for root in roots(folder):
        for file in (root / group).glob("*.yaml"):
            if not file.name.startswith("_"):
                found.add(file.stem)
    return sorted(found, key=str.lower)


def read_choice(group: str, name: str) -> Settings:
    """Return the settings of one choice of a group, defaults included.

    Raises:
        ConfigError: There is no such choice.
    """
    composed = _compose([f"{group}={name}"], None)
    return _plain(OmegaConf.select(composed, group.replace("/", ".")))


def roots(folder: Path | None = None) -> list[Path]:
    """Return the config trees in the order in which they are searched."""
    own = [] if folder is None else [folder]
    offered = [_package_folder(package) for package in plugins.manager().hook.medbreach_cases()]
    return [*own, shipped(), *offered, breaching_tree()]


def shipped() -> Path:
    """Return the config tree that comes with medbreach.

    A wheel carries it inside the package, a checkout beside it.
    """
    package = Path(str(resources.files("medbreach")))
    inside = package / "cases"
    return inside if inside.is_dir() else package.parent / "cases"


def breaching_tree() -> Path:
    """Return breaching's config tree, without importing breaching, which takes seconds."""
    spec = importlib.util.find_spec("breaching")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "config"


def _package_folder(package: str) -> Path:
    return Path(str(resources.files(package)))


def _parse(text: str) -> Override:
    """Parse one override.

    Raises:
        ConfigError: It is no ``key=value``.
    """
    try:
        parsed = OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise ConfigError(f"{text!r} is no setting: write key=value") from error
    if parsed.is_add() or parsed.is_delete() or parsed.is_sweep_override():
        raise ConfigError(f"{text!r}: write key=value, or attack=[a,b] for several attacks")
    key = parsed.key_or_group
    top = key.replace("/", ".").split(".")[0]
    if top not in TOPS:
        raise ConfigError(f"{key} is no setting: {nearest(top, TOPS)}")
    if "/" in key and key not in GROUPS:
        raise ConfigError(f"there is no config group {key}; {nearest(key, GROUPS)}")
    return Override(key, parsed.value())


def _names(value: Any, default: list[str]) -> list[str]:
    if value is None:
        return default
    listed = value if isinstance(value, list) else [value]
    return list(dict.fromkeys(str(name) for name in listed))


def _default(group: str, folder: Path | None) -> list[str]:
    primary = next(file for root in roots(folder) if (file := root / f"{PRIMARY}.yaml").is_file())
    for entry in OmegaConf.load(primary).defaults:
        if isinstance(entry, DictConfig) and group in entry:
            return [str(entry[group])]
    return []


def _compose(choices: Sequence[str], folder: Path | None) -> DictConfig:
    """Compose the tree with some choices.

    Raises:
        ConfigError: A choice is unknown or its file is damaged.
    """
    for choice in choices:
        group, _, name = choice.partition("=")
        _check_choice(group, name, folder)
    first, *rest = roots(folder)
    _store_unwritten()
    paths = ",".join(f"file://{path}" for path in rest)
    try:
        with initialize_config_dir(str(first.resolve()), version_base="1.3"):
            return compose(PRIMARY, [*choices, f"hydra.searchpath=[{paths}]"])
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(" ".join(str(error).split())[:400]) from error
    except Exception as error:  # what PyYAML raises has no common base that is public
        if type(error).__module__.startswith("yaml"):
            raise ConfigError(f"a config file is no valid YAML: {error}") from error
        raise


def _check_choice(group: str, name: str, folder: Path | None) -> None:
    known = names(group, folder)
    if name not in known:
        what = group.split("/")[-1].replace("data", "data set")
        raise ConfigError(f"there is no {what} named {name!r}; {nearest(name, known)}")


def _components(
    group: str, chosen: Iterable[str], values: Sequence[Override], folder: Path | None
) -> dict[str, Settings]:
    """Return the settings of each chosen attack or defense, with the overrides that are for it.

    ``attack.key=value`` is for every chosen attack that has the key, ``attack.name.key=value`` for
    one.

    Raises:
        ConfigError: No chosen one has the key.
    """
    chosen = list(chosen)
    found = {name: _compose([f"{group}={name}"], folder)[group] for name in chosen}
    for override in values:
        top, _, rest = override.key.partition(".")
        if top != group:
            continue
        first, _, inner = rest.partition(".")
        if first in found:
            OmegaConf.update(_opened(found[first]), inner, override.value)
            continue
        takers = [name for name in chosen if first in _keys(group, found[name])]
        if not takers:
            known = {key for name in chosen for key in _keys(group, found[name])} - {"type"}
            raise ConfigError(f"no chosen {group} has the key {rest!r}; {nearest(first, known)}")
        for name in takers:
            OmegaConf.update(_opened(found[name]), rest, override.value)
    return {name: _plain(config) for name, config in found.items()}


def _keys(group: str, config: DictConfig) -> set[str]:
    """Return the keys of a chosen component: those of its file and those of its class."""
    kinds: Mapping[str, type] = plugins.attacks() if group == "attack" else plugins.defenses()
    kind = kinds.get(str(config.get(KIND_KEYS[group])))
    fields = getattr(kind, "__dataclass_fields__", {})
    blind = bool(getattr(kind, "blind", False))
    return set() if blind and not fields else {*map(str, config), *fields} - {KIND_KEYS[group]}


def _set(config: DictConfig, values: Sequence[Override]) -> None:
    for override in values:
        OmegaConf.update(_opened(config), override.key, override.value)


def _opened(config: DictConfig) -> DictConfig:
    OmegaConf.set_struct(config, value=False)
    return config


def _plain(config: Any) -> Settings:
    """Return a config as plain data.

    Raises:
        ConfigError: A value that must be given is not.
    """
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ConfigError(f"{missing[0]} must be given: add KEY={missing[0]}=value")
    try:
        return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise ConfigError(" ".join(str(error).split())[:400]) from error


def _unwritten(group: str) -> dict[str, Settings]:
    """Return components that no file names, as choices of their own."""
    kinds: dict[str, Mapping[str, type]] = {
        "attack": plugins.attacks(),
        "defense": plugins.defenses(),
        "case/server": plugins.servers(),
        "case/data": plugins.datasets(),
    }
    if group not in kinds:
        return {}
    third_party = {
        name: kind
        for name, kind in kinds[group].items()
        if not kind.__module__.startswith("medbreach.")
    }
    return {name: {KIND_KEYS[group]: name} for name in third_party}


def _store_unwritten() -> None:
    store = ConfigStore.instance()
    for group in KIND_KEYS:
        for name, node in _unwritten(group).items():
            store.store(name=name, node=node, group=group)
