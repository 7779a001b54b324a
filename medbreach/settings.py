"""Plain data to frozen dataclasses and back, with errors that name the key.

A component's fields are its settings. Nothing here knows where the data come from.
"""

import dataclasses
import difflib
import inspect
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from beartype import BeartypeConf
from beartype.door import is_bearable

from medbreach.errors import ConfigError

T = TypeVar("T")

_WHOLE_NUMBERS_ARE_REAL = BeartypeConf(is_pep484_tower=True)


class Setting(NamedTuple):
    """One field of a component, for help and reference.

    Attributes:
        key: Dotted name of the field.
        type: Its type, as it is written.
        default: Its default value; `dataclasses.MISSING` if it has none.
        doc: What its class says about it.
    """

    key: str
    type: str
    default: Any
    doc: str


def build(kind: type[T], settings: Mapping[str, Any] | None, where: str) -> T:
    """Return a dataclass made from plain settings.

    Args:
        kind: The dataclass.
        settings: Its fields by name; nested dataclasses as mappings, tuples as lists.
        where: Dotted path of the settings, for errors.

    Raises:
        ConfigError: A key is unknown or missing, or a value has the wrong type or is refused.
    """
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in dataclasses.fields(kind) if f.init}  # type: ignore[arg-type]
    settings = dict(settings or {})
    for key in settings:
        if key not in known:
            raise ConfigError(f"{where} has no key {key!r}; {nearest(key, known)}")
    for name, spec in known.items():
        unset = spec.default is spec.default_factory is dataclasses.MISSING
        if unset and name not in settings:
            raise ConfigError(f"{where}.{name} is not set: give it a value of type {spec.type}")
    values = {k: _convert(v, hints[k], f"{where}.{k}") for k, v in settings.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a clause that names the known words nearest to a wrong one.

    >>> nearest("sede", ["seed", "seeds", "case"])
    'did you mean seed or seeds?'
    >>> nearest("invert", ["invertinggradients", "modern"])
    'did you mean invertinggradients?'
    >>> nearest("x", ["seed", "case"])
    'there are case, seed'
    """
    words = sorted(map(str, known), key=str.lower)
    by_lower = {w.lower(): w for w in words}
    asked = str(word).lower()
    close = difflib.get_close_matches(asked, by_lower, n=3, cutoff=0.6)
    if not close and len(asked) > 2:
        close = [w for w in by_lower if w.startswith(asked)][:3]
    if close:
        return f"did you mean {' or '.join(by_lower[c] for c in close)}?"
    return f"there are {', '.join(words)}" if words else "there are none"


def describe(kind: type, prefix: str = "") -> list[Setting]:
    """Return every setting of a dataclass, nested ones with dotted keys, in order."""
    hints = typing.get_type_hints(kind)
    docs = attribute_docs(kind)
    rows = []
    for spec in dataclasses.fields(kind):
        if not spec.init:
            continue
        default = spec.default
        if spec.default_factory is not dataclasses.MISSING:
            default = spec.default_factory()
        hint = hints[spec.name]
        key = prefix + spec.name
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            rows += describe(hint, f"{key}.")
        else:
            rows.append(Setting(key, type_name(hint), default, docs.get(spec.name, "")))
    return rows


def attribute_docs(kind: type) -> dict[str, str]:
    """Return what the ``Attributes:`` sections of a class and its bases say, by attribute."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        section = re.search(r"^Attributes:\n(.*?)(?=^\S|\Z)", _own_doc(base), re.M | re.S)
        entries = re.findall(
            r"^ {4}(\w+):\s*(.*?)(?=^ {4}\w+:|\Z)", section.group(1) if section else "", re.M | re.S
        )
        found |= {name: " ".join(text.split()) for name, text in entries}
    return found


def type_name(hint: Any) -> str:
    """Return a type as its author wrote it, without module names.

    >>> type_name(tuple[int, ...] | None)
    'tuple[int, ...] | None'
    """
    if isinstance(hint, type) and not typing.get_args(hint):
        return hint.__name__
    return re.sub(r"\b(?:[a-z_]+\.)+", "", str(hint)).replace("NoneType", "None")


def wanted(hint: Any) -> str:
    """Return what a value of a type has to be, in words.

    >>> wanted(tuple[int, ...] | None)
    'a list of whole numbers or null'
    >>> wanted(Literal["float", "double"])
    'float or double'
    """
    return " or ".join(_word(option) for option in _options(hint))


def plain(value: Any) -> Any:
    """Return a value as JSON and YAML can hold it: dataclasses as dicts, tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _own_doc(kind: type) -> str:
    return inspect.cleandoc(kind.__dict__.get("__doc__") or "")


def _convert(value: Any, hint: Any, where: str) -> Any:
    """Return a plain value as its field wants it.

    Raises:
        ConfigError: It has the wrong type.
    """
    nested = _dataclass_in(hint)
    if nested is not None and isinstance(value, Mapping):
        return build(nested, value, where)
    if isinstance(value, list):
        value = _tuples(value)
    if isinstance(value, str) and value and Path in _options(hint):
        value = Path(value).expanduser()
    if not _fits(value, hint):
        raise ConfigError(f"{where} must be {wanted(hint)}, got {_shown(value)}")
    if not _is_finite(value):
        raise ConfigError(f"{where} must be finite, got {_shown(value)}")
    return _with_floats(value, hint)


def _is_finite(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _fits(value: Any, hint: Any) -> bool:
    if isinstance(value, tuple):
        return any(_items_fit(value, option) for option in _options(hint))
    if isinstance(value, bool):  # which Python takes for the number 1
        literals = [word for option in _options(hint) for word in typing.get_args(option)]
        return hint is Any or bool in _options(hint) or any(value is word for word in literals)
    return is_bearable(value, hint, conf=_WHOLE_NUMBERS_ARE_REAL)


def _items_fit(items: tuple[Any, ...], hint: Any) -> bool:
    """Check every item, where beartype looks at one at random."""
    if hint is Any:
        return True
    if typing.get_origin(hint) is not tuple:
        return False
    kinds = _kinds(items, hint)
    return len(items) == len(kinds) and all(map(_fits, items, kinds))


def _kinds(items: tuple[Any, ...], hint: Any) -> tuple[Any, ...]:
    """Return the type of each item of a tuple."""
    kinds = typing.get_args(hint)
    return kinds[:1] * len(items) if len(kinds) == 2 and kinds[1] is Ellipsis else kinds


def _shown(value: Any) -> str:
    """Return a value as YAML has it."""
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    return repr(list(value) if isinstance(value, tuple) else value)


def _with_floats(value: Any, hint: Any) -> Any:
    """Return a value that fits, its whole numbers as floats where floats are wanted."""
    if isinstance(value, tuple):
        option = next(option for option in _options(hint) if _items_fit(value, option))
        kinds = _kinds(value, option) if option is not Any else (Any,) * len(value)
        return tuple(map(_with_floats, value, kinds))
    whole = isinstance(value, int) and not isinstance(value, bool)
    return (
        float(value) if whole and float in _options(hint) and int not in _options(hint) else value
    )


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _options(hint: Any) -> tuple[Any, ...]:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _dataclass_in(hint: Any) -> type | None:
    kinds = (h for h in _options(hint) if isinstance(h, type))
    return next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)


_WORDS: Mapping[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    type(None): "null",
}


def _word(hint: Any) -> str:
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        *others, last = (word if isinstance(word, str) else _shown(word) for word in inner)
        return f"{', '.join(others)} or {last}" if others else last
    if typing.get_origin(hint) is tuple:
        if len(inner) == 2 and inner[1] is Ellipsis:
            return f"a list of {_plural(inner[0])}"
        same = len(set(inner)) == 1
        return f"a list of {len(inner)} {_plural(inner[0])}" if same else type_name(hint)
    if dataclasses.is_dataclass(hint):
        return f"settings with the keys {', '.join(f.name for f in dataclasses.fields(hint))}"
    return _WORDS.get(hint, type_name(hint))


def _plural(hint: Any) -> str:
    """Return the word for several values of a type: ``numbers`` for ``a number``."""
    word = _word(hint)
    return f"{word.removeprefix('a ')}s" if word.startswith("a ") else word
