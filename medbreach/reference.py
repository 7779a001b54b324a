"""What a component says of itself, as text."""

import dataclasses
import inspect
import textwrap
from collections.abc import Mapping
from typing import Any

from medbreach.settings import Setting, describe


def first_line(component: type) -> str:
    """Return the first line of a component's documentation."""
    return (inspect.getdoc(component) or "").split("\n", 1)[0]


def body(component: type) -> str:
    """Return a component's documentation without the section on its settings."""
    doc = inspect.getdoc(component) or ""
    return doc.split("\nAttributes:", 1)[0].strip()


def describe_component(component: Any, chosen: Mapping[str, Any], name: str) -> str:
    """Return everything there is to know before using a component.

    Args:
        component: Its class.
        chosen: Settings that differ from the class's, by key.
        name: The name that it was asked for by.
    """
    lines = [f"{name} ({component.name})" if name != component.name else name, "", body(component)]
    lines += ["", f"Source: {component.source}."]
    if component.differs:
        lines.append(f"Differs from the source: {component.differs}")
    lines += facts(component)
    rows = describe(component)
    lines += ["", "Settings:" if rows else "No settings."]
    lines += [_setting(row, chosen) for row in rows]
    return "\n".join(lines)


def facts(component: Any) -> list[str]:
    """Return what a component's class declares besides its settings, a sentence each."""
    found = []
    if getattr(component, "better", ""):
        found.append(f"Unit: {component.unit}; {component.better} means a closer likeness.")
    if getattr(component, "licence", ""):
        found.append(f"Licence of the images: {component.licence}.")
    if getattr(component, "needs", None):
        found.append(f"Needs from the client: {', '.join(sorted(component.needs))}.")
    if getattr(component, "dimensions", None):
        able = " and ".join(f"{d}D" for d in sorted(component.dimensions))
        channels = component.channels
        of = f", {' or '.join(map(str, sorted(channels)))} channels" if channels else ""
        found.append(f"Works on: {able} images{of}.")
    return found


def _setting(row: Setting, chosen: Mapping[str, Any]) -> str:
    value = row.default
    inside: Any = chosen
    for part in row.key.split("."):
        inside = inside.get(part, dataclasses.MISSING) if isinstance(inside, Mapping) else None
        if inside is None or inside is dataclasses.MISSING:
            break
    if inside is not None and inside is not dataclasses.MISSING:
        value = inside
    shown = "required" if value in (dataclasses.MISSING, "???") else repr(value)
    head = f"  {row.key} ({row.type}) = {shown}"
    text = textwrap.fill(row.doc, 92, initial_indent="      ", subsequent_indent="      ")
    return f"{head}\n{text}" if row.doc else head
