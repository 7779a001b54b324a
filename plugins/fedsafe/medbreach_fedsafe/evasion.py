"""Adversarial images: who makes them, in which space, and with which method."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from medbreach import ImageSpec, lend_global

if TYPE_CHECKING:
    from art.estimators.classification import PyTorchClassifier

AT_A_TIME: Final = 128
ITERATED: Final = ("bim", "pgd", "apgd")


@dataclass(frozen=True)
class Evasion:
    """How adversarial images are made. The methods are those of the Adversarial Robustness Toolbox.

    Attributes:
        method: ``fgsm`` (one step), ``bim`` (steps from the image), ``pgd`` (steps from a random
            place in the ball), ``apgd`` (AutoAttack's PGD with cross-entropy, which shortens its
            steps itself, and returns a random start where it fails: for attacks on oneself), ``cw``
            (Carlini and Wagner's least L2 change; ``eps`` and ``step`` play no part, and in
            ``normalised`` space the toolbox keeps to the least and greatest value there is), or
            ``random`` (signs at random: what needs no network, a control).
        eps: Greatest change of each pixel: a share of the image's range, or in ``normalised`` space
            in its own units (published 0.01 to 0.07, mostly 0.05, in normalised space).
        step: Length of each step, in the same unit.
        iterations: Number of steps; ``fgsm`` takes one of ``eps``. With the published 6 steps of a
            sixth of ``eps``, PGD is often weaker than FGSM: 20 of a quarter are enough.
        space: ``pixels``: results stay within the image's bounds. ``normalised``: as published, on
            normalised images with no clamping, so results may be no images at all. Only to compare
            with published numbers.
        labels: ``predicted``, as published: away from the class that the network gives; ``true``:
            away from the true class.
        centralise: Subtract from the gradient its spatial mean in each channel; published as an
            option.
    """

    method: Literal["fgsm", "bim", "pgd", "apgd", "cw", "random"] = "pgd"
    eps: float = 0.03
    step: float = 0.0075
    iterations: int = 20
    space: Literal["pixels", "normalised"] = "pixels"
    labels: Literal["predicted", "true"] = "predicted"
    centralise: bool = False

    def __post_init__(self) -> None:
        for name in ("eps", "step"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive, got {value}")
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")

    def __call__(
        self,
        networks: Sequence[nn.Module],
        images: Float[Tensor, "n channels *space"],
        labels: Int[Tensor, " n"],
        spec: ImageSpec,
        rng: torch.Generator,
        past: Sequence[nn.Module] = (),
    ) -> Float[Tensor, "n channels *space"]:
        """Return adversarial images, in the images' unit, on the CPU.

        Args:
            networks: What is attacked: its gradient is the mean of theirs, so several draws of
                noisy weights are an expectation over that noise (EOT).
            images: In the spec's unit.
            labels: True classes.
            spec: What is known about the images.
            rng: For random starts.
            past: Networks of past rounds, the oldest first: the attack starts from what they add
                up to, see `accumulated`.
        """
        device = next(networks[0].parameters()).device
        clean = self.entered(images, spec)
        aim = labels if self.labels == "true" else predicted(networks, images, spec)
        with lend_global(rng):
            if self.method == "random":
                made = self.clamped(clean + self.eps * _signs(clean), clean)
            elif past:
                start = self.accumulated(past, clean, aim, spec, device)
                made = self._from(start, clean, aim, self.library(networks, spec, device))
            else:
                made = self._by_library(clean, aim, self.library(networks, spec, device))
        return self.left(made, spec)

    def entered(self, images: Tensor, spec: ImageSpec) -> Tensor:
        """Return images in the space of the attack: from 0 to 1, or normalised."""
        if self.space == "normalised":
            return spec.normalise(images)
        return (images - spec.bounds[0]) / spec.range

    def left(self, attacked: Tensor, spec: ImageSpec) -> Tensor:
        """Undo `entered`; in pixels, rounding does not lead out of the bounds either."""
        if self.space == "normalised":
            return spec.denormalise(attacked)
        return (attacked * spec.range + spec.bounds[0]).clamp(*spec.bounds)

    def clamped(self, attacked: Tensor, clean: Tensor) -> Tensor:
        """Return images brought back into the ball around the clean ones, and the bounds."""
        near = clean + (attacked - clean).clamp(-self.eps, self.eps)
        return near if self.space == "normalised" else near.clamp(0.0, 1.0)

    def accumulated(
        self,
        past: Sequence[nn.Module],
        clean: Tensor,
        aim: Tensor,
        spec: ImageSpec,
        device: torch.device,
    ) -> Tensor:
        """Return images after one step up the loss of each past network, the oldest first.

        Steps are of ``eps`` over their number (ours; published is only that perturbations are
        accumulated over past global models), so that they never leave the ball.
        """
        made = clean
        for network in past:
            estimator = self.library([network.to(device)], spec, device)
            made = self._one_step(made, clean, aim, estimator, self.eps / len(past))
        return made

    def library(
        self, networks: Sequence[nn.Module], spec: ImageSpec, device: torch.device
    ) -> "PyTorchClassifier":
        """Return networks as the toolbox takes them."""
        from art.estimators.classification import PyTorchClassifier

        seen = Seen(networks, spec, self.space, centralise=self.centralise).to(device)
        classes = seen(torch.zeros(1, *spec.shape, device=device)).shape[1]
        return PyTorchClassifier(
            model=seen.eval(),
            loss=nn.NLLLoss(),
            input_shape=spec.shape,
            nb_classes=classes,
            clip_values=None if self.space == "normalised" else (0.0, 1.0),
            device_type="gpu" if device.type == "cuda" else "cpu",
        )

    def _by_library(self, clean: Tensor, aim: Tensor, estimator: "PyTorchClassifier") -> Tensor:
        attack = _attack(self, estimator)
        made = attack.generate(x=clean.cpu().numpy(), y=aim.cpu().numpy())
        made = torch.from_numpy(np.asarray(made, dtype=np.float32))
        return made if self.method == "cw" else self.clamped(made, clean.cpu())

    def _from(
        self, start: Tensor, clean: Tensor, aim: Tensor, estimator: "PyTorchClassifier"
    ) -> Tensor:
        """Go on from a start inside the ball, step by step: the toolbox starts at the image."""
        length = self.eps if self.method == "fgsm" else self.step
        for _ in range(self.iterations if self.method in ITERATED else 1):
            start = self._one_step(start, clean, aim, estimator, length)
        return start

    def _one_step(
        self,
        at: Tensor,
        clean: Tensor,
        aim: Tensor,
        estimator: "PyTorchClassifier",
        length: float,
    ) -> Tensor:
        from art.attacks.evasion import FastGradientMethod

        attack = FastGradientMethod(estimator, eps=length, batch_size=AT_A_TIME)
        made = attack.generate(x=at.cpu().numpy(), y=aim.cpu().numpy())
        return self.clamped(torch.from_numpy(np.asarray(made)), clean.cpu())


class Seen(nn.Module):
    """Networks as an attacker sees them: images in the attack's space to log probabilities.

    The log probabilities are the mean over the networks, so that the gradient of the negative log
    likelihood is the mean of theirs. They are computed with double precision: with single precision
    a network that is sure of an image by a margin of 17 has a gradient of another direction.
    """

    def __init__(
        self, networks: Sequence[nn.Module], spec: ImageSpec, space: str, *, centralise: bool
    ) -> None:
        super().__init__()
        self.networks = nn.ModuleList(copy.deepcopy(one) for one in networks)
        self.requires_grad_(requires_grad=False)
        self._spec, self._space, self._centralise = spec, space, centralise

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the mean log probability of each class."""
        if self._centralise and inputs.requires_grad:
            inputs = inputs.clone()
            inputs.register_hook(_centralised)  # type: ignore[no-untyped-call]
        if self._space == "pixels":
            low = self._spec.bounds[0]
            inputs = self._spec.normalise(inputs * self._spec.range + low)
        said = [one(inputs).double().log_softmax(1) for one in self.networks]
        return torch.stack(said).mean(0)


