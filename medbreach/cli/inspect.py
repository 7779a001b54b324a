"""``medbreach list`` and ``medbreach show``."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import click

from medbreach.cli.console import console
from medbreach.errors import ConfigError

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
Row = tuple[str, str]


@click.command("list")
@click.argument("kind", type=click.Choice(KINDS), required=False)
def list_command(kind: str | None) -> None:
    """List what is installed: attacks, servers, defenses, ..."""
    from rich.markup import escape
    from rich.table import Table

    screen = console()
    for one in [kind] if kind else KINDS:
        table = Table(title=one, title_justify="left", box=None, show_header=False, pad_edge=False)
        for name, text in rows(one):
            table.add_row(escape(name), escape(text))
        if table.row_count:
            screen.print(table)
        else:
            screen.print(f"{one}: none")
        if not kind:
            screen.print()


@click.command("show")
@click.argument("kind", type=click.Choice([k.removesuffix("s") for k in KINDS[:-1]]))
@click.argument("name")
def show_command(kind: str, name: str) -> None:
    """Show one component: its settings, units, source, and how it differs from the source.

    KIND is attack, server, defense, metric, dataset, model or case; of a case, its settings.
    """
    from rich.markup import escape

    from medbreach.reference import describe_component

    if kind == "case":
        text = case_text(name)
    else:
        component, chosen = find(kind, name)
        text = describe_component(component, chosen, name)
    console().print(escape(text), soft_wrap=True, highlight=False)


def rows(kind: str) -> Iterable[Row]:
    """Return the name of each thing of a kind and what it is, in a line."""
    from medbreach import choices, plugins
    from medbreach.reference import first_line

    if kind == "plugins":
        return [(p.name, f"{p.distribution}: {p.state}") for p in plugins.installed()]
    if kind == "cases":
        return [
            (name, choices.comment("case", name) or "breaching's.")
            for name in choices.names("case")
        ]
    kinds: dict[str, type] = dict(getattr(plugins, kind)())
    one = kind.removesuffix("s")
    if one not in GROUP_OF:
        return [(name, first_line(component)) for name, component in kinds.items()]
    group = GROUP_OF[one]
    return [
        (name, choices.comment(group, name) or f"{first_line(component)} ({component.name})")  # type: ignore[attr-defined]
        for name in choices.names(group)
        if (component := kinds.get(choices.component_name(group, name))) is not None
    ]


def find(kind: str, name: str) -> tuple[Any, dict[str, Any]]:
    """Return a component's class and the settings that a choice of that name makes.

    Raises:
        ConfigError: There is nothing of that name.
    """
    from medbreach import choices, plugins
    from medbreach.settings import nearest

    lookup: Callable[[], dict[str, Any]] = getattr(plugins, f"{kind}s")
    kinds = lookup()
    offered = [choice for choice, _ in rows(f"{kind}s")]
    by_lower = {choice.lower(): choice for choice in offered}
    if kind in GROUP_OF and name.lower() in by_lower:
        from medbreach.config import read_choice

        group = GROUP_OF[kind]
        chosen = read_choice(group, by_lower[name.lower()])
        return plugins.pick(kinds, str(chosen[choices.KIND_KEYS[group]]), kind), chosen
    if name.lower() not in map(str.lower, kinds):
        raise ConfigError(f"there is no {kind} named {name!r}; {nearest(name, {*offered, *kinds})}")
    component = plugins.pick(kinds, name, kind)
    return component, {
        f.name: f.default
        for f in dataclasses.fields(component)
        if f.default is not dataclasses.MISSING
    }


def case_text(name: str) -> str:
    """Return what a case is and every setting that it makes, as YAML.

    Raises:
        ConfigError: There is no such case.
    """
    from medbreach import choices
    from medbreach.config import as_yaml, read_choice

    found = choices.canonical("case", name)
    about = choices.comment("case", found)
    return f"{found}\n\n{about}\n\n{as_yaml(read_choice('case', found))}".rstrip()
