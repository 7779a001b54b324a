"""What one client computes: a gradient, or weights after a few local steps."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from medbreach.components import ClientTask, Gradient, trainable
from medbreach.protocol import LocalNoise
from medbreach.randomness import lend_global
from medbreach.types import Batch, Change, Update

OPTIMIZERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
}


@dataclass(frozen=True)
class LocalTrainer:
    """Train as the recipe says, with the client's own clipping and noise.

    Differs from breaching's users: the truth stays untouched by input noise, clipping is of each
    example's gradient in local training too, and noise comes from the client's own stream.

    Attributes:
        noise: Clipping and noise at the client.
    """

    noise: LocalNoise = LocalNoise()

    def __call__(self, task: ClientTask) -> Update:
        """Return everything that the client could send; what it withholds is dropped later."""
        task.model.train(task.training)
        train = self._gradient_update if task.recipe is None else self._weight_update
        with lend_global(task.rng if task.training else _copy(task.rng)):
            return train(task)  # what dropout draws from, and stochastic layers of a defense

    def _gradient_update(self, task: ClientTask) -> Update:
        if task.training:  # the buffers then hold this batch's statistics, undiluted
            _remember_only_the_last_batch(task.model)
        change = self._gradient(task, task.batch)
        return _update(task, change, Change.GRADIENT)

    def _weight_update(self, task: ClientTask) -> Update:
        assert task.recipe is not None
        recipe = task.recipe
        weights = trainable(task.model)
        before = {name: p.detach().clone() for name, p in weights.items()}
        optimizer = OPTIMIZERS[recipe.optimizer](list(weights.values()), lr=recipe.lr)
        step_labels = []
        for batch in _batches(task.batch, recipe.steps, recipe.records_per_step):
            gradient = self._gradient(task, batch)
            step_labels.append(batch.labels.sort().values)
            for name, p in weights.items():
                p.grad = gradient[name].detach().to(p)
            optimizer.step()
        optimizer.zero_grad()
        change = {name: p.detach() - before[name] for name, p in weights.items()}
        update = _update(task, change, Change.DIFFERENCE)
        return replace(update, recipe=replace(recipe, labels=tuple(step_labels)))

    def _gradient(self, task: ClientTask, batch: Batch) -> Gradient:
        if self.noise.input_noise > 0:
            noise = self._noise(batch.images, self.noise.input_noise, task.rng)
            noisy = task.spec.denormalise(task.spec.normalise(batch.images) + noise)
            batch = replace(batch, images=noisy)
        if self.noise.per_example_clipping > 0:
            gradient = _clipped_mean(
                (task.gradient(task, one) for one in _singly(batch)),
                self.noise.per_example_clipping,
                len(batch.labels),
            )
        else:
            gradient = task.gradient(task, batch)
        if self.noise.gradient_noise > 0:
            gradient = {
                name: g + self._noise(g, self.noise.gradient_noise, task.rng)
                for name, g in gradient.items()
            }
        return gradient

    def _noise(self, like: Tensor, scale: float, rng: torch.Generator) -> Tensor:
        if self.noise.distribution == "gaussian":
            drawn = torch.randn(like.shape, generator=rng)
        else:
            uniform = torch.rand(like.shape, generator=rng).sub_(0.5).clamp_min_(-0.5 + 2**-25)
            drawn = -uniform.sign() * torch.log1p(-2 * uniform.abs())
        return scale * drawn.to(like)


def _copy(rng: torch.Generator) -> torch.Generator:
    """Return a stream that goes on as another does, and leaves it where it is."""
    copied = torch.Generator()
    copied.set_state(rng.get_state())
    return copied


def _singly(batch: Batch) -> Iterator[Batch]:
    for i in range(len(batch.labels)):
        yield Batch(batch.images[i : i + 1], batch.labels[i : i + 1])


def _clipped_mean(gradients: Iterable[Gradient], bound: float, count: int) -> Gradient:
    """Return the mean of gradients, each scaled down to at most ``bound`` in L2 norm."""
    total: Gradient = {}
    for gradient in gradients:
        norm = torch.stack([g.norm() for g in gradient.values()]).norm()
        factor = (bound / norm.clamp_min(1e-12)).clamp_max(1.0) / count
        for name, g in gradient.items():
            total[name] = total[name] + factor * g if name in total else factor * g
    return total


def _batches(batch: Batch, steps: int, size: int) -> Iterator[Batch]:
    """Yield one batch a step: consecutive records, from the start again at the end."""
    start = 0
    for _ in range(steps):
        yield Batch(batch.images[start : start + size], batch.labels[start : start + size])
        start = (start + size) % len(batch.labels) if start + size < len(batch.labels) else 0


def _remember_only_the_last_batch(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats:
            module.reset_running_stats()
            module.momentum = None


def _update(task: ClientTask, change: Gradient, kind: Change) -> Update:
    return Update(
        change={name: g.detach() for name, g in change.items()},
        kind=kind,
        buffers={name: b.detach().clone() for name, b in task.model.named_buffers()},
        labels=task.batch.labels.sort().values,
        count=len(task.batch.labels),
    )
