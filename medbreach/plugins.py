"""Finding what is installed: the plugin manager, and look-ups by name."""

import difflib
import functools
import importlib
import os
import traceback
import warnings
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from importlib import metadata
from typing import Any, NamedTuple, TypeVar

import pluggy

from medbreach import hookspecs
from medbreach.components import Attack, Component, Dataset, Defense, Metric, Model, Server
from medbreach.errors import ConfigError, MedbreachError, PluginError
from medbreach.settings import nearest
from medbreach.types import Finding

BUILTIN = (
    "medbreach.attacks",
    "medbreach.datasets",
    "medbreach.defenses",
    "medbreach.metrics",
    "medbreach.models",
    "medbreach.servers",
)
GROUP = "medbreach"

C = TypeVar("C", bound=Component)


class PluginWarning(UserWarning):
    """A plugin is left out because it cannot be loaded, or could not take note of a finding."""


class Plugin(NamedTuple):
    """An installed plugin.

    Attributes:
        name: Name of its entry point.
        distribution: Name and version of the distribution that it comes in.
        state: ``"loaded"``, ``"blocked"``, or why it could not be loaded.
    """

    name: str
    distribution: str
    state: str


def new_manager(*, third_party: bool = True) -> pluggy.PluginManager:
    """Return a manager that knows the built-in plugins and, unless told not to, installed ones.

    ``MEDBREACH_BLOCK=name,...`` leaves plugins out by the names of their entry points. A name
    there that no plugin has is warned about. A plugin that raises while it is imported is left out
    with a `PluginWarning`; the others go on.

    Raises:
        PluginError: A plugin implements a hook that does not exist, or with the wrong arguments.
    """
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    for module in BUILTIN:
        manager.register(importlib.import_module(module), module)
    for name in blocked():
        manager.set_blocked(name)
    offered = entry_points() if third_party else []
    if third_party:
        _check_blocked({entry.name for entry in offered})
    for entry in offered:
        if entry.name in blocked():
            continue
        problem = _register(manager, entry)
        if problem:
            warnings.warn(
                f"plugin {entry.name} is left out: {problem}", PluginWarning, stacklevel=2
            )
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        unknown = str(error).partition(" in plugin ")[0]
        hook = unknown.rpartition("hook ")[2].strip("'")
        known = nearest(hook, difflib.get_close_matches(hook, hook_names(), n=1) or hook_names())
        culprit = manager.get_name(error.plugin)
        raise PluginError(f"plugin {culprit} implements an {unknown}; {known}") from error
    return manager


@functools.cache
def manager() -> pluggy.PluginManager:
    """Return the process's plugin manager, loaded on first use."""
    return new_manager()


def hook_names() -> list[str]:
    """Return the names of the hooks that a plugin can implement."""
    return [name for name in vars(hookspecs) if name.startswith(f"{GROUP}_")]


def call(hook: str, **arguments: Any) -> list[Any]:
    """Call every plugin's implementation of a hook, and return what is not None.

    Raises:
        PluginError: One raised; the message names its plugin.
    """
    caller: pluggy.HookCaller = getattr(manager().hook, hook)
    try:
        return caller(**arguments)  # type: ignore[no-any-return]
    except MedbreachError:
        raise
    except Exception as error:
        frames = {frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)}
        names = [i.plugin_name for i in caller.get_hookimpls() if i.function.__code__ in frames]
        raise PluginError(
            f"plugin {', '.join(names)} failed in {hook}: {type(error).__name__}: {error}"
        ) from error


def announce(finding: Finding) -> None:
    """Tell every plugin of a finding; one that fails is warned about, since the audit goes on."""
    try:
        call("medbreach_finding", finding=finding)
    except MedbreachError as error:
        words = str(error)
        if not isinstance(error, PluginError):
            words = f"plugin failed in medbreach_finding: {words}"
        warnings.warn(words, PluginWarning, stacklevel=2)


def blocked() -> frozenset[str]:
    """Return the names of plugins that the environment switches off."""
    names = os.environ.get("MEDBREACH_BLOCK", "").split(",")
    return frozenset(name.strip() for name in names if name.strip())


def entry_points() -> list[metadata.EntryPoint]:
    """Return the entry points of installed plugins, in order of name, nothing imported."""
    return sorted(metadata.entry_points(group=GROUP), key=lambda entry: entry.name)


def installed() -> list[Plugin]:
    """Return every installed third-party plugin, loaded or not."""
    rows = []
    for entry in entry_points():
        dist = entry.dist
        origin = f"{dist.name} {dist.version}" if dist else "unknown"
        state = "blocked" if entry.name in blocked() else ""
        if not state:
            state = "loaded" if manager().has_plugin(entry.name) else _import_problem(entry)
        rows.append(Plugin(entry.name, origin, state))
    return rows