@torch.no_grad()
def predicted(
    networks: Sequence[nn.Module], images: Float[Tensor, "n channels *space"], spec: ImageSpec
) -> Int[Tensor, " n"]:
    """Return the class that networks together give to each image, on the CPU.

    Several networks say the class of the greatest mean log probability.
    """
    like = next(networks[0].parameters())
    seen = Seen(networks, spec, "normalised", centralise=False).eval()
    parts = [images[start : start + AT_A_TIME] for start in range(0, len(images), AT_A_TIME)]
    found = [seen(spec.normalise(part.to(like))).argmax(1).cpu() for part in parts]
    return torch.cat(found)


def _centralised(gradient: Tensor) -> Tensor:
    return gradient - gradient.mean(dim=tuple(range(2, gradient.dim())), keepdim=True)


def _signs(like: Tensor) -> Tensor:
    return torch.randint(0, 2, like.shape).to(like) * 2 - 1


def _attack(evasion: Evasion, estimator: "PyTorchClassifier") -> Any:
    """Return the toolbox's attack."""
    from art.attacks import evasion as library

    ball = {"eps": evasion.eps, "eps_step": evasion.step, "batch_size": AT_A_TIME}
    steps = {**ball, "max_iter": evasion.iterations, "verbose": False}
    if evasion.method == "fgsm":
        return library.FastGradientMethod(estimator, eps=evasion.eps, batch_size=AT_A_TIME)
    if evasion.method == "bim":
        return library.ProjectedGradientDescentPyTorch(estimator, num_random_init=0, **steps)
    if evasion.method == "pgd":
        return library.ProjectedGradientDescentPyTorch(estimator, num_random_init=1, **steps)
    if evasion.method == "apgd":
        return library.AutoProjectedGradientDescent(
            estimator, nb_random_init=1, loss_type="cross_entropy", **steps
        )
    return library.CarliniL2Method(
        estimator, max_iter=evasion.iterations, batch_size=AT_A_TIME, verbose=False
    )
