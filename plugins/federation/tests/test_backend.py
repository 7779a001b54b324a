"""Processes that die, hang or go on, without Ray: who gets which, and who is blamed."""

from types import SimpleNamespace

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from ray.exceptions import (
    ActorDiedError,
    GetTimeoutError,
    NodeDiedError,
    OutOfMemoryError,
    RayTaskError,
)

from medbreach_federation.backend import DIED, LATE, STOPPED, EnduringBackend

DEATHS = [ActorDiedError(), OutOfMemoryError("no memory"), NodeDiedError("gone")]


class Process:
    """Ends each client's run with the next of what it is given; a reply once there is no more."""

    def __init__(self, *ends):
        self.ends = list(ends)
        self.run = SimpleNamespace(remote=lambda app, message, client, context: self)


@pytest.fixture
def pool(monkeypatch):
    """Return what makes a backend over processes; fresh ones are made of the rest."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    killed = []

    def get(process, timeout):
        if process.ends:
            raise process.ends.pop(0)
        return "0", "reply", "context"

    monkeypatch.setattr("medbreach_federation.backend.ray.get", get)
    monkeypatch.setattr("medbreach_federation.backend.ray.kill", killed.append)
    monkeypatch.setattr("medbreach_federation.backend.ray.shutdown", lambda: None)

    def backend(first, *fresh):
        made = object.__new__(EnduringBackend)
        left = list(fresh)
        made.pool = SimpleNamespace(
            pool=[first], create_actor_fn=lambda: left.pop(0), terminate_all_actors=lambda: None
        )
        made.app_fn, made._timeout, made._actors, made._over = None, 1.0, [first], False
        return made, killed

    return backend


def asked(backend):
    message = Message(RecordDict({}), dst_node_id=1, message_type="train")
    context = Context(1, 1, {"partition-id": 0}, RecordDict(), {})
    reply, _ = backend.process_message(message, context)
    return reply if isinstance(reply, str) else reply.error.reason


@pytest.mark.parametrize("death", DEATHS, ids=lambda death: type(death).__name__)
def test_who_dies_is_played_again_in_a_process_that_nobody_used(pool, death):
    dead, other, fresh = Process(death), Process(death), Process()
    backend, killed = pool(dead, fresh)
    backend.pool.pool.insert(0, other)
    assert asked(backend) == "reply"
    assert killed == [dead]
    assert backend.pool.pool == [other, fresh], "not the idle one, which may be dead as well"


@pytest.mark.parametrize("death", DEATHS, ids=lambda death: type(death).__name__)
def test_who_dies_twice_is_blamed_and_the_next_client_is_not(pool, death):
    backend, killed = pool(Process(death), Process(death), Process())
    assert asked(backend) == DIED
    assert asked(backend) == "reply"
    assert len(killed) == 2
    assert len(backend.pool.pool) == 1


def test_who_hangs_loses_the_process(pool):
    hanging = Process(GetTimeoutError())
    backend, killed = pool(hanging, Process())
    assert asked(backend) == LATE
    assert killed == [hanging]
    assert asked(backend) == "reply"


def test_who_fails_keeps_the_process(pool):
    failing = Process(RayTaskError("train", "no such scanner", ValueError()))
    backend, killed = pool(failing)
    with pytest.raises(RayTaskError):
        asked(backend)
    assert not killed
    assert backend.pool.pool == [failing]


def test_who_is_at_work_when_it_ends_is_ended(pool):
    """Flower waits for threads that wait for such clients."""
    busy = Process(ActorDiedError())
    backend, killed = pool(busy)
    backend.pool.pool.clear()
    backend.terminate()
    assert killed == [busy]
    backend.pool.pool.append(busy)
    assert asked(backend) == STOPPED


def test_who_is_idle_when_it_ends_is_kept_for_the_next_federation(pool, monkeypatch):
    monkeypatch.setattr(EnduringBackend, "kept", [])
    idle, busy = Process(), Process()
    backend, killed = pool(idle)
    backend._actors.append(busy)
    backend.terminate()
    assert killed == [busy]
    assert EnduringBackend.kept == [idle]
