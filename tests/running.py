"""Running the program inside the test's process, and making plugins up."""

import contextlib
import io
import os
import subprocess
import sys
import textwrap
import venv
import warnings
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest

from medbreach import plugins
from medbreach.cli import main

REPOSITORY = Path(__file__).parents[1]


class Ran(NamedTuple):
    """What a run of the program left."""

    code: int
    out: str
    err: str


def run_program(*arguments):
    """Run ``medbreach`` with arguments; return its exit code and what it wrote."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
        mock.patch.object(sys, "argv", ["medbreach", *map(str, arguments)]),
        mock.patch.dict(os.environ, {"COLUMNS": "200"}),
        pytest.raises(SystemExit) as end,
    ):
        main()
    return Ran(end.value.code, out.getvalue(), err.getvalue())


def write_plugin_files(folder, name, code):
    """Write a module and the metadata that an installed distribution has."""
    module = f"{name}_plugin"
    (folder / f"{module}.py").write_text(textwrap.dedent(code))
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[medbreach]\n{name} = {module}\n")


@contextlib.contextmanager
def made_up_plugins(folder, monkeypatch, **codes):
    """Have plugins installed for a while, by name and code."""
    for name, code in codes.items():
        write_plugin_files(folder, name, code)
    monkeypatch.syspath_prepend(str(folder))
    plugins.manager.cache_clear()
    try:
        yield
    finally:
        plugins.manager.cache_clear()
        for name in codes:
            sys.modules.pop(f"{name}_plugin", None)


def make_environment(folder):
    """Make a Python environment on top of this one, where ``pip install`` needs no network.

    Returns:
        Its folder of programs, with ``python``, ``pip`` and ``medbreach``.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    programs = folder / "bin"
    library = next((folder / "lib").glob("python*")) / "site-packages"
    below = [path for path in sys.path if path.endswith("site-packages")]
    lines = [f"import site; site.addsitedir({path!r})" for path in below]
    (library / "below.pth").write_text("\n".join(lines))
    for program, command in {
        "pip": f'"{programs}/python" -m pip "$1" --quiet --no-index --no-deps '
        '--no-build-isolation "${@:2}"',
        "medbreach": f'"{programs}/python" -c "from medbreach.cli import main; main()" "$@"',
    }.items():
        (programs / program).write_text(f"#!/bin/bash\n{command}\n")
        (programs / program).chmod(0o755)
    return programs


def in_environment(programs, command, cwd, **variables):
    """Run a shell command in an environment made by `make_environment`.

    What it prints is read by a program, not shown in a window of some width.
    """
    inherited = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-e", "-c", command],
        cwd=cwd,
        env={**inherited, "PATH": path, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
