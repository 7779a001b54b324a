"""The clients of a case, who train its classifier with their defenses."""

import copy
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from medbreach import Defense, Seeds
from medbreach.components import ClientTask
from medbreach.devices import pick_device
from medbreach.models.user_network import UserNetwork
from medbreach.round import agreed_network, trainer, vet
from medbreach.session import Session, prepare
from medbreach.settings import build as built
from medbreach.tradeoff.images import DealtImages
from medbreach.tradeoff.predictions import measure, predict
from medbreach.types import Batch
from medbreach_federation.learner import Instruction, Learner, Result, Weights
from medbreach_federation.memory import Memories
from medbreach_federation.proximal import Proximal
from medbreach_federation.setting import Setting
from medbreach_federation.updates import applied, tied_in

SETTING: Final = "setting.json"


class ClassifierLearner(Learner):
    """Trains a case's network as `medbreach.round` does, and tests it on the public's patients.

    What is sent is the network's state dict. Defenses act as in an audit, with what they keep in
    the client's memory.

    Attributes:
        session: The case, its images and its one stack of defenses.
        setting: How it trains.
    """

    def __init__(self, session: Session, setting: Setting, folder: Path) -> None:
        self.session, self.setting = session, setting
        self._memories = Memories(folder)
        plan = session.plan
        ((_, self.defenses),) = plan.stacks.items()
        self._case = replace(plan.case, user=replace(plan.case.user, num_data_points=1))
        self._seeds = Seeds(setting.seed)

    @functools.cached_property
    def images(self) -> DealtImages:
        """Everybody's images."""
        options, collection = self.session.plan.options, self.session.collection
        return DealtImages(self._case, collection, self._seeds, options.decoys, options.public)

    @property
    def clients(self) -> int:
        """How many clients the case has."""
        return self._case.federation.default_clients

    @functools.cached_property
    def network(self) -> nn.Module:
        """The network that the federation agrees on, on the CPU."""
        agreed = agreed_network(self._case, self.images.sample, self.defenses, self._seeds)
        return agreed.to(dtype=self._case.dtype)

    @property
    def buffers(self) -> frozenset[str]:
        """Names of what is sent and no parameter."""
        parameters = {name for name, _ in self.network.named_parameters(remove_duplicate=False)}
        return frozenset(_tensors(self.network)) - parameters

    def first(self) -> Weights:
        """Return the first round's weights and buffers."""
        return {name: tensor.detach().clone() for name, tensor in _tensors(self.network).items()}

    def network_with(self, weights: Weights) -> nn.Module:
        """Return the network with weights and buffers that were sent, where it computes."""
        network = copy.deepcopy(self.network)
        with torch.no_grad():
            for name, tensor in _tensors(network).items():
                tensor.copy_(weights[name])
        return network.to(self.session.device)

    def train(self, instruction: Instruction) -> Result:
        """Train on all of the client's records."""
        task = self.task(instruction)
        vet(self.defenses, task.model, task.spec)
        stack: Sequence[Defense] = self.defenses
        if self.setting.strategy == "fedprox":
            stack = [*stack, Proximal(self.setting.proximal_mu, instruction.weights)]
        update = trainer(self._case, stack)(task)
        weights = applied(update, instruction.weights, tied_in(self.network))
        count = len(task.batch.labels) if update.count is None else update.count
        return Result(weights, count, memory=task.memory)

    def order(self, client: int, round: int) -> list[int]:
        """Return the order in which a client trains on its records in a round."""
        count = len(self.images.dealt.clients[client])
        rng = self._seeds.stream(f"order/{client}/{round}")
        return torch.randperm(count, generator=rng).tolist()

    def task(self, instruction: Instruction) -> ClientTask:
        """Return what a client is asked to train."""
        client, number, device = instruction.client, instruction.round, self.session.device
        batch, order = self.images.records(client), self.order(client, number)
        return ClientTask(
            model=self.network_with(instruction.weights),
            batch=Batch(
                batch.images[order].to(device, self._case.dtype), batch.labels[order].to(device)
            ),
            spec=self.images.sample.spec,
            classes=self.images.sample.classes,
            loss=self._case.model.loss(),
            recipe=self.setting.training.recipe(len(order)),
            training=True,
            rng=self._seeds.stream(f"training/{client}/{number}"),
            memory=copy.deepcopy(dict(instruction.memory)),
        )

    def evaluate(self, round: int, weights: Weights) -> Mapping[str, float]:
        """Return accuracy, AUC and F1 on patients who take no part in the training.

        Where a defense has each client use the network in its own way, they are means over the
        clients' networks, of those who took part so far.
        """
        images = self.images
        networks = [network.eval() for network in self._in_use(round, weights)]
        return measure(
            predict(networks, images.sample.spec, images.tested(), images.labels, images.patients)
        )

    def _in_use(self, round: int, weights: Weights) -> list[nn.Module]:
        network = self.network_with(weights)
        changing = [d for d in self.defenses if type(d).deploy is not Defense.deploy]
        if not changing:
            return [network]
        memories = [self._memories.before(k, round + 1) for k in range(self.clients)]
        if not any(memories):
            return [network]
        networks = []
        for k, memory in enumerate(memories):
            if memory:
                own: nn.Module = copy.deepcopy(network).eval()
                for defense in changing:
                    own = defense.deploy(own, memory, self._seeds.stream(f"deploy/{k}"))
                networks.append(own)
        return networks


def build(folder: Path) -> ClassifierLearner:
    """Return the learner of a federation's folder."""
    kept = json.loads((folder / SETTING).read_text())
    file, factory = kept["user_network"] or ("", "")
    network = UserNetwork(Path(file), factory) if file else None
    session = prepare(kept["settings"], pick_device(kept["device"]), network)
    return ClassifierLearner(session, built(Setting, kept["federation"], "federation"), folder)


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return what a network's state dict has, sharing its memory."""
    state = network.state_dict()
    return {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
