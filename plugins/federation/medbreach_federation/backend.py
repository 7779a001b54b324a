"""Flower's way to Ray, made to survive clients that die and clients that never answer."""

from typing import Any, ClassVar, Final

import ray
from flwr.app import Context, Error, Message
from flwr.common.constant import PARTITION_ID_KEY, ErrorCode
from flwr.server.superlink.fleet.vce.backend.raybackend import RayBackend
from flwr.simulation.ray_transport.ray_actor import BasicActorPool, ClientAppActor
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

LIMITS: Final = "limits"
TIMEOUT: Final = "timeout"
LATE: Final = "it did not answer in time"
DIED: Final = "its process died, twice"
STOPPED: Final = "the federation is stopped"


class EnduringBackend(RayBackend):
    """Gives each client a process that works, and takes it away from one that does not answer.

    Flower's own hands a process that died to the next client, who fails for it, and waits for one
    that hangs. Here a client whose process dies is played once more, in a process that nobody else
    used, so that a second death is its own. One that does not answer in time loses its process; the
    time counts from when the process is given to it. The others get fresh processes.

    Args:
        backend_config: As Flower's, with ``limits.timeout``: seconds that a client may take.
    """

    kept: ClassVar[list[Any] | None] = None
    """Processes that wait for the next federation of this program; None where all end with each."""

    def __init__(self, backend_config: Any) -> None:
        super().__init__(backend_config)
        self._timeout = float(backend_config[LIMITS][TIMEOUT])
        self._actors: list[Any] = []
        self._over = False

    def build(self, app_fn: Any) -> None:
        """Start the processes, those apart that are there."""
        self.app_fn = app_fn
        self.pool = BasicActorPool(ClientAppActor, self.client_resources, self.actor_kwargs)
        there = self.kept or []
        self.pool.pool += there
        self.pool.num_actors = len(there)
        self.pool.add_actors_to_pool(self.pool.actors_capacity - len(there))
        self._actors = list(self.pool.pool)

    def process_message(self, message: Message, context: Context) -> tuple[Message, Context]:
        """Return a client's reply and its context, or an error that says why there is none.

        Raises:
            Exception: The client's own, as Ray hands it on.
        """
        assert self.pool is not None
        idle: list[Any] = self.pool.pool
        actor = idle.pop()
        for last in (False, True):
            client = str(context.node_config[PARTITION_ID_KEY])
            try:
                asked = actor.run.remote(self.app_fn, message, client, context)
                _, reply, updated = ray.get(asked, timeout=self._timeout)
            except GetTimeoutError:
                idle.append(self._instead_of(actor))
                return _without_reply(message, LATE), context
            except RayTaskError:
                idle.append(actor)
                raise
            except RayError:  # the process died, or was killed for its memory
                if self._over:
                    return _without_reply(message, STOPPED), context
                actor = self._instead_of(actor)
                if last:
                    idle.append(actor)
                continue
            idle.append(actor)
            return reply, updated
        return _without_reply(message, DIED), context

    def terminate(self) -> None:
        """End all clients' processes, also those at work: somebody may wait for them."""
        self._over = True
        idle = [] if self.pool is None else list(self.pool.pool)
        stay = [] if self.kept is None else idle
        for actor in self._actors:
            if actor not in stay:
                ray.kill(actor)
        if self.pool is not None:
            self.pool.pool.clear()
        if self.kept is None:
            super().terminate()
        else:
            EnduringBackend.kept = stay

    def _instead_of(self, actor: Any) -> Any:
        """End a process; return a fresh one."""
        pool: Any = self.pool
        ray.kill(actor)
        self._actors.remove(actor)
        fresh = pool.create_actor_fn()
        self._actors.append(fresh)
        return fresh


def _without_reply(message: Message, why: str) -> Message:
    return Message(Error(ErrorCode.NODE_UNAVAILABLE, why), reply_to=message)
