"""``key=value`` settings of the command line, before their values are read."""

import re
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from medbreach.errors import ConfigError
from medbreach.settings import nearest

TOPS: Final = ("case", "attack", "defense", "audit", "training")
GROUPS: Final = (*TOPS, "case/data", "case/server", "case/user", "case/impl")
LITERAL: Final = frozenset({"path", "weights", "patients"})
"""Keys whose values are taken as written: paths and patterns may have brackets and commas."""

_KEY: Final = re.compile(r"\w+(?:[./][\w+-]+)*")


class Override(NamedTuple):
    """One ``key=value``.

    Attributes:
        key: A group with slashes, or a key with dots.
        value: The value, read.
    """

    key: str
    value: Any

    @property
    def is_choice(self) -> bool:
        """Whether it picks a file rather than sets a key."""
        return "/" in self.key or self.key in TOPS


def split(text: str) -> tuple[str, str]:
    """Return an override's key and its value as it is written.

    Raises:
        ConfigError: It is no ``key=value``, or its key is of no section.
    """
    key, equals, written = text.partition("=")
    if not equals or not _KEY.fullmatch(key):
        raise ConfigError(f"{text!r} is no setting: write key=value")
    top = re.split("[./]", key)[0]
    if top not in TOPS:
        raise ConfigError(f"there is no setting {key}; {nearest(top, TOPS)}")
    if "/" in key and key not in GROUPS:
        raise ConfigError(f"there is no config group {key}; {nearest(key, GROUPS)}")
    return key, written


def is_literal(key: str, written: str) -> bool:
    """Return whether a value is the text that is written, without a look at its letters."""
    return key.rpartition(".")[2] in LITERAL and not written.startswith(("'", '"', "null"))


def choices_of(overrides: Iterable[Override]) -> dict[str, Any]:
    """Return what is chosen, by group.

    Raises:
        ConfigError: A group is chosen twice.
    """
    choices: dict[str, Any] = {}
    for override in overrides:
        if override.is_choice and override.key in choices:
            raise ConfigError(f"{override.key} is given twice: leave one out")
        if override.is_choice:
            choices[override.key] = override.value
    return choices


def one(group: str, value: Any) -> str:
    """Return the one name that a group was given.

    Raises:
        ConfigError: It was given something else.
    """
    if isinstance(value, (list, dict)):
        raise ConfigError(f"{group} takes one name, not {value}: write {group}=NAME")
    return "" if value is None else str(value)


def several(group: str, value: Any) -> list[str]:
    """Return the names that a group was given; none if it was not.

    Raises:
        ConfigError: It was given something else.
    """
    if value is None:
        return []
    listed = value if isinstance(value, list) else [value]
    if not listed or any(isinstance(name, (list, dict)) for name in listed):
        raise ConfigError(f"{group}={value} names no {group}: write {group}=NAME or {group}=[A,B]")
    return list(dict.fromkeys(map(str, listed)))
