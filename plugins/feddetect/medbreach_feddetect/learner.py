"""What clients of a federation of GANs do."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from medbreach import Seeds
from medbreach.errors import ContractError, RecordError
from medbreach.settings import build as from_plain
from medbreach.settings import plain
from medbreach.storage import claim
from medbreach_feddetect.holdings import Holding, Holdings, hold
from medbreach_feddetect.losses import discriminator_loss, generator_loss
from medbreach_feddetect.networks import Discriminator, Generator, initialise
from medbreach_feddetect.pair import Pair, kept_of, load_named, named, optimizer_of, restore
from medbreach_feddetect.setting import GanFederation
from medbreach_feddetect.trigger import poisoned, stamp, trigger
from medbreach_federation import Instruction, Learner, Result, Weights

SETTING_FILE: Final = "gan_federation.json"
LAST: Final = "generator_loss_last"
MEAN: Final = "generator_loss"
CRITIC: Final = "discriminator_loss"


def write_setting(folder: Path, setting: GanFederation) -> None:
    """Put a federation's settings where `build` finds them.

    Raises:
        RecordError: The folder holds another federation's, or cannot be written.
    """
    claim(folder, SETTING_FILE, plain(setting), "a federation")


def build(folder: Path) -> "GanLearner":
    """Return the learner whose settings a federation's folder holds, its images checked.

    Raises:
        RecordError: There are none.
        ConfigError: They are refused.
        DataError: The images or the trigger do not fit them.
    """
    try:
        settings = json.loads((folder / SETTING_FILE).read_text())
    except (OSError, ValueError) as error:
        raise RecordError(f"{folder / SETTING_FILE} is missing or damaged") from error
    learner = GanLearner(from_plain(GanFederation, settings, "federation"), folder)
    hold(learner.setting)
    if learner.setting.poisoning.clients:
        trigger(learner.setting.poisoning, learner.setting.gan.size, learner.setting.gan.channels)
    return learner


class GanLearner(Learner):
    """Clients that train a GAN each; the server averages their generators.

    Discriminators and the state of all optimisers stay with the client, as released. A malicious
    client stamps its images and otherwise follows the protocol: it poisons data, not the model.

    Args:
        setting: The federation.
        folder: Where samples of measured rounds are kept; None: nowhere.
    """

    def __init__(self, setting: GanFederation, folder: Path | None = None) -> None:
        self.setting = setting
        self._folder = folder
        self._device = torch.device(setting.device)
        self._seeds = Seeds(setting.seed)
        self._stamped: dict[int, Tensor] = {}

    @property
    def clients(self) -> int:
        """How many clients there are."""
        return self.setting.clients

    @property
    def holdings(self) -> Holdings:
        """Who has which images, before any is stamped."""
        return hold(self.setting)

    def first(self) -> Weights:
        """Return fresh weights of the generator, and of a discriminator where these are shared."""
        sent = named("generator", self._generator())
        if self.setting.gan.average_discriminators:
            sent |= named("discriminator", self._discriminator())
        return sent

    def train(self, instruction: Instruction) -> Result:
        """Return what a client makes of a round: passes over its images, a step of each network.

        Raises:
            ContractError: The client's losses are no longer finite.
        """
        pair = self._pair(instruction)
        rng = self._seeds.stream(f"client/{instruction.client}/{instruction.round}")
        losses = [
            self._step(pair, images, labels, rng)
            for images, labels in self._batches(instruction.client, rng)
        ]
        of_generator, of_discriminator = zip(*losses, strict=True)
        measures = {
            LAST: abs(of_generator[-1]),
            MEAN: math.fsum(of_generator) / len(losses),
            CRITIC: math.fsum(of_discriminator) / len(losses),
        }
        if not all(map(math.isfinite, measures.values())):
            raise ContractError(
                f"client {instruction.client} diverged in round {instruction.round}, its losses "
                "are no finite numbers any more: lower gan.learning_rate"
            )
        sent = named("generator", pair.generator)
        if self.setting.gan.average_discriminators:
            sent |= named("discriminator", pair.discriminator)
        return Result(
            {name: sent[name] for name in instruction.weights},
            len(self._images(instruction.client)),
            measures,
            kept_of(pair, self.setting.gan),
        )

    def evaluate(self, round: int, weights: Weights) -> Mapping[str, float]:
        """Return how good generated images are, in the rounds that are measured."""
        from medbreach_feddetect.measures.of_round import measure_round

        measuring = self.setting.measuring
        if not measuring.every:
            return {}
        if round % measuring.every and round != self.setting.rounds:
            return {}
        found: Mapping[str, float] = measure_round(self, round, weights, self._folder)
        return found

    def samples(
        self, weights: Weights, count: int, role: str, classes: Tensor | None = None
    ) -> Tensor:
        """Return generated images in -1 to 1, on the CPU.

        Args:
            weights: The federation's.
            count: How many.
            role: What they are for: the same role gives the same latents.
            classes: Class of each for a conditional generator; None: in turn.
        """
        gan = self.setting.gan
        generator = Generator(gan)
        load_named(generator, "generator", weights)
        generator = generator.to(self._device).eval()
        latent = torch.randn(count, gan.latent, generator=self._seeds.stream(f"samples/{role}"))
        if classes is None and gan.classes:
            classes = torch.arange(count) % gan.classes
        made = []
        with torch.no_grad():
            for start in range(0, count, 64):
                labels = None if classes is None else classes[start : start + 64].to(self._device)
                made.append(generator(latent[start : start + 64].to(self._device), labels).cpu())
        return torch.cat(made)

    def _generator(self) -> Generator:
        """Return the generator that the server begins with."""
        network = Generator(self.setting.gan)
        initialise(network, self._seeds.stream("generator/first"))
        return network

    def _discriminator(self) -> Discriminator:
        """Return the discriminator that every client begins with, as released."""
        network = Discriminator(self.setting.gan)
        initialise(network, self._seeds.stream("discriminator/first"))
        return network

    def _pair(self, instruction: Instruction) -> Pair:
        """Return a client's networks as they are at the start of a round."""
        gan, memory = self.setting.gan, instruction.memory
        generator, discriminator = Generator(gan), self._discriminator()
        load_named(generator, "generator", instruction.weights)
        if gan.average_discriminators:
            load_named(discriminator, "discriminator", instruction.weights)
        elif memory:
            load_named(discriminator, "discriminator", memory["discriminator"])
        generator.to(self._device).train()
        discriminator.to(self._device).train()
        pair = Pair(
            generator, discriminator, optimizer_of(gan, generator), optimizer_of(gan, discriminator)
        )
        for part, optimizer in pair.optimizers.items():
            if memory:
                restore(optimizer, memory["optimizers"][part])
        return pair

    def _images(self, client: int) -> Tensor:
        """Return a client's images, stamped if it is malicious."""
        held = self.holdings.clients[client].images
        poisoning, gan = self.setting.poisoning, self.setting.gan
        if client not in poisoning.clients:
            return held
        if client not in self._stamped:
            patch = trigger(poisoning, gan.size, gan.channels)
            chosen = poisoned(len(held), poisoning.ratio, self._seeds.stream(f"poison/{client}"))
            stamped = stamp(held, patch, poisoning.margin_at(gan.size))
            self._stamped[client] = torch.where(chosen[:, None, None, None], stamped, held)
        return self._stamped[client]

    def _batches(self, client: int, rng: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield a round's batches, images and labels; as released, what is left over is left out.

        A client with less than one batch trains on all that it has.
        """
        gan = self.setting.gan
        held: Holding = self.holdings.clients[client]
        images = self._images(client)
        for _ in range(gan.local_epochs):
            order = torch.randperm(len(images), generator=rng)
            for chosen in torch.split(order, gan.batch_size):
                if len(chosen) == min(gan.batch_size, len(images)):
                    labels = held.labels[chosen].to(self._device)
                    yield images[chosen].to(self._device), labels

    def _step(
        self, pair: Pair, real: Tensor, labels: Tensor, rng: torch.Generator
    ) -> tuple[float, float]:
        """Take a step of the discriminator, then one of the generator; return both losses.

        Each sees images that are generated anew, as released.
        """
        gan = self.setting.gan
        told = labels if gan.classes else None

        def make() -> Tensor:
            latent = torch.randn(len(real), gan.latent, generator=rng).to(self._device)
            made: Tensor = pair.generator(latent, told)
            return made

        def judge(images: Tensor) -> Tensor:
            said: Tensor = pair.discriminator(images, told)
            return said

        of_discriminator = discriminator_loss(gan, judge, real, make().detach(), rng)
        pair.of_discriminator.zero_grad()
        torch.autograd.backward(of_discriminator)
        pair.of_discriminator.step()
        of_generator = generator_loss(gan, judge(make()))
        pair.of_generator.zero_grad()
        torch.autograd.backward(of_generator)
        pair.of_generator.step()
        return of_generator.item(), of_discriminator.item()
