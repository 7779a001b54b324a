"""A whole federated training with defenses, by federated averaging."""

import copy
import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from medbreach.case import Case, Sample
from medbreach.collection import Collection
from medbreach.components import ClientTask, Defense, LocalTraining, Workload, is_finite
from medbreach.errors import ContractError
from medbreach.measure import synchronise
from medbreach.population import Deal
from medbreach.randomness import Seeds
from medbreach.round import agreed_network, mean_update, trainer
from medbreach.tradeoff.predictions import Predictions, predict
from medbreach.types import Batch, Change, Guarantee, Recipe, Update

KEPT_BYTES = 2 * 2**30  # of clients' images that are kept in memory


@dataclass(frozen=True)
class Training:
    """How a federation trains, where it is not a single round that is looked at.

    Each round every client trains on all its records by plain SGD, and the server takes the mean of
    the changes of weights (federated averaging, McMahan et al. 2017, arXiv:1602.05629; every client
    counts the same).

    Attributes:
        rounds: Number of rounds.
        local_epochs: Passes over a client's records in a round.
        batch_size: Records in each step.
        learning_rate: Learning rate of the steps.
        momentum: Momentum of the server's steps over rounds (FedAvgM); 0 for none.
    """

    rounds: int = 30
    local_epochs: int = 1
    batch_size: int = 16
    learning_rate: float = 0.05
    momentum: float = 0.0

    def __post_init__(self) -> None:
        for name in ("rounds", "local_epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie from 0 to below 1, got {self.momentum}")

    def recipe(self, records: int) -> Recipe:
        """Return how a client with so many records trains in a round."""
        per_step = min(self.batch_size, records)
        return Recipe(self.local_epochs * -(-records // per_step), per_step, self.learning_rate)


@dataclass
class State:
    """How far a training is: everything that the next round depends on.

    Attributes:
        model: The global network.
        memories: What each client keeps.
        velocity: The server's momentum, by parameter name.
        rounds: Rounds that are done.
        seconds: Time that clients and server took in them.
    """

    model: nn.Module
    memories: list[dict[str, Any]]
    velocity: dict[str, Tensor] = field(default_factory=dict)
    rounds: int = 0
    seconds: float = 0.0

    def keep(self) -> dict[str, Any]:
        """Return what `go_on` needs, as plain values."""
        return {
            "weights": self.model.state_dict(),
            "memories": self.memories,
            "velocity": self.velocity,
            "rounds": self.rounds,
            "seconds": self.seconds,
        }

    def go_on(self, kept: dict[str, Any]) -> None:
        """Put everything back to where `keep` found it."""
        self.model.load_state_dict(kept["weights"])
        self.memories, self.velocity = kept["memories"], kept["velocity"]
        self.rounds, self.seconds = kept["rounds"], kept["seconds"]


@dataclass
class FederatedTraining:
    """The training of one case with one stack of defenses and one seed.

    Attributes:
        case: The federated setting.
        training: How it trains.
        defenses: The stack, innermost first.
        sample: What is known of the images.
        collection: The images.
        dealt: Who has which.
        seeds: Random streams.
        device: Where to compute.
    """

    case: Case
    training: Training
    defenses: Sequence[Defense]
    sample: Sample
    collection: Collection
    dealt: Deal
    seeds: Seeds
    device: torch.device

    def __post_init__(self) -> None:
        self._train: LocalTraining = trainer(self.case, self.defenses)
        images = sum(map(len, self.dealt.clients))
        self._few = 4 * images * math.prod(self.collection.spec.shape) < KEPT_BYTES
        self._kept: dict[int, Batch] = {}

    def guarantees(self) -> list[Guarantee]:
        """Return what differential privacy the defenses give over this training.

        The client with the most steps counts.
        """
        most = max(map(len, self.dealt.clients))
        recipe = self.training.recipe(most)
        work = Workload(recipe.steps, recipe.records_per_step, most, self.training.rounds)
        given = [defense.guarantee(work) for defense in self.defenses]
        return [one for one in given if one is not None]

    def start(self) -> State:
        """Return the state before the first round.

        Raises:
            ModelError: The network does not fit the images, or a defense not the network.
        """
        agreed = agreed_network(self.case, self.sample, self.defenses, self.seeds)
        model = agreed.to(self.device, self.case.dtype)
        return State(model, [{} for _ in self.dealt.clients])

    def go_on(self, state: State, after: Callable[[State], None]) -> State:
        """Play every round that is left.

        Args:
            state: How far the training is; changed in place.
            after: Is told of the state after each round.

        Raises:
            ContractError: The training diverged, or a defense returned what does not fit.
        """
        while state.rounds < self.training.rounds:
            began = time.perf_counter()
            updates: Sequence[Update] = [
                self._train(self._task(state, k)) for k in range(len(self.dealt.clients))
            ]
            for defense in self.defenses:
                updates = defense.aggregate(updates)
            self._apply(state, mean_update(list(updates)))
            synchronise(self.device)
            state.seconds += time.perf_counter() - began
            state.rounds += 1
            after(state)
        return state

    def predictions(self, state: State) -> Predictions:
        """Return what the trained network says of the public's labelled images."""
        networks = self.deployed(state)
        return predict(networks, self.sample.spec, self._tested, self._labels, self._patients)

    @functools.cached_property
    def _test(self) -> tuple[int, ...]:
        return tuple(i for i in self.dealt.public if self.dealt.labels[i] is not None)

    @functools.cached_property
    def _tested(self) -> Tensor:
        return self.collection.images(self._test)

    @functools.cached_property
    def _labels(self) -> Tensor:
        return torch.tensor([self.dealt.labels[i] or 0 for i in self._test], dtype=torch.long)

    @functools.cached_property
    def _patients(self) -> Tensor:
        names = [self.collection.entries[i].patient for i in self._test]
        numbers = {name: k for k, name in enumerate(sorted(set(names)))}
        return torch.tensor([numbers[name] for name in names], dtype=torch.long)

    def deployed(self, state: State) -> list[nn.Module]:
        """Return the network as each client uses it; one for all if no defense changes it."""
        changed = any(type(d).deploy is not Defense.deploy for d in self.defenses)
        networks = []
        for k, memory in enumerate(state.memories if changed else state.memories[:1]):
            network = copy.deepcopy(state.model).eval()
            for defense in self.defenses:
                network = defense.deploy(network, memory, self.seeds.stream(f"deploy/{k}"))
            networks.append(network)
        return networks

    def _task(self, state: State, k: int) -> ClientTask:
        batch = self._records(k)
        order = torch.randperm(
            len(batch.labels), generator=self.seeds.stream(f"order/{k}/{state.rounds}")
        )
        return ClientTask(
            model=copy.deepcopy(state.model),
            batch=Batch(
                batch.images[order].to(self.device, self.case.dtype),
                batch.labels[order].to(self.device),
            ),
            spec=self.sample.spec,
            classes=self.sample.classes,
            loss=self.case.model.loss(),
            recipe=self.training.recipe(len(order)),
            training=True,
            rng=self.seeds.stream(f"training/{k}/{state.rounds}"),
            memory=state.memories[k],
        )

    def _records(self, k: int) -> Batch:
        """Return all records of a client; few enough ones are read once."""
        if k in self._kept:
            return self._kept[k]
        owned = self.dealt.clients[k]
        labels = torch.tensor([self.dealt.labels[i] or 0 for i in owned], dtype=torch.long)
        batch = Batch(self.collection.images(owned), labels)
        if self._few:
            self._kept[k] = batch
        return batch

    def _apply(self, state: State, update: Update) -> None:
        if update.kind is not Change.DIFFERENCE:
            raise ContractError("a defense returned a gradient where clients send changed weights")
        if not all(map(is_finite, update.change.values())):
            raise ContractError("the training diverged: lower training.learning_rate")
        parameters = dict(state.model.named_parameters())
        with torch.no_grad():
            for name, change in update.change.items():
                before = state.velocity.get(name, torch.zeros_like(change))
                state.velocity[name] = self.training.momentum * before + change
                parameters[name].add_(state.velocity[name].to(parameters[name]))
            for name, buffer in state.model.named_buffers():
                if update.buffers is not None and name in update.buffers:
                    buffer.copy_(update.buffers[name])
