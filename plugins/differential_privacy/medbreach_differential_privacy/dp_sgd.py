"""DP-SGD: each record's gradient is clipped, and their sum is noisy."""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from medbreach import (
    Batch,
    Change,
    ClientTask,
    Defense,
    Gradient,
    Guarantee,
    ImageSpec,
    ModelError,
    Refused,
    StepGradient,
    Update,
    Workload,
)
from medbreach_differential_privacy.accounting import (
    check_accounting,
    gaussian_epsilon,
    sampled_epsilon,
)
from medbreach_differential_privacy.vectors import gaussian, norm

MIXERS = {
    "mixup": "mixes records with each other, so that one record enters several examples",
    "oasis": "lets one record enter several examples",
    "bido": "has a loss that compares the records of a step with each other",
    "learnable_perturbation": "trains on the records beside the steps that are accounted",
}
"""Defenses under which clipping each example does not bound what one record does, and why."""

UNSAMPLED = (
    "without amplification by subsampling; a record that is removed leaves its place in the "
    "batches empty"
)
"""What a guarantee for batches in a fixed order counts on."""


@dataclass(frozen=True)
class DPSGD(Defense):
    """Clip each record's gradient, and add Gaussian noise to their sum, as Opacus does.

    A step computes the gradient of each record alone, scales it down to ``max_grad_norm``, sums
    them, adds noise of ``noise_multiplier`` times that norm to every entry, and divides by the
    number of records, which is taken to be public. What is inside this defense in a stack is
    computed for each record alone, too.

    Networks that keep statistics of the records are refused: BatchNorm makes a record's output
    depend on the others of its batch, and its buffers would be sent without protection. They can be
    converted to GroupNorm, as Opacus' ``ModuleValidator.fix`` does it; what was learned of those
    layers is lost.

    The guarantee is for one record of a client, over all steps of ``rounds`` rounds. It has no
    epsilon (infinity) without noise: None would look as if nobody had asked. It counts on three
    things: a record that is taken out leaves its place in the batches empty; the number of
    records, labels and anything else that is sent beside the update is not protected; and with
    ``sample_rate``, clients draw each step's records by chance, one by one (Poisson sampling). An
    audit's own steps take records in order, so the rate is a statement about the training that is
    audited, not about the audit.

    An attacker who knows of it clips each candidate's gradient without noise, which is the mean of
    what the client could have sent; only the noise is left between a perfect candidate and the
    update. Under clipping alone that attacker loses nothing but the gradients' lengths.

    Attributes:
        noise_multiplier: Standard deviation of the noise on the sum, in units of ``max_grad_norm``;
            the default is ours.
        max_grad_norm: Greatest L2 norm of one record's gradient, all tensors together; the default
            is ours.
        delta: Probability with which the privacy loss may exceed epsilon; the default is ours.
        rounds: Rounds of the whole training, for epsilon; the default is ours, and says what one
            round alone gives away.
        sample_rate: Probability with which a step takes a record; null: amplification by
            subsampling is not claimed. Only for clients that really draw records so.
        accountant: ``prv``: tight (Gopi et al. 2021), exact without subsampling, and ``rdp`` where
            epsilon is too large for it; ``rdp``: Rényi (Mironov 2017), a greater epsilon.
        batch_norm: ``refuse`` networks with BatchNorm, or ``convert`` it to GroupNorm (and
            whatever else Opacus' validator replaces by layers of its own, such as LSTM).
    """

    name: ClassVar[str] = "dp_sgd"
    source: ClassVar[str] = "Abadi et al. 2016, arXiv:1607.00133; Opacus, arXiv:2109.12298"
    differs: ClassVar[str] = (
        "Records and their losses are computed one after the other, not vectorised; noise comes "
        "from a seeded generator in single precision (Opacus has a secure mode); the sum is "
        "divided by a step's number of records, where Opacus divides by the expected one; without "
        "subsampling epsilon is exact, which Opacus' PRV accountant exceeds by 0.01; BatchNorm "
        "without weights, and any other buffer that takes up what the records are, is refused too."
    )

    noise_multiplier: float = 1.0
    max_grad_norm: float = 1.0
    delta: float = 1e-5
    rounds: int = 1
    sample_rate: float | None = None
    accountant: Literal["prv", "rdp"] = "prv"
    batch_norm: Literal["refuse", "convert"] = "refuse"

    def __post_init__(self) -> None:
        if self.noise_multiplier < 0:
            raise ValueError(f"noise_multiplier must not be negative, got {self.noise_multiplier}")
        if self.max_grad_norm <= 0:
            raise ValueError(f"max_grad_norm must be positive, got {self.max_grad_norm}")
        if self.sample_rate is not None and not 0 < self.sample_rate <= 1:
            raise ValueError(
                f"sample_rate must lie above 0 and at most at 1, got {self.sample_rate}"
            )
        check_accounting(self.delta, self.rounds)

    def remodel(self, model: nn.Module, spec: ImageSpec, classes: int) -> nn.Module:
        """Return the network, without BatchNorm if it shall be converted.

        Raises:
            ModelError: It keeps statistics of the records.
        """
        del classes
        if self.batch_norm == "convert":
            from opacus.validators import ModuleValidator  # slow to import

            model = ModuleValidator.fix(model)
        if why := _unprotected(model, spec):
            raise ModelError(why)
        return model

    def vet(self, model: nn.Module, spec: ImageSpec) -> None:
        """Refuse what a server planted that keeps statistics of the records.

        Raises:
            Refused: It does.
        """
        if why := _unprotected(model, spec):
            raise Refused(why)

    def step(self, gradient: StepGradient) -> StepGradient:
        """Return the noisy mean of clipped gradients."""
        std = self.noise_multiplier * self.max_grad_norm

        def private(task: ClientTask, batch: Batch) -> Gradient:
            total = self._sum_of_clipped(gradient, task, batch)
            return {
                name: (g + gaussian(g, std, task.rng)) / len(batch.labels)
                for name, g in total.items()
            }

        return private

    def simulate_step(self, gradient: StepGradient, seen: Update) -> StepGradient:
        """Return the mean of clipped gradients: what a client sends, on average over its noise."""
        del seen

        def expected(task: ClientTask, batch: Batch) -> Gradient:
            total = self._sum_of_clipped(gradient, task, batch)
            return {name: g / len(batch.labels) for name, g in total.items()}

        return expected

    def noise(self, seen: Update) -> float:
        """Return the deviation of the noise on what was seen, be it a gradient or local training.

        Steps' noise adds up, as far as it does not change later steps' gradients. It is that of one
        record a step where the client withholds their number, which is the greatest; and 0 where it
        withholds how it trained, since then the learning rate is unknown.
        """
        rate, sizes = _steps(seen)
        on_a_sum = self.noise_multiplier * self.max_grad_norm
        return rate * on_a_sum * math.sqrt(sum(n**-2 for n in sizes) / seen.clients)

    def guarantee(self, work: Workload) -> Guarantee:
        """Return the guarantee for one record over the whole training."""
        rounds = self.rounds if work.rounds is None else work.rounds
        epsilon, accounting = self._spent(work.steps * rounds)
        return Guarantee(
            epsilon=epsilon,
            delta=self.delta,
            unit="record",
            adjacency="add or remove one",
            rounds=rounds,
            how=(
                f"DP-SGD: each record's gradient clipped to L2 norm {self.max_grad_norm:g}, "
                f"Gaussian noise of {self.noise_multiplier:g} times that on each sum, "
                f"{work.steps * rounds} sums in all, {accounting}. Labels and counts that are sent "
                "beside the update are not covered."
            ),
        )

    def conflict(self, stack: Sequence[Defense]) -> str:
        """Return why one record could do more than its clipped gradient does."""
        if sum(isinstance(defense, DPSGD) for defense in stack) > 1:
            return "dp_sgd stands in it twice, and each would clip and account for itself"
        mixer = next((d.name for d in stack if d.name in MIXERS), None)
        if mixer is not None:
            return f"{mixer} {MIXERS[mixer]}: clipping each gradient then does not bound one record"
        outside = stack[stack.index(self) + 1 :]
        again = next((d.name for d in outside if type(d).step is not Defense.step), None)
        if again is not None:
            return (
                f"{again} around dp_sgd is given the records again, after the noise: put it first"
            )
        return ""

    def _spent(self, steps: int) -> tuple[float, str]:
        if self.noise_multiplier == 0:
            return math.inf, "no noise, so no bound"
        if steps == 0:
            return 0.0, "no steps"
        if self.sample_rate is None and self.accountant == "prv":
            mu = math.sqrt(steps) / self.noise_multiplier
            return gaussian_epsilon(mu, self.delta), f"exact, {UNSAMPLED}"
        rate = self.sample_rate or 1.0
        epsilon, accountant = sampled_epsilon(
            self.noise_multiplier, rate, steps, self.delta, self.accountant
        )
        if self.sample_rate is None:
            return epsilon, f"{accountant}, {UNSAMPLED}"
        return epsilon, f"{accountant}, if clients Poisson-sample records at rate {rate:g}"

    def _sum_of_clipped(self, gradient: StepGradient, task: ClientTask, batch: Batch) -> Gradient:
        total: Gradient = {}
        for one in _singly(batch):
            found = gradient(task, one)
            factor = (self.max_grad_norm / (norm(found) + 1e-6)).clamp_max(1.0)  # as Opacus
            for name, g in found.items():
                total[name] = total[name] + factor * g if name in total else factor * g
        return total


