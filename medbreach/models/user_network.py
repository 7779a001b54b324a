"""The user's own network, from a file that the user named."""

import contextlib
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import nn

from medbreach.components import Model
from medbreach.errors import ModelError
from medbreach.randomness import lend_global
from medbreach.text import in_a_line
from medbreach.types import ImageSpec, LossFunction

OFFERED = ("spec", "classes", "channels", "space")


@dataclass(frozen=True)
class UserNetwork(Model):
    """A network that a function in the user's file returns.

    The function is called with those of ``spec``, ``classes``, ``channels`` and ``space`` that it
    has parameters for; its other parameters need defaults. A function ``loss(outputs, labels)`` in
    the same file, if there is one, is the loss that the federation minimises.

    Attributes:
        path: The file.
        factory: Name of the function.
    """

    name: ClassVar[str] = "the user's network"
    source: ClassVar[str] = "the user"

    path: Path
    factory: str

    @classmethod
    def parse(cls, reference: str, option: str = "--model") -> "UserNetwork":
        """Return the model that ``path/to/file.py:function`` names.

        Args:
            reference: The file and the function.
            option: The option that it was given by, for errors.

        Raises:
            ModelError: There is no such file, or no function is named.
        """
        path, colon, factory = reference.rpartition(":")
        if not colon or not factory.isidentifier() or not path.endswith(".py"):
            raise ModelError(f"{option} takes path/to/file.py:function, not {reference!r}")
        file = Path(path).expanduser().resolve()
        if not file.is_file():
            raise ModelError(f"{option}: there is no file {path}")
        return cls(file, factory)

    @property
    def digest(self) -> str:
        """SHA-256 of the file, by which a resumed run knows that it is the same.

        Raises:
            ModelError: The file cannot be read.
        """
        try:
            return hashlib.sha256(self.path.read_bytes()).hexdigest()
        except OSError as error:
            raise ModelError(f"--model: {self.path} cannot be read: {error.strerror}") from error

    def build(self, spec: ImageSpec, classes: int) -> nn.Module:
        """Run the user's function and return its network.

        Raises:
            ModelError: The file or the function fails, or returns no network.
        """
        factory = self._member(self.factory)
        if factory is None:
            raise ModelError(f"{self.path.name} has no function {self.factory}")
        if isinstance(factory, nn.Module):
            raise ModelError(
                f"{self._label} is a network: name a function that returns one, so that its first "
                "weights come from the seed"
            )
        values = {
            "spec": spec,
            "classes": classes,
            "channels": spec.channels,
            "space": spec.space,
        }
        try:
            made = factory(**{k: values[k] for k in _accepted(factory, self._label)})
        except ModelError:
            raise
        except (Exception, SystemExit) as error:
            raise ModelError(f"{self._label} failed: {in_a_line(error)}") from error
        if not isinstance(made, nn.Module):
            raise ModelError(f"{self._label} must return a network, not {type(made).__name__}")
        return made

    def loss(self) -> LossFunction:
        """Return the function ``loss`` in the user's file, or else cross-entropy."""
        return self._member("loss") or nn.CrossEntropyLoss()

    def wanted_channels(self, spec: ImageSpec, classes: int) -> int | None:
        """Return the channels that the network's first convolution takes; None without one."""
        with torch.random.fork_rng(devices=[]):
            network = self.build(spec, classes)
        first = next((m for m in network.modules() if isinstance(m, nn.modules.conv._ConvNd)), None)
        return None if first is None else first.in_channels

    @property
    def _label(self) -> str:
        return f"{self.path.name}:{self.factory}"

    def _member(self, name: str) -> Callable[..., Any] | None:
        place = hashlib.sha256(f"{self.path} {self.digest}".encode()).hexdigest()
        module_name = f"medbreach_user_{place[:12]}"
        member = getattr(sys.modules.get(module_name) or self._import(module_name), name, None)
        return member if callable(member) else None

    def _import(self, module_name: str) -> ModuleType:
        """Run the user's file; modules beside it can be imported, and its randomness is its own.

        Raises:
            ModelError: It fails.
        """
        spec = importlib.util.spec_from_file_location(module_name, self.path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        sys.path.insert(0, str(self.path.parent))
        try:
            with lend_global(torch.Generator().manual_seed(0)):
                spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[module_name]
            raise ModelError(f"{self.path.name} cannot be imported: {in_a_line(error)}") from error
        finally:
            with contextlib.suppress(ValueError):  # the user's file may have removed it
                sys.path.remove(str(self.path.parent))
        return module


def _accepted(factory: Callable[..., Any], label: str) -> list[str]:
    """Return which of the offered arguments a function takes.

    Raises:
        ModelError: It needs another one.
    """
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (ValueError, TypeError) as error:
        raise ModelError(f"{label} does not tell its parameters: wrap it in a function") from error
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    unnamed = [p for p in parameters if p.kind is p.POSITIONAL_ONLY]
    needed = [p.name for p in (*unnamed, *named) if p.default is p.empty]
    strange = [n for n in needed if n not in OFFERED or n in {p.name for p in unnamed}]
    if strange:
        raise ModelError(
            f"{label} needs {', '.join(strange)}, but only {', '.join(OFFERED)} can be given: "
            "give the others defaults"
        )
    return [p.name for p in named if p.name in OFFERED]
