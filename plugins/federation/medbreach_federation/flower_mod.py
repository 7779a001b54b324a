"""Defenses around other people's Flower apps: as a mod of clients, or as the server's strategy."""

import io
import logging
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp.typing import ClientAppCallable
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor, nn

from medbreach import (
    ClientTask,
    ConfigError,
    Defense,
    ImageSpec,
    LocalTraining,
    Seeds,
    Update,
)
from medbreach.components import is_finite, no_others
from medbreach.errors import ContractError
from medbreach.plan import conflict_in
from medbreach.round import aggregated, defended
from medbreach.storage import packed
from medbreach_federation.updates import applied, checked_count, update_of

log = logging.getLogger(__name__)

REMEMBERED: Final = "medbreach"
BUFFERS: Final = ("running_mean", "running_var", "num_batches_tracked")  # BatchNorm's
NOT_ON_UPDATES: Final = {
    "remodel": "changes the network",
    "vet": "inspects the network",
    "step": "acts in the steps of local training",
    "deploy": "changes how the network is used",
}
REMEDY: Final = "train with medbreach federate, or build it into the app"
REMEDIES: Final = {
    "aggregate": "put it around the server's strategy, with DefendedStrategy",
    "wrap": "put it around clients, with DefenseMod",
}


class DefenseMod:
    """A Flower client mod that has defenses change what a client sends.

    It works around any `ClientApp` that is sent one `ArrayRecord` and returns one of the same
    names, and on messages to train only. Of each floating-point array the change is what defenses
    see, as they would in an audit. Buffers pass as they are. What defenses keep from round to round
    lies in the client's Flower context.

    >>> from medbreach_differential_privacy import UpdateClipping
    >>> mods = [DefenseMod([UpdateClipping(clip_norm=1.0)])]  # for ClientApp(mods=mods)

    Defenses that need the network, the records or the steps of local training cannot work from
    outside an app: they are refused. Those that count local steps, as NVFlare's filters do, take
    local training for one step.

    Args:
        defenses: The stack, innermost first.
        seed: Repeats the noise of a simulation. None, for real deployments, draws it anew: whoever
            knows a seed can subtract the noise.
        buffers: Ends of the names of arrays that are sent and not trained.
        counted_by: The name of the number of records among the client's metrics.

    Raises:
        ConfigError: A defense does not act on updates alone, or two contradict each other.
    """

    def __init__(
        self,
        defenses: Sequence[Defense],
        *,
        seed: int | None = None,
        buffers: Collection[str] = BUFFERS,
        counted_by: str = "num-examples",
    ) -> None:
        self._defenses, self._seed = tuple(defenses), seed
        self._trained, self._counted_by = _Trained(tuple(buffers)), counted_by
        _check(self._defenses, {**NOT_ON_UPDATES, "aggregate": "acts where updates come together"})

    def __call__(self, message: Message, context: Context, app: ClientAppCallable) -> Message:
        """Return the app's reply, its change of weights defended."""
        if message.metadata.message_type.partition(".")[0] != MessageType.TRAIN:
            return app(message, context)
        before = _arrays(message.content, "the server's message")
        reply = app(message, context)
        if reply.has_error():
            return reply
        update = _update(reply.content, before, self._trained, self._counted_by)
        memory, rounds = _remembered(context)
        task = _task(update, self._rng(context, rounds), memory)
        sent = defended(_done(update, task), self._defenses)(task)
        _remember(context, memory, rounds + 1)
        _put(reply.content, applied(sent, before))
        return reply

    def _rng(self, context: Context, rounds: int) -> torch.Generator:
        """Return the noise of one client after so many rounds."""
        if self._seed is None:
            return torch.Generator().manual_seed(secrets.randbits(63))
        node = context.node_config.get("partition-id", context.node_id)
        return Seeds(self._seed).stream(f"mod/{node}/{rounds}")


class DefendedStrategy(Strategy):
    """A Flower strategy that has defenses see clients' changes before another strategy does.

    Where a defense makes one update of all, as a secure aggregation does, the other strategy sees
    one reply, with all clients' records. A reply with other arrays than were sent, or numbers that
    are not finite, is named in the log and left out.

    Args:
        strategy: Makes new weights of what defenses leave.
        defenses: The stack, innermost first.
        buffers: Ends of the names of arrays that are sent and not trained.
        counted_by: The name of the number of records among the clients' metrics.

    Raises:
        ConfigError: A defense does not act where updates come together, or two contradict.
    """

    def __init__(
        self,
        strategy: Strategy,
        defenses: Sequence[Defense],
        *,
        buffers: Collection[str] = BUFFERS,
        counted_by: str = "num-examples",
    ) -> None:
        self._strategy, self._defenses = strategy, tuple(defenses)
        self._trained, self._counted_by = _Trained(tuple(buffers)), counted_by
        self._before: Mapping[str, Tensor] = {}
        _check(self._defenses, {**NOT_ON_UPDATES, "wrap": "changes what clients send"})

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the other strategy's messages."""
        self._before = dict(arrays.to_torch_state_dict())
        return self._strategy.configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return what the other strategy makes of what defenses leave.

        Raises:
            ContractError: A defense leaves nothing, or refuses.
        """
        kept, usable, updates = [], [], []
        for reply in replies:
            if reply.has_error():
                kept.append(reply)  # for the other strategy's log
                continue
            try:
                updates.append(self._usable(reply.content))
                usable.append(reply)
            except ContractError as error:
                log.warning("node %d is left out: %s", reply.metadata.src_node_id, error)
        if updates:
            kept += self._left(usable, updates)
        return self._strategy.aggregate_train(server_round, kept)

    def _usable(self, content: RecordDict) -> Update:
        """Return what a client's reply changes.

        Raises:
            ContractError: It is not finite, or no such reply.
        """
        update = _update(content, self._before, self._trained, self._counted_by)
        if not all(map(is_finite, (*update.change.values(), *(update.buffers or {}).values()))):
            raise ContractError("the client's reply is not finite")
        return update

    def _left(self, replies: Sequence[Message], updates: Sequence[Update]) -> list[Message]:
        """Return replies with what defenses leave of their updates."""
        network = _Arrays(updates[0].change)
        for defense in self._defenses:
            updates = aggregated(defense, updates, network)
        fewer = len(updates) != len(replies)
        left = []
        for reply, update in zip(replies, updates, strict=False):
            content = reply.content
            _put(content, applied(update, self._before))
            if fewer:  # what this client measured may not be of this update
                (name,) = content.metric_records
                content[name] = MetricRecord({self._counted_by: update.count or 1})
            left.append(reply)
        return left

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the other strategy's messages."""
        return self._strategy.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return the other strategy's metrics."""
        return self._strategy.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        """Log the other strategy's settings."""
        self._strategy.summary()


