"""Weights from a file that somebody gave."""

import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

from medbreach.errors import ModelError


def load_weights(model: nn.Module, file: str | Path) -> None:
    """Load a state dict into a network, executing nothing that the file might carry.

    Raises:
        ModelError: The file is missing, is no plain state dict, or fits another network.
    """
    path = Path(file).expanduser()
    state = _read(path)
    if not all(v.isfinite().all() for v in state.values()):
        raise ModelError(f"{path} holds weights that are not finite")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:300]
        raise ModelError(f"{path} fits another network: {first}") from error


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ModelError(f"{path}: there is no such weights file")
    try:
        with path.open("rb") as stream:
            begins = stream.read(2)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch raises for other files has no common base
        of_torch = begins.startswith((b"PK", b"\x80"))  # a zip file or, of old, a pickle
        if of_torch and isinstance(error, pickle.UnpicklingError):
            raise ModelError(
                f"{path} holds more than tensors, which could run code, so it was not opened: save "
                "it with torch.save(network.state_dict(), file)"
            ) from error
        raise ModelError(f"{path} is damaged or no torch file") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise ModelError(
            f"{path} holds no state dict: save it with torch.save(network.state_dict(), file)"
        )
    return state
