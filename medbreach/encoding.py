"""Findings as lines of JSON, and back."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from medbreach.settings import plain
from medbreach.text import file_name
from medbreach.types import Finding, Guarantee, Rate, Role, Verdict

_TEXTS: Final = {
    "case", "server", "attack", "defenses", "role", "verdict", "note", "device",
    "unit", "adjacency", "how",
}  # fmt: skip


class Line(NamedTuple):
    """One line of ``findings.jsonl``.

    Attributes:
        id: Name of the attempt.
        sample: Name of the images that it was tried on; empty if there were none.
        finding: What it showed.
    """

    id: str
    sample: str
    finding: Finding


def encode(value: Any) -> Any:
    """Return plain values as JSON can hold them: numbers that are not finite as strings.

    >>> encode({"psnr": [float("inf"), 1.0]})
    {'psnr': ['inf', 1.0]}
    """
    if isinstance(value, Mapping):
        return {k: encode(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def as_read(value: Any) -> Any:
    """Return settings as they come back from a JSON file.

    >>> as_read({"rate": float("inf"), "size": (2, 3)})
    {'rate': 'inf', 'size': [2, 3]}
    """
    return json.loads(json.dumps(encode(plain(value))))


def line_to_json(line: Line) -> str:
    """Return a line without its end."""
    values = {"id": line.id, "sample": line.sample, **plain(line.finding)}
    return json.dumps(encode(values), allow_nan=False)


def line_from_json(text: str) -> Line:
    """Undo `line_to_json`; keys that a finding does not have are left out.

    Raises:
        ValueError: It is no finding.
    """
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("it holds no finding")  # noqa: TRY004 - a wrong value of the file
    known = {f.name for f in dataclasses.fields(Finding)}
    found = {k: _decode(v, k) for k, v in values.items() if k in known - {"guarantees"}}
    try:
        found["role"], found["verdict"] = Role(found["role"]), Verdict(found["verdict"])
        if found.get("null") is not None:
            found["null"] = Rate(**found["null"])
        found["guarantees"] = tuple(
            Guarantee(**{k: _decode(v, k) for k, v in one.items()})
            for one in values.get("guarantees", ())
        )
        line = Line(str(values["id"]), str(values["sample"]), Finding(**found))
    except KeyError as error:
        raise ValueError(f"it has no {error.args[0]}") from error
    except TypeError as error:
        raise ValueError("a value is missing or has the wrong type") from error
    for name in (line.id, line.sample):
        if name != file_name(name):  # it becomes part of a path
            raise ValueError(f"{name!r} is no name of an attempt or its images")
    return line


def _decode(value: Any, key: str = "") -> Any:
    """Undo `encode`: lists to tuples, and strings to numbers but in fields that hold text."""
    if isinstance(value, list):
        return tuple(_decode(v, key) for v in value)
    if isinstance(value, dict):
        return {k: _decode(v) for k, v in value.items()}
    if isinstance(value, str) and key not in _TEXTS:
        return float(value)
    return value