class _Trained:
    """Tells the arrays that are trained from those that are not."""

    def __init__(self, buffers: tuple[str, ...]) -> None:
        self._buffers = buffers

    def __call__(self, name: str, tensor: Tensor) -> bool:
        return tensor.is_floating_point() and not name.endswith(self._buffers)


class _Arrays(nn.Module):
    """What is known of a network whose app is somebody else's: its trained arrays, by name."""

    def __init__(self, arrays: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._arrays = {name: nn.Parameter(tensor) for name, tensor in arrays.items()}

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the arrays; their names may have dots, which torch's own do not allow."""
        del prefix, recurse, remove_duplicate
        yield from self._arrays.items()

    def forward(self, images: Tensor) -> Tensor:
        """Refuse: the network is the app's."""
        del images
        raise ContractError("a Flower mod does not know the network")


def _check(defenses: Sequence[Defense], elsewhere: Mapping[str, str]) -> None:
    """Check that defenses act where they are put.

    Raises:
        ConfigError: One acts elsewhere, or two contradict.
    """
    if not defenses:
        raise ConfigError("there is no defense to put around Flower: give one at least")
    for defense in defenses:
        for method, what in elsewhere.items():
            if getattr(type(defense), method) is not getattr(Defense, method):
                raise ConfigError(
                    f"{defense.name} {what}, which cannot be done from here: "
                    f"{REMEDIES.get(method, REMEDY)}"
                )
    conflict = conflict_in(defenses)
    if conflict:
        raise ConfigError(conflict)


def _arrays(content: RecordDict, whose: str) -> dict[str, Tensor]:
    """Return the arrays of a message.

    Raises:
        ContractError: It has not one record of arrays.
    """
    records = list(content.array_records.values())
    if len(records) != 1:
        raise ContractError(f"{whose} must have one ArrayRecord, and has {len(records)}")
    return dict(records[0].to_torch_state_dict())


def _put(content: RecordDict, weights: Mapping[str, Tensor]) -> None:
    """Replace the arrays of a message."""
    (name,) = content.array_records
    content[name] = ArrayRecord(dict(weights))


def _update(
    content: RecordDict, before: Mapping[str, Tensor], trained: _Trained, counted_by: str
) -> Update:
    """Return what a client's reply changes.

    Raises:
        ContractError: It has other arrays than it was sent, or does not say how many records.
    """
    after = _arrays(content, "the client's reply")
    if {n: t.shape for n, t in after.items()} != {n: t.shape for n, t in before.items()}:
        raise ContractError("the client's reply has arrays of other names or shapes than it got")
    names = [name for name, tensor in before.items() if trained(name, tensor)]
    return update_of(before, after, names, _count(content, counted_by))


def _count(content: RecordDict, counted_by: str) -> int:
    """Return how many records a client says that it trained on.

    Raises:
        ContractError: It says none, or no such number.
    """
    told = [m[counted_by] for m in content.metric_records.values() if counted_by in m]
    if not told:
        raise ContractError(
            f"the client's reply must say {counted_by} in its metrics: name another in counted_by"
        )
    return checked_count(told[0] if len(told) == 1 else told, counted_by)


def _task(update: Update, rng: torch.Generator, memory: dict[str, Any]) -> ClientTask:
    """Return what defenses are told of local training that is somebody else's."""
    return ClientTask(
        model=_Arrays(update.change),
        batch=no_others(0),
        spec=ImageSpec(1, (1, 1)),
        classes=1,
        loss=nn.CrossEntropyLoss(),
        recipe=None,
        training=True,
        rng=rng,
        memory=memory,
    )


def _done(update: Update, task: ClientTask) -> LocalTraining:
    """Return local training that was carried out already.

    Raises:
        ContractError: A defense asks for another.
    """

    def trained(asked: ClientTask) -> Update:
        for name in ("model", "batch", "recipe", "gradient", "loss"):
            if getattr(asked, name) is not getattr(task, name):
                raise ContractError(
                    f"a defense changes the {name} of local training, which a Flower mod cannot"
                )
        return update

    return trained


def _remembered(context: Context) -> tuple[dict[str, Any], int]:
    """Return what a client's defenses keep, and in how many rounds they took part."""
    kept = context.state.config_records.get(REMEMBERED)
    if kept is None:
        return {}, 0
    packed, rounds = kept["memory"], kept["rounds"]
    assert isinstance(packed, bytes)
    assert isinstance(rounds, int)
    return torch.load(io.BytesIO(packed), weights_only=True), rounds


def _remember(context: Context, memory: Mapping[str, Any], rounds: int) -> None:
    context.state[REMEMBERED] = ConfigRecord({"memory": packed(memory), "rounds": rounds})
