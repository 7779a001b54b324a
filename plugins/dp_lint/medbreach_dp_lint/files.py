"""Reading JSON and YAML files of strangers: plain data, or one sentence on why not."""

import json
import re
from pathlib import Path
from typing import Any, Final, NoReturn

import yaml  # type: ignore[import-untyped]

from medbreach import ConfigError, DataError

LARGEST: Final = 1 << 20  # bytes of a file (ours)

_EXPONENT: Final = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML without tags, anchors and double keys; 1e-5 is a number, as in YAML 1.2."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse aliases and anchors, by which a small file becomes a huge one."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _error(event, "anchors and aliases are not read")
        if getattr(event, "tag", None) is not None:
            raise _error(event, "tags are not read")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse keys that are no words, and those given twice."""
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _error(key, "a key has to be a word")
            if key.value in seen:
                raise _error(key, f"{key.value} is given twice")
            seen.add(key.value)
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789."))


def _error(place: Any, words: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=words, problem_mark=place.start_mark)


def read(path: Path) -> dict[str, Any]:
    """Return what a file says.

    Args:
        path: A file of JSON or YAML.

    Raises:
        DataError: It is missing, too large or no text.
        ConfigError: It is neither JSON nor YAML, or no mapping.
    """
    text = _text(path)
    found = _parse(text, path)
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: has to be a mapping of keys to values")
    return found


def _text(path: Path) -> str:
    try:
        if not path.is_file():
            raise DataError(f"{path}: there is no such file")
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({type(error).__name__})") from error
    if len(data) > LARGEST:
        raise DataError(f"{path}: is larger than {LARGEST} bytes, so it is no configuration")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text (byte {error.start})") from error


def _parse(text: str, path: Path) -> Any:
    try:
        if path.suffix.lower() == ".json" or text.lstrip()[:1] == "{":
            return _json(text, path)
        return yaml.load(text, _Loader)
    except RecursionError:
        raise ConfigError(f"{path}: is nested too deeply") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not YAML that is read here: {_reason(error)}") from error
    except ValueError as error:  # of dates, and of whole numbers with thousands of digits
        raise ConfigError(f"{path}: a value cannot be read ({' '.join(str(error).split())})") from (
            error
        )


def _json(text: str, path: Path) -> Any:
    try:
        return json.loads(text, parse_constant=_not_a_number, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        if path.suffix.lower() == ".json":
            raise ConfigError(f"{path}: line {error.lineno} is not JSON: {error.msg}") from error
        return yaml.load(text, _Loader)


def _not_a_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(k for k in keys if keys.count(k) > 1)} is given twice")
    return found


def _reason(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}, {error.problem}"
    return " ".join(str(error).split())[:100]