def attacks() -> dict[str, type[Attack]]:
    """Return every attack by name."""
    return by_name(call("medbreach_attacks"), Attack)


def servers() -> dict[str, type[Server]]:
    """Return every server by name."""
    return by_name(call("medbreach_servers"), Server)


def defenses() -> dict[str, type[Defense]]:
    """Return every defense by name."""
    return by_name(call("medbreach_defenses"), Defense)


def metrics() -> dict[str, type[Metric]]:
    """Return every metric by name."""
    return by_name(call("medbreach_metrics"), Metric)


def datasets() -> dict[str, type[Dataset]]:
    """Return every data set by name."""
    return by_name(call("medbreach_datasets"), Dataset)


def models() -> dict[str, type[Model]]:
    """Return every model by name."""
    return by_name(call("medbreach_models"), Model)


def by_name(offers: Iterable[Any], kind: type[C]) -> dict[str, type[C]]:
    """Return the offered components by name, in order of name.

    Args:
        offers: What each plugin's hook returned: classes, if it did as it should.
        kind: What they have to be.

    Raises:
        PluginError: Two components have the same name, or one is no component of this kind.
    """
    found: dict[str, type[C]] = {}
    for component in (component for offer in offers for component in _listed(offer, kind)):
        _check_offer(component, kind)
        other = found.setdefault(component.name.lower(), component)
        if other is not component:
            modules = " and ".join(sorted([other.__module__, component.__module__]))
            raise PluginError(
                f"{modules} both offer {component.name!r}: rename one, or leave one out with "
                "MEDBREACH_BLOCK=NAME; 'medbreach list plugins' has the names"
            )
    return {component.name: component for _, component in sorted(found.items())}


def pick(kinds: Mapping[str, type[C]], name: str, what: str) -> type[C]:
    """Return one component's class; a name in other letter case will do.

    Raises:
        ConfigError: There is none of that name.
    """
    by_lower = {known.lower(): known for known in kinds}
    if name not in kinds and name.lower() in by_lower:
        name = by_lower[name.lower()]
    if name not in kinds:
        raise ConfigError(f"there is no {what} named {name!r}; {nearest(name, kinds)}")
    return kinds[name]


def _listed(offer: Any, kind: type[Component]) -> list[Any]:
    if isinstance(offer, Iterable) and not isinstance(offer, type):
        return list(offer)
    raise PluginError(
        f"{offer!r} was offered where a list of {kind.__name__} classes is needed: put it in []"
    )


def _check_offer(component: Any, kind: type[Component]) -> None:
    if not (isinstance(component, type) and issubclass(component, kind)):
        raise PluginError(f"{component!r} was offered as {kind.__name__}, which it is not")
    who = f"{component.__module__}.{component.__name__}"
    for attribute in ("name", "source"):
        if not isinstance(getattr(component, attribute, None), str):
            raise PluginError(f'{who} has no {attribute}: add {attribute}: ClassVar[str] = "..."')
    own = vars(component).get("__dataclass_params__")
    if own is None or not own.frozen:
        raise PluginError(f"{who} is no frozen dataclass: put @dataclass(frozen=True) above it")
    below = component.__mro__[: component.__mro__.index(kind)]
    if any("__call__" in vars(base) for base in below):
        raise PluginError(
            f"{who} overrides __call__, which checks what the component returns: leave it alone"
        )


def _register(manager: pluggy.PluginManager, entry: metadata.EntryPoint) -> str:
    """Register a plugin; return why it cannot be, or ``""``.

    Raises:
        PluginError: It implements a hook with the wrong arguments.
    """
    problem = _import_problem(entry)
    if problem:
        return problem
    try:
        manager.register(entry.load(), entry.name)
    except pluggy.PluginValidationError as error:
        raise PluginError(" ".join(str(error).split())) from error
    except ValueError as error:  # the same module under two names
        return str(error)
    return ""


def _check_blocked(names: AbstractSet[str]) -> None:
    for name in sorted(blocked() - names):
        warnings.warn(
            f"plugin {name!r} of MEDBREACH_BLOCK does not exist; {nearest(name, names)}",
            PluginWarning,
            stacklevel=2,
        )


def _import_problem(entry: metadata.EntryPoint) -> str:
    try:
        entry.load()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a stranger's module raises
        return f"{type(error).__name__} while importing {entry.module}: {error}"
    return ""
