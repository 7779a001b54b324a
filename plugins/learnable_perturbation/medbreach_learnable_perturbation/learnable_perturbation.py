"""Noise on a network's latent, learned at the client against a decoder."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Literal, NamedTuple

import torch
from torch import Tensor, nn

from medbreach import (
    Batch,
    ClientTask,
    Defense,
    Gradient,
    ImageSpec,
    LocalTraining,
    ModelError,
    NotApplicable,
    StepGradient,
    Update,
    lend_global,
)
from medbreach_learnable_perturbation.decoder import Adversary, decoder_for
from medbreach_learnable_perturbation.latent import Latent, Seen, find_latent, perturbed
from medbreach_learnable_perturbation.noise import Noise
from medbreach_learnable_perturbation.pretraining import (
    Pretraining,
    alternating,
)

MEMORY: Final = "learnable_perturbation"
MEAN: Final = "learnable_perturbation.mean"
STD: Final = "learnable_perturbation.std"


class Kept(NamedTuple):
    """What a client keeps from round to round, in its memory as plain values.

    Attributes:
        layer: Name of the module whose output is the latent.
        noise: The noise, which no longer learns.
        adversary: The decoder, which goes on to learn.
    """

    layer: str
    noise: Noise
    adversary: Adversary

    def plain(self) -> dict[str, Any]:
        """Return it as plain values."""
        noise = {"mean": self.noise.mean, "std": self.noise.std}
        return {"layer": self.layer, **noise, **self.adversary.keep()}


@dataclass(frozen=True)
class LearnablePerturbation(Defense):
    """Add Gaussian noise to the network's latent, and train against a decoder at the client.

    The noise is on in every forward pass, drawn anew. A decoder guesses the image from the noisy
    latent. In each step it first learns to raise the correlation of guess and image; then comes the
    gradient that the network is trained by, of the task's loss plus ``correlation_weight`` times
    that correlation. The decoder never leaves the client.

    Learned noise has a mean and a deviation for every element of the latent. They are trained
    before the client's first round, on its own records, together with a copy of the network and a
    decoder that are both thrown away, and stay as they are from then on. Fixed noise has one mean
    and one deviation.

    Noise is not differential privacy: no (epsilon, delta) is known for it.

    An attacker who knows the defense puts the noise, with the client's own means and deviations,
    into its copy of the network, and draws it anew in each iteration of its search. The decoder is
    unknown to it and left out. That gains most where the mean is large: then a naive attacker
    mistakes a constant shift of the latent for the images. `mismatch` measures it.

    Attributes:
        kind: ``learned`` or ``fixed`` noise.
        layer: Name of the module whose output is the latent; empty: the input of the last pooling,
            or of the flattening before the head (ours).
        mean: Mean of fixed noise (ours), and where learned noise starts.
        std: Standard deviation of fixed noise, and where learned noise starts.
        correlation_weight: Lambda of Eq. 3 (ours).
        decoder_lr: Learning rate of Adam for the decoder (ours).
        pretrain_epochs: Passes over the records in which noise is learned (ours).
        pretrain_records: Most further records of the client that noise is learned from, beside
            those of the round (ours).
        pretrain_batch_size: Most records in a step of it; the source trains with 128 (ours).
        pretrain_lr: Learning rate of Adam for the network in it (ours).
        pretrain_noise_lr: Learning rate of Adam for the noise in it (ours).
    """

    name: ClassVar[str] = "learnable_perturbation"
    source: ClassVar[str] = "Jiang, Firouzi and Chakrabarty 2025, arXiv:2503.16542, Algorithm 1"
    differs: ClassVar[str] = (
        "The source's lambda, learning rates and fixed means are not known to us; its deviation is "
        "kept positive by a softplus, and each image's correlation is averaged over a batch. "
        "Learned noise is trained from a copy of the network as received, for fewer epochs than "
        "the source's 400. In the federation the network is trained by the case's plain SGD, "
        "where the source has Adam. Any network with a spatial latent is cut, in 2D and 3D, with a "
        "decoder of our own where Table I's does not fit."
    )

    kind: Literal["learned", "fixed"] = "learned"
    layer: str = ""
    mean: float = 1.0
    std: float = 0.1
    correlation_weight: float = 0.1
    decoder_lr: float = 1e-3
    pretrain_epochs: int = 10
    pretrain_records: int = 256
    pretrain_batch_size: int = 32
    pretrain_lr: float = 1e-3
    pretrain_noise_lr: float = 1e-2

    def __post_init__(self) -> None:
        if not math.isfinite(self.mean):
            raise ValueError(f"mean must be finite, got {self.mean}")
        least = "positive for learned noise" if self.kind == "learned" else "finite, not negative"
        if not (0 <= self.std < math.inf and (self.std > 0 or self.kind == "fixed")):
            raise ValueError(f"std must be {least}, got {self.std}")
        if not 0 <= self.correlation_weight < math.inf:
            raise ValueError(
                f"correlation_weight must be finite, not negative, got {self.correlation_weight}"
            )
        for key in ("decoder_lr", "pretrain_lr", "pretrain_noise_lr"):
            if not 0 < getattr(self, key) < math.inf:
                raise ValueError(f"{key} must be positive, got {getattr(self, key)}")
        for key, low in (
            ("pretrain_epochs", 1),
            ("pretrain_records", 0),
            ("pretrain_batch_size", 1),
        ):
            if getattr(self, key) < low:
                raise ValueError(f"{key} must be at least {low}, got {getattr(self, key)}")

    def remodel(self, model: nn.Module, spec: ImageSpec, classes: int) -> nn.Module:
        """Return the network as it is, if it can be cut.

        Raises:
            ModelError: It has no latent with spatial axes, or no such layer.
        """
        del classes
        find_latent(model, spec, self.layer)
        return model

    def wrap(self, train: LocalTraining) -> LocalTraining:
        """Return local training that learns the noise first, and hints at it for who knows it."""

        def trained(task: ClientTask) -> Update:
            noise = self.kept(task).noise
            update = train(task)
            return replace(update, hints={**update.hints, MEAN: noise.mean, STD: noise.std})

        return trained

    def step(self, gradient: StepGradient) -> StepGradient:
        """Return the gradient of Eq. 3 under noise, each after a step of the decoder."""
        made: list[tuple[dict[str, Any], Kept]] = []

        def protected(task: ClientTask, batch: Batch) -> Gradient:
            if not made or made[-1][0] is not task.memory:
                made.append((task.memory, self.kept(task)))
            kept = made[-1][1]

            def add_noise(latents: Tensor) -> Tensor:
                return kept.noise.on(latents, task.rng)

            with perturbed(task.model, kept.layer, add_noise) as seen:
                loss = task.loss
                if self.correlation_weight > 0:
                    loss = alternating(loss, kept.adversary, self.correlation_weight, seen)
                found = gradient(replace(task, loss=loss), batch)
            task.memory[MEMORY] = kept.plain()
            return found

        return protected

    def deploy(
        self, model: nn.Module, memory: Mapping[str, Any], rng: torch.Generator
    ) -> nn.Module:
        """Return the network with the client's noise, which stays on after training."""
        kept = memory[MEMORY]
        noise = Noise(kept["mean"], kept["std"])

        def perturb(module: nn.Module, given: Any, latents: Tensor) -> Tensor:
            del module, given
            return noise.on(latents, rng)

        model.get_submodule(kept["layer"]).register_forward_hook(perturb)
        return model

    def simulate_step(self, gradient: StepGradient, seen: Update) -> StepGradient:
        """Return the gradient of the task's loss under noise that is drawn anew."""

        def simulated(task: ClientTask, batch: Batch) -> Gradient:
            with self.in_use(task.model, task.spec, seen, task.rng):
                return gradient(task, batch)

        return simulated

    def in_use(
        self, model: nn.Module, spec: ImageSpec, seen: Update, rng: torch.Generator
    ) -> AbstractContextManager[Seen]:
        """Let a network run with the noise of the clients that an update is of.

        A network that was trained under noise is also used under it, so this is for tests of its
        accuracy too.

        Raises:
            NotApplicable: The network cannot be cut.
        """
        noise = self.noise_of(seen)

        def add_noise(latents: Tensor) -> Tensor:
            return noise.on(latents, rng)

        return perturbed(model, self._latent(model, spec).layer, add_noise)

    def conflict(self, stack: Sequence[Defense]) -> str:
        """Return why it cannot stand beside itself, or beside a guarantee that it would void."""
        if sum(isinstance(other, LearnablePerturbation) for other in stack) > 1:
            return "its noise on the latent can be put on once only"
        private = [o.name for o in stack if type(o).guarantee is not Defense.guarantee]
        if private and (self.kind == "learned" or self.correlation_weight > 0):
            return (
                f"its decoder and its learned noise are trained on the client's records without "
                f"the noise of {private[0]}, whose guarantee would not hold; kind=fixed with "
                "correlation_weight=0 trains neither"
            )
        return ""

    def noise_of(self, seen: Update) -> Noise:
        """Return the noise of the clients that an update is of: their mean, if there are several.

        Where the update does not hint at it, it is what the settings say.
        """
        told = Noise(torch.tensor(self.mean), torch.tensor(self.std))
        return Noise(seen.hints.get(MEAN, told.mean), seen.hints.get(STD, told.std))

    def kept(self, task: ClientTask) -> Kept:
        """Return what a client keeps; before its first round, make it, noise and all."""
        latent = self._latent(task.model, task.spec)
        if MEMORY in task.memory:
            kept = task.memory[MEMORY]
            adversary = self._adversary(task, latent, torch.Generator())  # weights are put back
            adversary.go_on(kept)
            return Kept(kept["layer"], Noise(kept["mean"], kept["std"]), adversary)
        noise = Noise(torch.tensor(self.mean), torch.tensor(self.std))
        if self.kind == "learned":
            noise = self._pretraining()(task, latent, self.mean, self.std)
        made = Kept(latent.layer, noise, self._adversary(task, latent, task.rng))
        task.memory[MEMORY] = made.plain()
        return made

    def _adversary(self, task: ClientTask, latent: Latent, rng: torch.Generator) -> Adversary:
        with lend_global(rng):
            decoder = decoder_for(latent.shape, task.spec)
        return Adversary(decoder.to(next(task.model.parameters())), self.decoder_lr)

    def _latent(self, model: nn.Module, spec: ImageSpec) -> Latent:
        """Return where the network is cut that the server sent.

        Raises:
            NotApplicable: The server changed it so that it cannot be cut.
        """
        try:
            return find_latent(model, spec, self.layer)
        except ModelError as error:
            raise NotApplicable(f"in the network that the server sent, {error}") from error

    def _pretraining(self) -> Pretraining:
        return Pretraining(
            epochs=self.pretrain_epochs,
            most_records=self.pretrain_records,
            batch_size=self.pretrain_batch_size,
            lr=self.pretrain_lr,
            noise_lr=self.pretrain_noise_lr,
            decoder_lr=self.decoder_lr,
            weight=self.correlation_weight,
        )
