"""The start of a plugin: a distribution that works, to be filled with an idea of one's own."""

import importlib.util
import keyword
import re
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from medbreach import choices, plugins
from medbreach.errors import PluginError

TEMPLATES: Final = Path(__file__).parent / "templates"


class _Kind(NamedTuple):
    """What a kind of component is called.

    Attributes:
        base: Its base class.
        word: The word for it.
        group: Its group in the config tree; ``""`` if it has none.
        use: Setting that makes an audit use one named NAME.
    """

    base: str
    word: str
    group: str
    use: str


KINDS: Final = {
    "defense": _Kind("Defense", "defense", "defense", "'defense=[none,NAME]'"),
    "attack": _Kind("Attack", "attack", "attack", "case.model=linear attack=NAME"),
    "metric": _Kind("Metric", "metric", "", ""),
    "dataset": _Kind("Dataset", "data set", "case/data", "case/data=NAME"),
    "model": _Kind("Model", "model", "", "case.model=NAME"),
}


def write_plugin(name: str, kind: str = "defense", out: Path | None = None) -> Path:
    """Write a plugin distribution with tests that pass, and return its folder.

    Args:
        name: Name of its component, such as ``my_defense``.
        kind: ``defense``, ``attack``, ``metric``, ``dataset`` or ``model``.
        out: The folder to make; None for ``medbreach-NAME`` in the working folder.

    Raises:
        PluginError: The name is unfit or taken, or the folder is there or cannot be written.
            Nothing is left behind.
    """
    _check_name(name, kind)
    folder = out or Path(f"medbreach-{name}")
    if folder.exists() or folder.is_symlink():
        raise PluginError(f"{folder} is there already: choose another folder with --out")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".medbreach-") as scratch:
            made = Path(scratch) / "plugin"
            for path, text in _files(name, kind):
                (made / path).parent.mkdir(parents=True, exist_ok=True)
                (made / path).write_text(text, encoding="utf-8")
            made.rename(folder)
    except OSError as error:
        raise PluginError(f"{folder} cannot be written: {error.strerror or error}") from error
    return folder


def _files(name: str, kind: str) -> Iterator[tuple[str, str]]:
    """Yield each file's path in the distribution, and its text."""
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
    )
    chosen, package = KINDS[kind], _package(name)
    words = {
        "name": name,
        "class_name": _class_name(name, kind),
        "package": package,
        "distribution": package.replace("_", "-"),
        "kind": kind,
        **chosen._asdict(),
        "use": chosen.use.replace("NAME", name),
    }
    for template, path in (
        ("pyproject.toml.jinja", "pyproject.toml"),
        ("README.md.jinja", "README.md"),
        ("package/__init__.py.jinja", f"{package}/__init__.py"),
        (f"package/{kind}.py.jinja", f"{package}/{name}.py"),
        (f"tests/test_{kind}.py.jinja", f"tests/test_{name}.py"),
    ):
        yield path, templates.get_template(template).render(words)


def _package(name: str) -> str:
    return f"medbreach_{name}"


def _class_name(name: str, kind: str) -> str:
    camel = "".join(part.capitalize() for part in name.split("_"))
    return camel if camel.endswith(KINDS[kind].base) else camel + KINDS[kind].base


def _check_name(name: str, kind: str) -> None:
    """Check that a component, its package and its plugin can have a name.

    Raises:
        PluginError: They cannot.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        raise PluginError(
            f"{name!r} cannot name a plugin: use lower-case letters, digits and single "
            f"underscores, such as my_{kind}"
        )
    if keyword.iskeyword(name) or name == kind:
        what = "a Python keyword" if keyword.iskeyword(name) else "what all of its kind are called"
        raise PluginError(f"{name!r} is {what}: choose another name")
    word, group = KINDS[kind].word, KINDS[kind].group
    registered = {known.lower() for known in getattr(plugins, f"{kind}s")()}
    chosen = {known.lower() for known in (choices.names(group) if group else ())}
    if name in registered | chosen:
        article = "an" if word == "attack" else "a"
        raise PluginError(f"there is {article} {word} named {name!r} already: choose another name")
    entries = {entry.name for entry in metadata.entry_points(group=plugins.GROUP)}
    if name in entries or importlib.util.find_spec(_package(name)) is not None:
        raise PluginError(f"a plugin named {name!r} is installed already: choose another name")
