"""Weights from a file that somebody gave."""

import pickle
from pathlib import Path

import torch
from torch import nn

from medbreach.errors import ModelError


def load_weights(model: nn.Module, file: str | Path) -> None:
    """Load a state dict into a network, executing nothing that the file might carry.

    Raises:
        ModelError: The file is missing, is no plain state dict, or fits another network.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise ModelError(f"{path}: there is no such weights file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} holds more than tensors, which would run code: save it with "
            "torch.save(network.state_dict(), file)"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        raise ModelError(f"{path} is damaged or no torch file") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict):
        raise ModelError(f"{path} holds a {type(state).__name__}, not a state dict")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:300]
        raise ModelError(f"{path} fits another network: {first}") from error
