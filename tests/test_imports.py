"""One fact in one file: who may import what, and what costs the program's start nothing."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import medbreach

PACKAGE = Path(medbreach.__file__).parent
FILES = sorted(
    file for file in PACKAGE.rglob("*.py") if "templates" not in file.relative_to(PACKAGE).parts
)

ONLY_IN = {
    "hydra": ("config.py",),
    "omegaconf": ("config.py", "breaching_bridge/"),
    "click": ("cli/",),
    "rich": ("cli/",),
    "breaching": ("breaching_bridge/",),
    "fcntl": ("storage.py",),
}


def imports_of(tree):
    """Yield the names that a file imports where it runs, and those for type checkers only."""
    for_checkers = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        for name in names:
            yield name, id(node) in for_checkers


def parsed(file):
    return ast.parse(file.read_text(), file)


def name_of(file):
    return file.relative_to(PACKAGE).as_posix()


def offenders(library, allowed):
    """Return the files that import a library and may not."""
    return [
        name_of(file)
        for file in FILES
        for imported, for_checkers in imports_of(parsed(file))
        if imported.partition(".")[0] == library
        and not name_of(file).startswith(allowed)
        and not (for_checkers and name_of(file) == "hookspecs.py")
    ]


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_that_one_place_knows(library):
    assert offenders(library, ONLY_IN[library]) == []


@pytest.mark.parametrize("library", ONLY_IN)
def test_that_place_does_import_it(library):
    """Otherwise the test above could not fail."""
    assert offenders(library, ("nowhere",)) != []


ATTACKS = [file for file in FILES if name_of(file).startswith("attacks/")]
BRIDGE = [file for file in FILES if name_of(file).startswith("breaching_bridge/")]
TRUTH = {"case", "scoring", "audit", "population", "record", "round", "session", "report"}


@pytest.mark.parametrize("file", [*ATTACKS, *BRIDGE], ids=name_of)
def test_attacks_cannot_reach_the_truth(file):
    """`Attack.control` gets a case, for which its type may be named."""
    tree = parsed(file)
    modules = {
        imported.removeprefix("medbreach.").partition(".")[0]
        for imported, for_checkers in imports_of(tree)
        if imported.startswith("medbreach.") and not for_checkers
    }
    assert not modules & TRUTH
    words = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    words |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    words |= {name.rpartition(".")[2] for name, _ in imports_of(tree)}
    assert not words & {"Sample", "truth", "decoys"}


def test_there_are_attacks_to_look_at():
    assert {"attacks/optimization.py", "attacks/blind_guess.py"} <= set(map(name_of, ATTACKS))
    assert len(BRIDGE) > 5


def test_nothing_imports_the_command_line():
    """Scripts and tests use the package without it."""
    assert [
        name_of(file)
        for file in FILES
        for imported, _ in imports_of(parsed(file))
        if imported.startswith("medbreach.cli") and not name_of(file).startswith("cli/")
    ] == []


def test_the_lazy_names_are_those_that_type_checkers_see():
    (block,) = [node for node in parsed(PACKAGE / "__init__.py").body if isinstance(node, ast.If)]
    declared = {
        alias.name: statement.module for statement in block.body for alias in statement.names
    }
    assert all(alias.asname == alias.name for statement in block.body for alias in statement.names)
    assert sorted(declared) == sorted(medbreach.__all__)
    for name, module in declared.items():
        assert getattr(medbreach, name) is getattr(importlib.import_module(module), name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        medbreach.nothing  # noqa: B018


HEAVY = (
    "torch", "numpy", "hydra", "omegaconf", "breaching", "rich", "nibabel", "pydicom", "monai",
    "jaxtyping", "pluggy", "matplotlib", "jinja2", "scipy", "medbreach.plugins",
)  # fmt: skip


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["audit", "--help"], ["data", "--help"], []]
)
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys\n"
        "from medbreach.cli import main\n"
        "try:\n"
        f"    main({arguments!r})\n"
        "except SystemExit as end:\n"
        f"    print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stderr.splitlines()[-1] == "[]"
