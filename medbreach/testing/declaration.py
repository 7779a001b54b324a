"""What a component says of itself."""

import dataclasses
import inspect
import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from medbreach.components import Component
from medbreach.settings import build, describe, plain
from medbreach.testing.guard import difference, require, running

C = TypeVar("C", bound=Component)


def check_declaration(component: type[C], settings: Mapping[str, Any] | None = None) -> C:
    """Check what a component says of itself, and return it made with its settings.

    It is a frozen dataclass with a name, a source and a docstring; its settings are documented,
    suffice to make it, and come back from a run record as they were.

    Args:
        component: Its class.
        settings: Its settings, as a case's YAML would have them; None for the defaults.

    Raises:
        AssertionError: It is not so; the sentence says what is missing.
    """
    made_of = vars(component).get("__dataclass_params__")
    require(
        made_of is not None and made_of.frozen,
        f"{component.__name__} is no frozen dataclass: put @dataclass(frozen=True) above the class",
    )
    name = getattr(component, "name", None)
    require(
        isinstance(name, str) and re.fullmatch(r"[A-Za-z][\w.-]*", name) is not None,
        f"{component.__name__} needs a name of letters, digits, _, . and -: "
        f'name: ClassVar[str] = "my_name", not {name!r}',
    )
    for attribute in ("source", "differs"):
        text = getattr(component, attribute, None)
        require(isinstance(text, str), f"{name}: {attribute} must be a string, not {text!r}")
    require(
        component.source.strip() != "",
        f"{name} does not say where it comes from: set source to a publication, or to your project",
    )
    _check_documentation(component)
    with running(f"{name} with {'its defaults' if settings is None else 'these settings'}"):
        made = build(component, settings, "settings")
        again = build(component, json.loads(json.dumps(plain(made))), "settings")
    lost = difference(made, again)
    require(lost is None, f"{name}: the setting {lost} does not come back from a run record")
    return made


def _check_documentation(component: type[Component]) -> None:
    name = component.name
    own = vars(component).get("__doc__") or ""
    made_up = own.startswith(f"{component.__name__}(")  # by dataclass, where there is none
    require(bool(own.strip()) and not made_up, f"{name} has no docstring")
    first = inspect.cleandoc(own).split("\n", 1)[0]
    require(
        first.endswith("."), f"{name}: the docstring's first line must be a sentence: {first!r}"
    )
    with running(name):
        rows = describe(component)
    for row in rows:
        require(
            row.doc != "",
            f"{name}: the setting {row.key} is not documented: add a line to the docstring's "
            f"Attributes: section",
        )
    for field in dataclasses.fields(component):  # type: ignore[arg-type]
        require(field.init, f"{name}: the field {field.name} is no setting: remove init=False")