def _singly(batch: Batch) -> Iterator[Batch]:
    for i in range(len(batch.labels)):
        yield Batch(batch.images[i : i + 1], batch.labels[i : i + 1])


def _steps(seen: Update) -> tuple[float, list[int]]:
    """Return the learning rate and the number of records of each step of one client."""
    if seen.kind is Change.GRADIENT:
        labels = 0 if seen.labels is None else len(seen.labels)
        return 1.0, [max(1, (seen.count or labels) // seen.clients)]
    recipe = seen.recipe
    if recipe is None:
        return 0.0, []
    if recipe.labels is None:
        return recipe.lr, [recipe.records_per_step] * recipe.steps
    return recipe.lr, [len(labels) for labels in recipe.labels[: recipe.steps]]


def _unprotected(model: nn.Module, spec: ImageSpec) -> str:
    """Return what of a network clipping and noise do not protect, as a sentence, or ``""``."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            return (
                f"dp_sgd cannot protect the layer {name}: BatchNorm mixes the records of a batch, "
                "and its statistics are sent without noise; take a network without it, or let "
                "defense.batch_norm=convert make it GroupNorm, if it has weights"
            )
    kept = _buffers_of_records(model, spec)
    if kept:
        return (
            f"dp_sgd cannot protect the buffer {kept[0]}: in training it takes up what the records "
            "are, and it is sent without noise; take a network without it"
        )
    return ""


def _buffers_of_records(model: nn.Module, spec: ImageSpec) -> list[str]:
    """Return the names of buffers that training on different records leaves different."""
    if not any(True for _ in model.buffers()):
        return []
    after: list[dict[str, Tensor]] = []
    for seed in (0, 1):
        trained = copy.deepcopy(model).train()
        rng = torch.Generator().manual_seed(seed)
        like = next(trained.parameters())
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)  # dropout is the same for both
            trained(torch.randn(2, *spec.shape, generator=rng).to(like))
        after.append(dict(trained.named_buffers()))
    return [n for n in after[0] if not torch.equal(after[0][n], after[1][n])]
