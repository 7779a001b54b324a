"""Learning the noise at the client, before the federation: Algorithm 1 of the source."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from medbreach import Batch, ClientTask, lend_global, trainable
from medbreach_learnable_perturbation.decoder import Adversary, decoder_for
from medbreach_learnable_perturbation.latent import Latent, Seen, perturbed
from medbreach_learnable_perturbation.noise import LearnedNoise, Noise

LossFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Pretraining:
    """How noise is learned at the client.

    Attributes:
        epochs: Passes over the records.
        most_records: Most further records of the client beside those of the round.
        batch_size: Most records in a step.
        lr: Learning rate of Adam for the network.
        noise_lr: Learning rate of Adam for the noise.
        decoder_lr: Learning rate of Adam for the decoder.
        weight: Lambda of Eq. 3.
    """

    epochs: int
    most_records: int
    batch_size: int
    lr: float
    noise_lr: float
    decoder_lr: float
    weight: float

    def __call__(self, task: ClientTask, latent: Latent, mean: float, std: float) -> Noise:
        """Return noise that was learned from a start; network and decoder are thrown away."""
        records = _together(task.batch, task.others(self.most_records))
        like = next(task.model.parameters())
        noise = LearnedNoise(latent.shape, mean, std).to(like)
        with lend_global(task.rng):  # which decoders are drawn from, and dropout
            network = copy.deepcopy(task.model).train(task.training)
            decoder = decoder_for(latent.shape, task.spec).to(like)
            adversary = Adversary(decoder, self.decoder_lr)
            learning = replace(task, model=network, batch=records)
            self._train(learning, latent.layer, noise, adversary)
        return noise.frozen()

    def _train(
        self, task: ClientTask, layer: str, noise: LearnedNoise, adversary: Adversary
    ) -> None:
        weights = list(trainable(task.model).values())
        optimizer = torch.optim.Adam(
            [
                {"params": weights, "lr": self.lr},
                {"params": list(noise.parameters()), "lr": self.noise_lr},
            ]
        )

        def add_noise(latents: Tensor) -> Tensor:
            return noise.now().on(latents, task.rng)

        with perturbed(task.model, layer, add_noise) as seen:
            objective = alternating(task.loss, adversary, self.weight, seen)
            for _ in range(self.epochs):
                for batch in self._batches(task.batch, task.rng):
                    outputs = task.model(task.spec.normalise(batch.images))
                    optimizer.zero_grad()
                    torch.autograd.backward(objective(outputs, batch.labels))
                    optimizer.step()

    def _batches(self, records: Batch, rng: torch.Generator) -> Iterator[Batch]:
        """Yield the records in random order, in batches of nearly one size."""
        order = torch.randperm(len(records.labels), generator=rng)
        for some in order.tensor_split(math.ceil(len(order) / self.batch_size)):
            chosen = some.to(records.labels.device)
            yield Batch(records.images[chosen], records.labels[chosen])


def alternating(
    loss: LossFunction, adversary: Adversary, weight: float, seen: Seen
) -> LossFunction:
    """Return the loss of Eq. 3, each call of which begins with the decoder's step by Eq. 2.

    Both look at the same noisy latents, those of the network's last forward pass.
    """

    def combined(outputs: Tensor, labels: Tensor) -> Tensor:
        assert seen.latents is not None
        assert seen.inputs is not None
        adversary.learn(seen.latents, seen.inputs)
        guessed = adversary.correlation(seen.latents, seen.inputs)
        return loss(outputs, labels) + weight * guessed

    return combined


def _together(batch: Batch, others: Batch) -> Batch:
    if not len(others.labels):
        return batch
    return Batch(torch.cat([batch.images, others.images]), torch.cat([batch.labels, others.labels]))
