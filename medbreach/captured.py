"""A round that a federation kept, to be audited afterwards.

A folder with `capture.json` (the case, the defenses, who trained on which images), and for each
client the weights that it was sent (`sent-K.pt`) and those that it returned (`returned-K.pt`).
There are no images in it: they are read from the case's data set again.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from medbreach.collection import Collection
from medbreach.errors import ConfigError, DataError
from medbreach.models.weights import read_weights
from medbreach.storage import packed, speaking_of, write_whole
from medbreach.types import Change, Recipe, Update

FACTS: Final = "capture.json"
KEPT: Final = ("data", "model", "impl")  # of a case, as the federation had it
NEEDED: Final = frozenset(
    {"case", "stack", "seed", "round", "recipe", "images", "clients", "trained"}
)

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Captured:
    """A captured round.

    Attributes:
        folder: Where it is kept.
    """

    folder: str

    @cached_property
    def facts(self) -> Mapping[str, Any]:
        """What is known of it besides weights.

        Raises:
            DataError: The folder holds no captured round, or a damaged one.
        """
        file = Path(self.folder).expanduser() / FACTS
        try:
            found = json.loads(file.read_text())
        except FileNotFoundError as error:
            raise DataError(
                f"{self.folder} holds no captured round: give a folder that 'medbreach federate "
                "--capture' wrote, such as runs/federation-CASE/captured/round-1"
            ) from error
        except (OSError, ValueError) as error:
            raise DataError(f"{file} is damaged") from error
        if not (isinstance(found, dict) and set(found) >= NEEDED):
            raise DataError(f"{file} is damaged: it lacks what a captured round holds")
        return found

    @property
    def seed(self) -> int:
        """The federation's seed, by which patients were dealt."""
        return int(self.facts["seed"])

    @property
    def clients(self) -> tuple[int, ...]:
        """The clients that took part and were not left out."""
        return tuple(sorted(map(int, self.facts["clients"])))

    def entries(self, client: int) -> tuple[int, ...]:
        """Return the images that a client trained on, in the order in which it did.

        Raises:
            ConfigError: It took no part.
        """
        if client not in self.clients:
            raise ConfigError(
                f"client {client} took no part in round {self.facts['round']}: there are clients "
                f"{', '.join(map(str, self.clients))}"
            )
        return tuple(self.facts["clients"][str(client)]["entries"])

    def check(self, collection: Collection) -> None:
        """Check that a data set is the one that the federation trained on.

        Raises:
            DataError: It is another.
        """
        if fingerprint(collection) != self.facts["images"]:
            raise DataError(
                f"the images are not those that the federation of {self.folder} trained on: give "
                "their place by case.data.path"
            )

    def sent(self, client: int) -> Weights:
        """Return the weights that a client was sent."""
        return read_weights(str(Path(self.folder).expanduser() / f"sent-{client}.pt"))

    def update(self, client: int) -> Update:
        """Return what a client sent, with all that it could tell.

        Raises:
            DataError: The capture is damaged.
            ModelError: A file of weights is missing or damaged.
        """
        before = self.sent(client)
        after = read_weights(str(Path(self.folder).expanduser() / f"returned-{client}.pt"))
        trained = self.facts["trained"]
        if not {*before} == {*after} >= {*trained}:
            raise DataError(f"{self.folder} is damaged: client {client} returned other weights")
        ordered = torch.tensor(self.facts["clients"][str(client)]["labels"], dtype=torch.long)
        return Update(
            change={name: (after[name] - before[name]).detach() for name in trained},
            kind=Change.DIFFERENCE,
            buffers={name: tensor for name, tensor in after.items() if name not in set(trained)},
            labels=ordered.sort().values,
            count=len(ordered),
            recipe=self.recipe(ordered),
        )

    def recipe(self, labels: Tensor) -> Recipe:
        """Return how a client trained whose images have these labels, in order."""
        told = self.facts["recipe"]
        per_step = min(int(told["batch_size"]), len(labels))
        parts: tuple[Tensor, ...] = torch.split(labels, per_step)
        epoch = [part.sort().values for part in parts]
        steps = int(told["local_epochs"]) * len(epoch)
        return Recipe(
            steps,
            per_step,
            float(told["learning_rate"]),
            tuple(epoch[k % len(epoch)] for k in range(steps)),
            told["optimizer"],
        )


def fingerprint(collection: Collection) -> str:
    """Return what tells a data set from others: its patients and labels, in order."""
    lines = "\n".join(f"{entry.patient}\t{entry.label}" for entry in collection.entries)
    return hashlib.sha256(lines.encode()).hexdigest()


def keep(
    folder: Path,
    facts: Mapping[str, Any],
    sent: Mapping[int, Weights],
    returned: Mapping[int, Weights],
) -> None:
    """Write a captured round.

    Args:
        folder: A folder of its own.
        facts: What `Captured.facts` returns.
        sent: The weights that each client was sent.
        returned: Those that it returned.

    Raises:
        RecordError: It cannot be written.
    """
    with speaking_of(folder):
        for word, weights in (("sent", sent), ("returned", returned)):
            for client in returned:
                write_whole(folder / f"{word}-{client}.pt", packed(weights[client]))
        write_whole(folder / FACTS, json.dumps(facts, indent=1).encode())


def expanded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return an audit's settings with those of the captured round that they name, if they do.

    The case's data set, network and defenses are those of the federation.

    Raises:
        DataError: There is no such round.
        ConfigError: A setting is given that the captured round has settled.
    """
    case = settings["case"]
    if "captured" not in case:
        return dict(settings)
    if not isinstance(case["captured"], str):
        raise ConfigError("case.captured is not set: give the folder of a captured round")
    if case["server"].get("name") not in ("honest_but_curious", "honest-but-curious"):
        raise ConfigError("what the server sent was captured: leave case/server out")
    if list(settings["stacks"]) != ["none"]:
        raise ConfigError("the clients' defenses were captured: leave defense out")
    captured = Captured(case["captured"])
    facts = captured.facts
    told, user = facts["recipe"], case["user"]
    own = {
        "num_data_points": user.get("num_data_points") or _patients(captured, user),
        "num_local_epochs": told["local_epochs"],
        "num_data_per_local_update_step": told["batch_size"],
        "local_learning_rate": told["learning_rate"],
        "local_optimizer": told["optimizer"],
    }
    kept = {key: facts["case"][key] for key in KEPT if key in facts["case"]}
    kept["data"] = {**kept["data"], **(case.get("data") or {})}
    name = "+".join(member["label"] for member in facts["stack"]) or "none"
    return {
        **settings,
        "case": {**case, **kept, "user": {**user, **own}},
        "stacks": {name: facts["stack"]},
    }


def _patients(captured: Captured, user: Mapping[str, Any]) -> int:
    """Return how many patients each client that is audited has, at least."""
    told = {k: facts["patients"] for k, facts in captured.facts["clients"].items()}
    chosen = [user.get("user_idx")]
    if user.get("user_type") == "multiuser_aggregate":
        chosen = list(range(*user["user_range"]))
    numbers = [told[str(k)] for k in chosen if str(k) in told]
    return int(min(numbers, default=1))
