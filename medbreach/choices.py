"""The config trees: which choices each group has, read from their files without composing them.

The trees are searched in this order: the user's folder, ours, each plugin's, then breaching's.
"""

import contextlib
import importlib.util
import re
import textwrap
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Final

from medbreach import plugins
from medbreach.errors import ConfigError, PluginError
from medbreach.settings import nearest

KIND_KEYS: Final = {
    "attack": "attack_type",
    "defense": "name",
    "case/server": "name",
    "case/data": "name",
}
"""The key that holds the registered name, for each group whose choices are components."""

FOR_TEXT: Final = {
    "attack": frozenset({"decepticon", "tag"}),
    "case": frozenset({"9_bert_training", "10_causal_lang_training"}),
    "case/data": frozenset({"cola", "shakespeare", "stackoverflow", "wikitext"}),
    "case/server": frozenset({"malicious-transformer"}),
}
"""What breaching has for text, which medbreach does not audit."""

LINE: Final = 150  # characters of a comment that are shown
_WORDS: Final = {"case/data": "data set"}


def roots(folder: Path | None = None) -> list[Path]:
    """Return the config trees in the order in which they are searched.

    Args:
        folder: The user's own tree.
    """
    own = [] if folder is None else [folder.resolve()]
    offered = [_offered_tree(package) for package in plugins.call("medbreach_cases")]
    return [*own, shipped(), *offered, breaching_tree()]


def shipped() -> Path:
    """Return the config tree that comes with medbreach.

    A wheel carries it inside the package, a checkout beside it.
    """
    package = _package_folder("medbreach")
    inside = package / "cases"
    return inside if inside.is_dir() else package.parent / "cases"


def breaching_tree() -> Path:
    """Return breaching's config tree, without importing breaching, which takes seconds."""
    spec = importlib.util.find_spec("breaching")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "config"


def names(group: str, folder: Path | None = None) -> list[str]:
    """Return every choice of a group that is for images.

    They come from every config tree, and from third-party components without a file.
    """
    found = set(unwritten(group))
    for root in roots(folder):
        stems = {file.stem for file in (root / group).glob("*.yaml")}
        if root == breaching_tree():
            stems -= FOR_TEXT.get(group, frozenset())
        found |= {stem for stem in stems if not stem.startswith("_")}
    return sorted(found, key=str.lower)


def canonical(group: str, name: str, folder: Path | None = None) -> str:
    """Return a choice's name as it is written in the tree; letter case does not matter.

    Raises:
        ConfigError: The group has no such choice.
    """
    known = names(group, folder)
    if name in known:
        return name
    by_lower = {choice.lower(): choice for choice in known}
    if name.lower() in by_lower:
        return by_lower[name.lower()]
    what = word(group)
    if name in FOR_TEXT.get(group, ()):
        raise ConfigError(f"breaching's {what} {name} is for text, not images")
    wrong = f"there is no {what} named {name!r}" if name else f"{group}= names no {what}"
    raise ConfigError(f"{wrong}; {nearest(name, known) if known else 'none is installed'}")


def word(group: str) -> str:
    """Return what a choice of a group is called."""
    return _WORDS.get(group, group.rpartition("/")[2])


def file_of(group: str, name: str, folder: Path | None = None) -> Path | None:
    """Return the file that a choice is read from; None if it is a component without one."""
    files = (root / group / f"{name}.yaml" for root in roots(folder))
    return next((file for file in files if file.is_file()), None)


def comment(group: str, name: str) -> str:
    """Return the first sentence of a choice's file if it begins with a comment."""
    file = file_of(group, name)
    words = ""
    for line in file.read_text().splitlines() if file else []:
        text = line.strip("# ")
        if not line.startswith("#") or not text or words.endswith("."):
            break
        words = f"{words} {text}"
    sentence = re.split(r"(?<!et al)(?<=\.) (?=[A-Z])", words, maxsplit=1)[0]
    return textwrap.shorten(sentence, LINE, placeholder=" ...")


def component_name(group: str, name: str) -> str:
    """Return the registered name of the component behind a choice; ``""`` if its file has none."""
    pattern = re.compile(rf"^{KIND_KEYS[group]}:\s*[\"']?([^\s\"'#]+)", re.M)
    file = file_of(group, name)
    if file is None:
        return name
    while file.is_file():
        text = file.read_text()
        match = pattern.search(text)
        if match:
            return match[1]
        inherited = re.search(r"^defaults:\n\s+- (\w+)", text, re.M)
        if inherited is None:
            break
        file = file.with_name(f"{inherited[1]}.yaml")
    return ""


def unwritten(group: str) -> dict[str, dict[str, str]]:
    """Return the settings of third-party components that no file names, by their own names."""
    kinds: dict[str, Mapping[str, type]] = {
        "attack": plugins.attacks(),
        "defense": plugins.defenses(),
        "case/server": plugins.servers(),
        "case/data": plugins.datasets(),
    }
    return {
        name: {KIND_KEYS[group]: name}
        for name, kind in kinds.get(group, {}).items()
        if not kind.__module__.startswith("medbreach.")
    }


def _offered_tree(package: str) -> Path:
    """Return the config tree that a plugin offers.

    Raises:
        PluginError: There is no such package.
    """
    with contextlib.suppress(ModuleNotFoundError, TypeError, ValueError):
        folder = _package_folder(package)
        if folder.is_dir():
            return folder
    raise PluginError(
        f"a plugin offers the cases in {package}, which is no package: has it an __init__.py?"
    )


def _package_folder(package: str) -> Path:
    return Path(str(resources.files(package)))
