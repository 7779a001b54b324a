"""The formats that are read, recognised by their keys."""

from collections.abc import Mapping
from typing import Any, Final, Protocol

from medbreach import ConfigError
from medbreach_dp_lint.configuration import Configuration
from medbreach_dp_lint.formats import flower_central, flower_local, nvflare, opacus, plain

ADDITIONS: Final = ("rounds", "delta", "parameters")


class Format(Protocol):
    """A module that reads one format."""

    NAME: str

    def recognises(self, found: Mapping[str, Any]) -> bool:
        """Return whether a mapping is of this format."""

    def read(
        self, found: Mapping[str, Any], source: str, added: Mapping[str, Any]
    ) -> Configuration:
        """Return what a mapping says.

        Args:
            found: What was read.
            source: Where it comes from, for errors.
            added: Values of `ADDITIONS` that the user gave.
        """


FORMATS: Final[tuple[Format, ...]] = (nvflare, flower_local, flower_central, opacus, plain)


def configuration(found: Mapping[str, Any], source: str, added: Mapping[str, Any]) -> Configuration:
    """Return what a file or the options say.

    Args:
        found: What was read.
        source: Where it comes from, for errors.
        added: What the user gave besides, by name.

    Raises:
        ConfigError: It is of no known format, or wrong in it.
    """
    for form in FORMATS:
        if form.recognises(found):
            return form.read(found, source, added)
    raise ConfigError(
        f"{source}: is no configuration that is known here; it has to have noise_multiplier and "
        "max_grad_norm (Opacus), mod or strategy (Flower), task_result_filters (NVFlare) or noise"
    )
