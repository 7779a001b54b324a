"""``medbreach list`` and ``medbreach show``."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import click

KINDS = (
    "attacks",
    "servers",
    "defenses",
    "metrics",
    "datasets",
    "models",
    "cases",
    "plugins",
)
GROUP_OF = {
    "attack": "attack",
    "server": "case/server",
    "defense": "defense",
    "dataset": "case/data",
}
NAME_KEY = {"attack": "attack_type", "server": "name", "defense": "name", "dataset": "name"}

Row = tuple[str, str]


@click.command("list")
@click.argument("kind", type=click.Choice(KINDS), required=False)
def list_command(kind: str | None) -> None:
    """List what is installed: attacks, servers, defenses, ..."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for one in [kind] if kind else KINDS:
        table = Table(title=one, title_justify="left", box=None, show_header=False, pad_edge=False)
        for name, text in rows(one):
            table.add_row(name, text)
        if table.row_count:
            console.print(table)
        else:
            console.print(f"{one}: none")
        if not kind:
            console.print()


@click.command("show")
@click.argument("kind", type=click.Choice([k.removesuffix("s") for k in KINDS[:-2]]))
@click.argument("name")
def show_command(kind: str, name: str) -> None:
    """Show one component: its settings, units, source, and how it differs from the source.

    KIND is attack, server, defense, metric, dataset or model.
    """
    from rich.console import Console
    from rich.markup import escape

    from medbreach.reference import describe_component

    component, chosen = find(kind, name)
    Console().print(escape(describe_component(component, chosen, name)), soft_wrap=True)


def rows(kind: str) -> Iterable[Row]:
    """Return the name of each thing of a kind and what it is, in a line."""
    from medbreach import config, plugins
    from medbreach.reference import first_line

    if kind == "plugins":
        return [(p.name, f"{p.distribution}: {p.state}") for p in plugins.installed()]
    if kind == "cases":
        return [(name, _comment("case", name)) for name in config.names("case")]
    kinds: dict[str, type] = dict(getattr(plugins, kind)())
    one = kind.removesuffix("s")
    if one not in GROUP_OF:
        return [(name, first_line(component)) for name, component in kinds.items()]
    listed = []
    for name in config.names(GROUP_OF[one]):
        component = kinds.get(_component_name(one, name))
        if component is not None:
            comment = _comment(GROUP_OF[one], name)
            listed.append((name, comment or f"{first_line(component)} ({component.name})"))  # type: ignore[attr-defined]
    return listed


def find(kind: str, name: str) -> tuple[Any, dict[str, Any]]:
    """Return a component's class and the settings that a choice of that name makes.

    Raises:
        ConfigError: There is nothing of that name.
    """
    from medbreach import config, plugins

    lookup: Callable[[], dict[str, Any]] = getattr(plugins, f"{kind}s")
    kinds = lookup()
    if kind in GROUP_OF and name in config.names(GROUP_OF[kind]):
        chosen = config.read_choice(GROUP_OF[kind], name)
        component = plugins.pick(kinds, str(chosen.get(NAME_KEY[kind])), kind)
        return component, chosen
    component = plugins.pick(kinds, name, kind)
    return component, {
        f.name: f.default
        for f in dataclasses.fields(component)
        if f.default is not dataclasses.MISSING
    }


def _component_name(kind: str, choice: str) -> str:
    """Return the registered name behind a choice, read from its file without composing it."""
    import re

    from medbreach import config

    pattern = re.compile(rf"^{NAME_KEY[kind]}:\s*[\"']?([^\s\"'#]+)", re.M)
    for root in config.roots():
        file = root / GROUP_OF[kind] / f"{choice}.yaml"
        while file.is_file():
            text = file.read_text()
            match = pattern.search(text)
            if match:
                return match[1]
            inherited = re.search(r"^defaults:\n\s+- (\w+)", text, re.M)
            if not inherited:
                return ""
            file = file.with_name(f"{inherited[1]}.yaml")
    return choice


def _comment(group: str, name: str) -> str:
    """Return the first comment line of a choice's file."""
    from medbreach import config

    for root in config.roots():
        file = root / group / f"{name}.yaml"
        if file.is_file():
            first = file.read_text().split("\n", 1)[0]
            return first.lstrip("# ").strip() if first.startswith("#") else ""
    return ""
