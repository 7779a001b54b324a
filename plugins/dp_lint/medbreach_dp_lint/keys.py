"""The keys of a mapping from a file, with errors that name file and key."""

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from medbreach import ConfigError

Word = TypeVar("Word", bound=str)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a clause that names the known words nearest to a wrong one."""
    known = sorted(known)
    lower = {name.lower(): name for name in known}
    close = [lower[k] for k in difflib.get_close_matches(word.lower(), lower, n=2, cutoff=0.6)]
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"there are {', '.join(known)}"


def shown(value: object) -> str:
    """Return a value as a short word of a sentence."""
    kinds = {dict: "a mapping", list: "a list", bool: "true or false", type(None): "nothing"}
    if type(value) in kinds:
        return kinds[type(value)]
    words = str(value)
    return words if len(words) <= 40 else words[:37] + "..."


class Keys:
    """A mapping whose values are asked for by type.

    Args:
        mapping: What was read.
        where: The file, and the path to the mapping in it.
        known: The keys that there may be.

    Raises:
        ConfigError: A key is not known.
    """

    def __init__(self, mapping: Mapping[Any, Any], where: str, known: Iterable[str]) -> None:
        known = set(known)
        for key in mapping:
            if key not in known:
                word = shown(key)
                raise ConfigError(f"{where} has no key {word!r}; {nearest(word, known)}")
        self._mapping = mapping
        self.where = where

    def __contains__(self, key: str) -> bool:
        return self._mapping.get(key) is not None

    def refuse(self, key: str, why: str) -> ConfigError:
        """Return the error that a key is wrong."""
        return ConfigError(f"{self.where}: {key} {why}")

    def alone(self, *keys: str) -> None:
        """Check that at most one of some keys is given.

        Raises:
            ConfigError: More are.
        """
        given = [key for key in keys if key in self]
        if len(given) > 1:
            raise ConfigError(f"{self.where}: give either {' or '.join(given)}, not both")

    def number(self, key: str, *, least: float = 0.0, above: bool = False) -> float | None:
        """Return a finite number; None if there is none.

        Args:
            key: Its name.
            least: The least that it may be.
            above: It has to be more than that.

        Raises:
            ConfigError: It is no number, not finite or too small.
        """
        value = self._mapping.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.refuse(key, f"has to be a number, not {shown(value)}")
        return self._checked(key, value, least, above)

    def _checked(self, key: str, value: float, least: float, above: bool) -> float:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self.refuse(key, "has to be a finite number")
        if number < least or (above and number == least):
            bound = f"above {least:g}" if above else f"at least {least:g}"
            raise self.refuse(key, f"has to be {bound}, and is {shown(value)}")
        return number

    def share(self, key: str, *, above: bool = True) -> float | None:
        """Return a number up to 1.

        Raises:
            ConfigError: It is none.
        """
        value = self.number(key, above=above)
        if value is not None and value > 1:
            raise self.refuse(key, f"has to be at most 1, and is {value:g}")
        return value

    def whole(self, key: str) -> int | None:
        """Return a whole number above 0; None if there is none.

        Raises:
            ConfigError: It is none.
        """
        value = self.number(key, above=True)
        if value is None:
            return None
        if value != int(value) or value > 1e15:
            raise self.refuse(key, f"has to be a whole number below 1e15, and is {value:g}")
        return int(value)

    def flag(self, key: str) -> bool | None:
        """Return true or false; None if there is neither.

        Raises:
            ConfigError: It is something else.
        """
        value = self._mapping.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.refuse(key, f"has to be true or false, not {shown(value)}")
        return value

    def word(self, key: str, choices: Iterable[Word]) -> Word | None:
        """Return one of some words; None if there is none.

        Raises:
            ConfigError: It is another.
        """
        value = self._mapping.get(key)
        if value is None:
            return None
        for choice in choices:
            if value == choice:
                return choice
        clause = nearest(value, choices) if isinstance(value, str) else "it has to be a word"
        raise self.refuse(key, f"is {shown(value)}; {clause}")

    def names(self, key: str) -> tuple[str, ...]:
        """Return a list of words; none if it is missing.

        Raises:
            ConfigError: It is something else.
        """
        value = self._mapping.get(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise self.refuse(key, f"has to be a list of names, not {shown(value)}")
        return tuple(value)

    def inner(self, key: str, known: Iterable[str]) -> "Keys":
        """Return a mapping in the mapping; an empty one if it is missing.

        Raises:
            ConfigError: It is something else, or has an unknown key.
        """
        value = self._mapping.get(key)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise self.refuse(key, f"has to be a mapping, not {shown(value)}")
        return Keys(value, f"{self.where}: {key}", known)

    def value(self, key: str) -> Any:
        """Return a value as it was read."""
        return self._mapping.get(key)
