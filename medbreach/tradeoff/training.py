"""A whole federated training with defenses, by federated averaging."""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from medbreach.case import Case
from medbreach.components import ClientTask, Defense, LocalTraining, Workload, is_finite
from medbreach.errors import ContractError
from medbreach.measure import synchronise
from medbreach.population import Deal
from medbreach.randomness import Seeds
from medbreach.round import aggregated, agreed_network, given_by, mean_update, trainer, vet
from medbreach.tradeoff.images import DealtImages
from medbreach.tradeoff.predictions import Predictions, predict
from medbreach.types import Batch, Change, Guarantee, Recipe, Update

BETAS = (0.9, 0.99)  # of FedAdam, as its authors take them
ADAPTIVITY = 1e-3  # likewise
ADAM_RATE = 0.01  # likewise


@dataclass(frozen=True)
class Training:
    """How a federation trains, where it is not a single round that is looked at.

    Each round every client trains on all its records by SGD or Adam, and the server takes the mean
    of the changes of weights (federated averaging, McMahan et al. 2017, arXiv:1602.05629; every
    client counts the same). With ``server_optimizer`` adam it takes a step of Adam along that mean
    instead (FedAdam, Reddi et al. 2020, arXiv:2003.00295, with its 0.9, 0.99 and 0.001).

    Attributes:
        rounds: Number of rounds.
        local_epochs: Passes over a client's records in a round.
        batch_size: Records in each step.
        learning_rate: Learning rate of the steps.
        optimizer: ``sgd`` or ``adam``: how each client takes them.
        server_optimizer: ``sgd``: the server adds the mean change; ``adam``: FedAdam.
        server_learning_rate: Factor of the server's steps; null: 1 for sgd, 0.01 for adam.
        momentum: Momentum of the server's steps over rounds with sgd (FedAvgM); 0 for none.
        seeds: Trainings of each stack, with the first of the audit's seeds; null: one for each.
    """

    rounds: int = 30
    local_epochs: int = 1
    batch_size: int = 16
    learning_rate: float = 0.05
    optimizer: Literal["sgd", "adam"] = "sgd"
    server_optimizer: Literal["sgd", "adam"] = "sgd"
    server_learning_rate: float | None = None
    momentum: float = 0.0
    seeds: int | None = None

    def __post_init__(self) -> None:
        for name in ("rounds", "local_epochs", "batch_size", "seeds"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name in ("learning_rate", "server_learning_rate"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie from 0 to below 1, got {self.momentum}")
        if self.momentum and self.server_optimizer != "sgd":
            raise ValueError("momentum has no effect with server_optimizer adam: leave one out")

    def server_step(
        self, change: Tensor, first: Tensor, second: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return a server's step along a mean change, and its first and second moments after it."""
        if self.server_optimizer == "sgd":
            first = self.momentum * first + change
            return (self.server_learning_rate or 1.0) * first, first, second
        first = BETAS[0] * first + (1 - BETAS[0]) * change
        second = BETAS[1] * second + (1 - BETAS[1]) * change.square()
        step = (self.server_learning_rate or ADAM_RATE) * first / (second.sqrt() + ADAPTIVITY)
        return step, first, second

    def recipe(self, records: int) -> Recipe:
        """Return how a client with so many records trains in a round."""
        per_step = min(self.batch_size, records)
        steps = self.local_epochs * -(-records // per_step)
        return Recipe(steps, per_step, self.learning_rate, optimizer=self.optimizer)


def guarantees(
    defenses: Sequence[Defense], training: Training, dealt: Deal
) -> tuple[Guarantee, ...]:
    """Return what differential privacy defenses give over a training.

    The client with the most steps counts.

    Raises:
        ConfigError: A defense is asked for a guarantee that its mechanism does not give.
    """
    most = max(map(len, dealt.clients))
    recipe = training.recipe(most)
    work = Workload(recipe.steps, recipe.records_per_step, most, training.rounds)
    return given_by(defenses, work)


@dataclass
class State:
    """How far a training is: everything that the next round depends on.

    Attributes:
        model: The global network.
        memories: What each client keeps.
        moments: The server's first and second moments, by parameter name.
        rounds: Rounds that are done.
        seconds: Time that clients and server took in them.
    """

    model: nn.Module
    memories: list[dict[str, Any]]
    moments: dict[str, list[Tensor]] = field(default_factory=dict)
    rounds: int = 0
    seconds: float = 0.0

    def keep(self) -> dict[str, Any]:
        """Return what `go_on` needs, as plain values."""
        return {
            "weights": self.model.state_dict(),
            "memories": self.memories,
            "moments": self.moments,
            "rounds": self.rounds,
            "seconds": self.seconds,
        }

    def go_on(self, kept: dict[str, Any]) -> None:
        """Put everything back to where `keep` found it."""
        self.model.load_state_dict(kept["weights"])
        self.memories, self.moments = kept["memories"], kept["moments"]
        self.rounds, self.seconds = kept["rounds"], kept["seconds"]


@dataclass
class FederatedTraining:
    """The training of one case with one stack of defenses and one seed.

    Attributes:
        case: The federated setting.
        training: How it trains.
        defenses: The stack, innermost first.
        images: Everybody's images.
        seeds: Random streams.
        device: Where to compute.
    """

    case: Case
    training: Training
    defenses: Sequence[Defense]
    images: DealtImages
    seeds: Seeds
    device: torch.device

    def __post_init__(self) -> None:
        self._train: LocalTraining = trainer(self.case, self.defenses)

    def guarantees(self) -> tuple[Guarantee, ...]:
        """Return what differential privacy the defenses give over this training."""
        return guarantees(self.defenses, self.training, self.images.dealt)

    def start(self) -> State:
        """Return the state before the first round.

        Raises:
            ModelError: The network does not fit the images, or a defense not the network.
            Refused: A defense will not train it.
        """
        agreed = agreed_network(self.case, self.images.sample, self.defenses, self.seeds)
        vet(self.defenses, agreed, self.images.sample.spec)
        model = agreed.to(self.device, self.case.dtype)
        return State(model, [{} for _ in self.images.dealt.clients])

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
                self._train(self._task(state, k)) for k in range(len(self.images.dealt.clients))
            ]
            for defense in self.defenses:
                updates = aggregated(defense, updates, state.model)
            self._apply(state, mean_update(updates))
            synchronise(self.device)
            state.seconds += time.perf_counter() - began
            state.rounds += 1
            after(state)
        return state

    def predictions(self, state: State) -> Predictions:
        """Return what the trained network says of the public's labelled images."""
        images = self.images
        return predict(
            self.deployed(state),
            images.sample.spec,
            images.tested(),
            images.labels,
            images.patients,
        )

    def deployed(self, state: State) -> list[nn.Module]:
        """Return the network as each client uses it; one for all if no defense changes it.

        Raises:
            ContractError: A defense returns no network.
        """
        changed = any(type(d).deploy is not Defense.deploy for d in self.defenses)
        networks = []
        for k, memory in enumerate(state.memories if changed else state.memories[:1]):
            network: Any = copy.deepcopy(state.model).eval()
            for defense in self.defenses:
                network = defense.deploy(network, memory, self.seeds.stream(f"deploy/{k}"))
                if not isinstance(network, nn.Module):
                    raise ContractError(
                        f"{defense.name} deploys a {type(network).__name__}, no network"
                    )
            networks.append(network)
        return networks

    def _task(self, state: State, k: int) -> ClientTask:
        batch = self.images.records(k)
        order = torch.randperm(
            len(batch.labels), generator=self.seeds.stream(f"order/{k}/{state.rounds}")
        )
        return ClientTask(
            model=copy.deepcopy(state.model),
            batch=Batch(
                batch.images[order].to(self.device, self.case.dtype),
                batch.labels[order].to(self.device),
            ),
            spec=self.images.sample.spec,
            classes=self.images.sample.classes,
            loss=self.case.model.loss(),
            recipe=self.training.recipe(len(order)),
            training=True,
            rng=self.seeds.stream(f"training/{k}/{state.rounds}"),
            memory=state.memories[k],
        )

    def _apply(self, state: State, update: Update) -> None:
        if update.kind is not Change.DIFFERENCE:
            raise ContractError("a defense returned a gradient where clients send changed weights")
        if not all(map(is_finite, update.change.values())):
            raise ContractError("the training diverged: lower training.learning_rate")
        parameters = dict(state.model.named_parameters())
        with torch.no_grad():
            for name, change in update.change.items():
                blank = torch.zeros_like(change)
                moments = state.moments.get(name, [blank, blank])
                step, *state.moments[name] = self.training.server_step(change, *moments)
                parameters[name].add_(step.to(parameters[name]))
            for name, buffer in state.model.named_buffers():
                if update.buffers is not None and name in update.buffers:
                    buffer.copy_(update.buffers[name])
