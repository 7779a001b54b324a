"""What the tests of all distributions share."""

import contextlib
import io
import os
import sys
import warnings
from collections.abc import Callable
from typing import NamedTuple
from unittest import mock

import pytest
import torch

from medbreach.cli import main


@pytest.fixture(autouse=True)
def same_randomness() -> None:
    """Start every test at one seed, whatever ran before it in its process."""
    torch.manual_seed(0)


class Ran(NamedTuple):
    """What a run of the program left."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def run_program() -> Callable[..., Ran]:
    """Return what runs ``medbreach`` with arguments, in the test's process."""

    def run(*arguments: object) -> Ran:
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
        return Ran(int(end.value.code or 0), out.getvalue(), err.getvalue())

    return run
