"""Where clients are played: this machine, or a Ray cluster that runs already."""

import os
import socket
from dataclasses import dataclass
from typing import Any, Final

import torch

from medbreach.errors import ConfigError

PATIENCE: Final = 5.0  # seconds that a cluster may take to answer


@dataclass(frozen=True)
class Cluster:
    """Where clients are played.

    Attributes:
        address: ``host:port`` of a Ray cluster that runs already, or ``auto`` for one on this
            machine; empty to start Ray anew. The cluster's machines must have medbreach installed
            and see the federation's folder under the same path.
        processes: How many clients are played at a time on this machine; None for one a core. A
            cluster that runs already knows that by itself.
        gpus: Share of a GPU that each needs.
    """

    address: str = ""
    processes: int | None = None
    gpus: float = 0.0

    def check(self) -> None:
        """Check that it can be reached.

        Raises:
            ConfigError: It cannot, is told how many processes it has, or this machine has no GPU
                to share.
        """
        if self.address and self.processes is not None:
            raise ConfigError(
                f"the Ray cluster at {self.address} knows how many clients it plays at a time: "
                "leave processes out"
            )
        if not self.address and self.gpus > torch.cuda.device_count():
            raise ConfigError(
                f"each client needs {self.gpus:g} of a GPU, and this machine has "
                f"{torch.cuda.device_count()}: set gpus to 0 to compute on the processor"
            )
        if self.address in ("", "auto"):
            return
        host, _, port = self.address.removeprefix("ray://").rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise ConfigError(
                f"{self.address} is no address of a Ray cluster: write host:port, or auto"
            )
        try:
            socket.create_connection((host, int(port)), PATIENCE).close()
        except OSError as error:
            raise ConfigError(
                f"no Ray cluster answers at {self.address} ({error}): start one with ray start "
                "--head, or leave the address out"
            ) from error

    @property
    def backend(self) -> Any:
        """Flower's settings of its simulation engine."""
        init: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False}
        if self.address:
            init["address"] = self.address
        else:
            init["address"] = "local"  # not the one that happens to run on this machine
            init["num_cpus"] = self.processes or os.cpu_count() or 1
        return {
            "init_args": init,
            "client_resources": {"num_cpus": 1, "num_gpus": self.gpus},
        }
