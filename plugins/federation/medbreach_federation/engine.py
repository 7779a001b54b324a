"""Flower's simulation engine: quiet, sending nothing, and surviving its clients."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Final

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from medbreach.errors import ContractError
from medbreach_federation import TELEMETRY
from medbreach_federation.cluster import Cluster

SENDER: Final = "flwr.supercore.telemetry"
CRASH: Final = "Simulation Runtime crashed."  # Flower's words


def simulate(
    server: ServerApp, app: ClientApp, clients: int, cluster: Cluster, timeout: float
) -> None:
    """Run a server and so many clients until the server is done.

    Args:
        server: What the server runs.
        app: What each client runs.
        clients: How many there are.
        cluster: Where they are played.
        timeout: Seconds that a client may take for a message.

    Raises:
        ContractError: Ray does not run.
    """
    from flwr.simulation import run_simulation

    from medbreach_federation.backend import LIMITS, TIMEOUT

    config = {**cluster.backend, LIMITS: {TIMEOUT: timeout}}
    with speaking_of_engine(), _enduring():
        run_simulation(server, app, clients, backend_config=config)


@contextlib.contextmanager
def ray_kept() -> Iterator[None]:
    """Keep Ray and clients' processes from one federation to the next, which begin sooner for it.

    All federations inside are played where the first one is, with the same share of a GPU.
    """
    import ray

    from medbreach_federation.backend import EnduringBackend

    if EnduringBackend.kept is not None:
        yield
        return
    EnduringBackend.kept = []
    try:
        yield
    finally:
        EnduringBackend.kept = None
        ray.shutdown()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Flower and Ray from writing to the console and from sending usage numbers.

    Flower looks at its environment variable when it is imported, which may have been before this
    package was.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what later versions do
    if SENDER in sys.modules:
        setattr(sys.modules[SENDER], TELEMETRY, os.environ.setdefault(TELEMETRY, "0"))
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextlib.contextmanager
def speaking_of_engine() -> Iterator[None]:
    """Say in a sentence why Flower's simulation engine does not run.

    Raises:
        ContractError: It does not.
    """
    try:
        yield
    except RuntimeError as error:
        causes: list[BaseException] = [error]
        while causes[-1].__cause__ is not None:
            causes.append(causes[-1].__cause__)
        if CRASH not in map(str, causes):
            raise
        why = " ".join(str(causes[-1]).split()).rstrip(".")
        raise ContractError(f"Flower's simulation engine does not run: {why}") from error


@contextlib.contextmanager
def _enduring() -> Iterator[None]:
    """Have Flower, which knows one way to Ray by name, take ours."""
    from flwr.server.superlink.fleet.vce.backend import raybackend

    from medbreach_federation.backend import EnduringBackend

    before = raybackend.RayBackend
    raybackend.RayBackend = EnduringBackend  # type: ignore[misc]
    try:
        yield
    finally:
        raybackend.RayBackend = before  # type: ignore[misc]
