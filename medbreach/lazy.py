"""Public names of a package that are imported when they are first used: torch takes seconds."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return what a package's ``__getattr__`` is.

    Args:
        package: Its name.
        homes: The module of the package that each public name lies in.

    >>> lazily("medbreach", {"Seeds": "randomness"})("Seeds").__name__
    'Seeds'
    """

    def get(name: str) -> Any:
        """Import a public name when it is first used."""
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)

    return get
