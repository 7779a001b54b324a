"""Weights from a file that somebody gave."""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medbreach.components import is_finite
from medbreach.errors import ModelError

WRAPPERS = ("state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile


def load_weights(model: nn.Module, file: str | Path) -> None:
    """Load a state dict into a network, executing nothing that the file might carry.

    Raises:
        ModelError: The file is missing, is no plain state dict, or fits another network.
    """
    path = Path(file).expanduser()
    state = read_weights(path)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:300]
        raise ModelError(f"{path} fits another network: {first}") from error


def read_weights(file: str | Path) -> dict[str, Tensor]:
    """Read a state dict, executing nothing that the file might carry.

    It may lie in a dict of more, under ``state_dict``, ``model_state_dict`` or ``model``, and the
    names may begin with what parallel training or compilation adds.

    Raises:
        ModelError: The file is missing or no plain state dict, or a weight is no number that a
            network can be trained from.
    """
    path = Path(file).expanduser()
    state = _unwrapped(_read(path))
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise ModelError(
            f"{path} holds no state dict, alone or under {', '.join(WRAPPERS)}: save it with "
            "torch.save(network.state_dict(), file)"
        )
    if not state:
        raise ModelError(f"{path} holds an empty state dict")
    _check_numbers(path, state)
    return _without_prefix(state)


def _check_numbers(path: Path, state: dict[str, Tensor]) -> None:
    """Check that weights are real, dense and finite in single precision.

    Raises:
        ModelError: Some are not.
    """
    for name, weight in state.items():
        if weight.layout != torch.strided or weight.is_quantized or weight.is_complex():
            raise ModelError(
                f"{path} holds weights that are sparse, quantized or complex, the first in {name}: "
                "save them as dense floating-point numbers"
            )
        if weight.is_meta:
            raise ModelError(f"{path} holds no numbers for {name}, whose device is meta")
        if not is_finite(weight.to(torch.float32)):
            raise ModelError(f"{path} holds weights that are not finite, the first in {name}")


def _read(path: Path) -> Any:
    """Return what a file holds, tensors and plain values only.

    Raises:
        ModelError: It is missing or damaged, or holds something else.
    """
    if path.is_dir():
        raise ModelError(f"{path} is a folder, not a weights file")
    if not path.is_file():
        raise ModelError(f"{path}: there is no such weights file")
    try:
        with path.open("rb") as stream:
            begins = stream.read(2)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch raises for other files has no common base
        of_torch = begins.startswith((b"PK", b"\x80"))  # a zip file or, of old, a pickle
        program = isinstance(error, pickle.UnpicklingError) or "TorchScript" in str(error)
        if of_torch and program:
            raise ModelError(
                f"{path} holds more than tensors, which could run code, so it was not opened: save "
                "it with torch.save(network.state_dict(), file)"
            ) from error
        raise ModelError(f"{path} is damaged or no torch file") from error


def _unwrapped(found: Any) -> Any:
    for key in WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            return _unwrapped(found[key])
    return found


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in state)), None)
    if prefix is None:
        return state
    return _without_prefix({name.removeprefix(prefix): tensor for name, tensor in state.items()})
