"""Write the reference pages from the components, when the documentation is built."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from medbreach import choices, plugins
from medbreach.case import Case
from medbreach.cli import program
from medbreach.federation import Federation
from medbreach.plan import Options
from medbreach.protocol import User
from medbreach.reference import body, facts, first_line
from medbreach.settings import describe
from medbreach.tradeoff.training import Training
from medbreach.types import Finding

KINDS = {
    "attacks": "What an attacker can do with what the server saw.",
    "servers": "Who runs the server, and what it plants.",
    "defenses": "What a client, or the aggregation, can do against it.",
    "metrics": "How good a claim looks. None of them decides what a leak is.",
    "datasets": "Where images come from.",
    "models": "Networks by name. Your own comes with `--model`.",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for name, text in pages():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def pages() -> Iterator[tuple[str, str]]:
    """Yield each generated page's name and text."""
    for kind, about in KINDS.items():
        components: dict[str, type] = dict(getattr(plugins, kind)())
        own = {n: c for n, c in components.items() if c.__module__.startswith("medbreach.")}
        yield kind, _page(kind, about, own)
    yield "cases", _cases()
    yield "commands", _commands()
    yield "run-record", _run_record()


def _page(kind: str, about: str, components: dict[str, type]) -> str:
    title = {"datasets": "Data sets"}.get(kind, kind.capitalize())
    if not components:
        return f"# {title}\n\n{about}\n\nNone comes with medbreach itself; plugins bring them.\n"
    parts = [f"# {title}\n\n{about}\n"]
    parts += [_component(name, component) for name, component in components.items()]
    return "\n".join(parts)


def _component(name: str, component: Any) -> str:
    lines = [f"## {name}\n", body(component), "", f"*Source:* {component.source}."]
    if component.differs:
        lines.append(f"*Differs from the source:* {component.differs}")
    lines += ["", *facts(component), "", _settings(component)]
    return "\n".join(lines)


def _settings(kind: type, prefix: str = "") -> str:
    rows = describe(kind, prefix)
    if not rows:
        return "No settings.\n"
    lines = ["| setting | type | default | meaning |", "|---|---|---|---|"]
    for row in rows:
        default = "required" if row.default is dataclasses.MISSING else f"`{_cell(row.default)}`"
        lines.append(f"| `{row.key}` | `{_cell(row.type)}` | {default} | {_cell(row.doc)} |")
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _cases() -> str:
    lines = [
        "# Cases",
        "",
        "A case says who has which images, which network is trained, and how.",
        "",
    ]
    cases = ", ".join(f"`{name}`" for name in choices.names("case"))
    lines += ["## Cases that come along", "", cases, ""]
    lines += ["## Clients", "", first_line(User), "", _settings(User, "case.user.")]
    lines += ["## Images", "", first_line(Federation), "", _settings(Federation, "case.data.")]
    lines += ["## The case itself", "", first_line(Case), ""]
    lines += [
        "`case.model` names a model, or gives a `name` and its settings.",
        "`case.weights` is a state-dict file that the first round starts from.",
        "",
    ]
    lines += ["## Audit", "", first_line(Options), "", _settings(Options, "audit.")]
    lines += ["## Training", "", first_line(Training), "", _settings(Training, "training.")]
    return "\n".join(lines)


def _commands() -> str:
    lines = ["# Commands", ""]
    for path, command in _walk(program, "medbreach"):
        context = click.Context(command, info_name=path)
        lines += [f"## {path}", "", "```text", command.get_help(context), "```", ""]
    return "\n".join(lines)


def _walk(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=path)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None:
                yield from _walk(inner, f"{path} {name}")


def _run_record() -> str:
    return f"""# Run record

A run folder holds

| file | what |
|---|---|
| `run.json` | settings as given and as resolved, versions, git revision, the images' spec |
| `findings.jsonl` | one line a finding, append-only |
| `samples/*.npz` | records and decoys of each seed |
| `claims/*.npz` | what each attack claimed; volumes as NIfTI too, at their record's place |
| `report.*` | made from the above, at any time |

It holds patients' images: treat it as you treat them.

## Fields of a finding

{_settings(Finding)}"""
