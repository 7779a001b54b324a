"""The distributions under ``plugins/`` are what a third party could have written."""

import ast
from pathlib import Path

import pytest

import medbreach

PLUGINS = Path(__file__).parent.parent / "plugins"
PROGRAMS = {"federation", "feddetect", "fedsafe"}  # they train whole federations of a case
DISTRIBUTIONS = sorted(file.parent.name for file in PLUGINS.glob("*/pyproject.toml"))
FILES = sorted(
    file
    for file in PLUGINS.glob("*/medbreach_*/**/*.py")
    if "reproduction" not in file.relative_to(PLUGINS).parts
    and file.relative_to(PLUGINS).parts[0] not in PROGRAMS
)


def test_there_are_plugins_to_look_at():
    assert {"differential_privacy", "learnable_perturbation", "dp_lint"} <= set(DISTRIBUTIONS)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(PLUGINS).as_posix())
def test_they_import_public_names_only(file):
    """What carries a published study or a federation out may reach deeper; a component may not."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("medbreach.") for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            top, _, rest = node.module.partition(".")
            if top == "medbreach":
                assert rest in ("", "testing"), f"medbreach.{rest} is not public"
                public = set(medbreach.__all__) | {"plugins", "config", "choices"}
                assert {alias.name for alias in node.names} <= public


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_each_has_what_a_user_needs(name):
    folder = PLUGINS / name
    assert (folder / "README.md").is_file()
    assert any((folder / "tests").glob("test_*.py"))
    pages = (PLUGINS.parent / "docs").rglob("*.md")
    assert any(page.stem in (name, f"train-a-{name}") for page in pages)
    assert "[project.entry-points.medbreach]" in (folder / "pyproject.toml").read_text()


def test_the_core_names_none_of_them():
    """No defense of a plugin is known by name in the package, its cases or its templates."""
    names = {
        line.split('"')[1]
        for file in FILES
        for line in file.read_text().splitlines()
        if line.strip().startswith('name: ClassVar[str] = "')
    }
    assert len(names) > 15
    core = Path(medbreach.__file__).parent
    for file in sorted(core.rglob("*.py")):
        words = set(ast.dump(ast.parse(file.read_text())).replace("'", '"').split('"'))
        assert not words & names, file
