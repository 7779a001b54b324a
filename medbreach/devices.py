"""Where to compute."""

import torch

from medbreach.errors import DeviceError


def pick_device(wanted: str) -> torch.device:
    """Return the device that ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` names.

    Raises:
        DeviceError: There is no such device here.
    """
    if wanted == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    kind, _, number = wanted.partition(":")
    if kind not in ("cpu", "cuda") or (number and (kind == "cpu" or not number.isdigit())):
        raise DeviceError(f"device must be auto, cpu or cuda:N, not {wanted!r}")
    if kind == "cpu":
        return torch.device("cpu")
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(number or 0) >= there:
        raise DeviceError(
            f"device {wanted} was asked for, but this machine has {there} CUDA devices: "
            "use --device cpu"
        )
    return torch.device("cuda", int(number or 0))
