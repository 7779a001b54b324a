"""How far from a client's gradient an attacker stays who guesses every image right."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from medbreach import Batch, ClientTask, Gradient, StepGradient, Update, mean_gradient
from medbreach_learnable_perturbation.latent import perturbed
from medbreach_learnable_perturbation.learnable_perturbation import (
    STD,
    Kept,
    LearnablePerturbation,
)


class Mismatch(NamedTuple):
    """Cosine distances to the gradient that the client sent, at its own images and labels.

    Gradient matching minimises this distance, and it is 0 without a defense. A large one at the
    truth says that an attacker simulates something else than the client computes, not that images
    are hidden.

    Attributes:
        plain: Of the gradient without noise.
        shifted: Of the gradient with the mean of the noise only.
        adaptive: Of the mean gradient over draws of the noise, without the decoder.
        oracle: The same with the decoder, which no attacker has.
    """

    plain: float
    shifted: float
    adaptive: float
    oracle: float


def mismatch(
    defense: LearnablePerturbation,
    task: ClientTask,
    rng: torch.Generator,
    draws: int = 64,
    only: Collection[str] | None = None,
) -> Mismatch:
    """Return how far off attackers are at the truth.

    Args:
        defense: The defense.
        task: What the client has to do; the gradient of one batch is taken, by its first weights.
        rng: Where the attackers' draws of the noise come from.
        draws: How many they average.
        only: Names of the parameters to compare, such as the encoder's; None for all.
    """
    client = replace(task, memory={})
    update = defense.wrap(_send(defense))(client)
    unvaried = replace(update, hints={**update.hints, STD: torch.zeros_like(update.hints[STD])})
    gradients: dict[str, Callable[[], Gradient]] = {
        "plain": lambda: mean_gradient(task, task.batch),
        "shifted": lambda: defense.simulate_step(mean_gradient, unvaried)(task, task.batch),
        "adaptive": lambda: _mean(defense.simulate_step(mean_gradient, update), task, rng, draws),
        "oracle": lambda: _mean(_with_decoder(defense, defense.kept(client)), task, rng, draws),
    }
    names = list(update.change) if only is None else list(only)
    return Mismatch(
        **{who: distance(made(), update.change, names) for who, made in gradients.items()}
    )


def distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor], names: Collection[str]) -> float:
    """Return the cosine distance of two gradients: 0 for one direction, 1 for a right angle."""
    left, right = (torch.cat([x[name].flatten() for name in names]) for x in (a, b))
    return 1 - float(torch.nn.functional.cosine_similarity(left, right, dim=0))


def _send(defense: LearnablePerturbation) -> Callable[[ClientTask], Update]:
    def send(task: ClientTask) -> Update:
        return Update(defense.step(mean_gradient)(task, task.batch))

    return send


def _mean(gradient: StepGradient, task: ClientTask, rng: torch.Generator, draws: int) -> Gradient:
    own = replace(task, rng=rng)
    drawn = [gradient(own, own.batch) for _ in range(draws)]
    return {name: torch.stack([g[name] for g in drawn]).mean(0) for name in drawn[0]}


def _with_decoder(defense: LearnablePerturbation, kept: Kept) -> StepGradient:
    """Return the client's gradient of Eq. 3, by the decoder as it is."""

    def gradient(task: ClientTask, batch: Batch) -> Gradient:
        def combined(outputs: Tensor, labels: Tensor) -> Tensor:
            assert seen.latents is not None
            assert seen.inputs is not None
            guessed = kept.adversary.correlation(seen.latents, seen.inputs)
            return task.loss(outputs, labels) + defense.correlation_weight * guessed

        def add_noise(latents: Tensor) -> Tensor:
            return kept.noise.on(latents, task.rng)

        with perturbed(task.model, kept.layer, add_noise) as seen:
            return mean_gradient(replace(task, loss=combined), batch)

    return gradient
