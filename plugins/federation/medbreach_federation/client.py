"""The Flower app of a client: it has a learner carry out what the server asks."""

import functools
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from torch import Tensor

from medbreach_federation.learner import Instruction, Learner, Result, Weights
from medbreach_federation.memory import Memories

Build = Callable[[Path], Learner]
"""Returns a federation's learner from its folder: a function of a module, so that each process that
plays clients can import it."""

ARRAYS: Final = "arrays"
MEASURES: Final = "measures"
CONFIG: Final = "config"
ROUND: Final = "round"
RECORDS: Final = "records"
CLIENT: Final = "client"


def client_app(build: Build, folder: Path, mods: tuple[Any, ...] = ()) -> ClientApp:
    """Return the app that every client of a federation runs.

    Its number is the ``partition-id`` of Flower's node. It keeps its memory in the folder's
    ``clients``, which only this client needs to see: on a machine of its own, a folder of its own.

    Args:
        build: Returns the learner.
        folder: The federation's folder, with the settings that ``build`` reads.
        mods: Flower's client mods around it, outermost first.
    """
    app, played = ClientApp(mods=list(mods)), uuid.uuid4().hex

    @app.query()
    def introduce(message: Message, context: Context) -> Message:
        content = RecordDict({CLIENT: MetricRecord({CLIENT: number_of(context)})})
        return Message(content, reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        asked = _asked(message)
        client, memories = number_of(context), Memories(folder)
        instruction = Instruction(
            client, asked, weights_in(message.content), memories.before(client, asked)
        )
        result = _learner(build, folder, played).train(instruction)
        memories.keep(client, asked, result.memory)
        return Message(_content(result), reply_to=message)

    return app


def number_of(context: Context) -> int:
    """Return a client's number."""
    return int(context.node_config["partition-id"])


def weights_in(content: RecordDict) -> dict[str, Tensor]:
    """Return the weights that a message carries."""
    record = content[ARRAYS]
    assert isinstance(record, ArrayRecord)
    return dict(record.to_torch_state_dict())


def record_of(weights: Weights) -> ArrayRecord:
    """Return weights as a message carries them."""
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    return ArrayRecord(on_cpu)


def measures_in(content: RecordDict) -> dict[str, float]:
    """Return the numbers that a message carries."""
    record = content[MEASURES]
    assert isinstance(record, MetricRecord)
    return {name: float(value) for name, value in record.items()}  # type: ignore[arg-type]


def _content(result: Result) -> RecordDict:
    measures: Mapping[str, float] = {RECORDS: float(result.records), **result.measures}
    return RecordDict({ARRAYS: record_of(result.weights), MEASURES: MetricRecord(dict(measures))})


def _asked(message: Message) -> int:
    """Return the number of the round that a message asks for."""
    record = message.content[CONFIG]
    assert isinstance(record, ConfigRecord)
    asked = record[ROUND]
    assert isinstance(asked, int)
    return asked


@functools.lru_cache(maxsize=1)
def _learner(build: Build, folder: Path, played: str) -> Learner:
    """Return the learner of this process, made once each time that a federation is played."""
    del played
    torch.set_num_threads(1)  # as many processes as cores
    return build(folder)
