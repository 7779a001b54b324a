"""Gaussian noise on a client's update."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from medbreach import ClientTask, Defense, LocalTraining, Update


@dataclass(frozen=True)
class GaussianNoise(Defense):
    """Add independent Gaussian noise of one deviation to every entry of the update.

    The source says that deviations of 0.1 and more stop its attack on gradients, and that they cost
    accuracy. How large that is depends on the network, so the deviation can also be given in units
    of the update's own root mean square. Without clipping and an accountant, the noise carries no
    (epsilon, delta) guarantee.

    Attributes:
        std: Standard deviation of the noise, in the unit that ``relative_to`` says.
        relative_to: ``nothing``: ``std`` is in the update's unit, as in the source; ``update``:
            ``std`` is in root mean squares of the update's entries, after clipping, so that at 1
            the noise is as large as the update.
        clip_norm: Greatest L2 norm of the whole update before the noise, in the update's unit; null
            for no clipping.
    """

    name: ClassVar[str] = "gaussian_noise"
    source: ClassVar[str] = "Zhu et al. 2019, arXiv:1906.08935, section 5.1"
    differs: ClassVar[str] = (
        "The source has no clipping and no relative deviation; after local training the noise goes "
        "on the change of weights."
    )

    std: float = 0.1
    relative_to: Literal["nothing", "update"] = "nothing"
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        if self.std < 0:
            raise ValueError(f"std must not be negative, got {self.std}")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(f"clip_norm must be positive, got {self.clip_norm}")

    def wrap(self, train: LocalTraining) -> LocalTraining:
        """Return local training whose update is clipped and noisy."""

        def trained(task: ClientTask) -> Update:
            update = train(task)
            change = self._clipped(update.change)
            std = self.std * (_root_mean_square(change) if self.relative_to == "update" else 1.0)
            noisy = {
                name: tensor + std * torch.randn(tensor.shape, generator=task.rng).to(tensor)
                for name, tensor in change.items()
            }
            return replace(update, change=noisy)

        return trained

    def _clipped(self, change: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        norm = _norm(change)
        if self.clip_norm is None or norm <= self.clip_norm:
            return change
        return {name: tensor * (self.clip_norm / norm) for name, tensor in change.items()}


def _norm(change: Mapping[str, Tensor]) -> float:
    return float(torch.stack([tensor.norm() for tensor in change.values()]).norm())


def _root_mean_square(change: Mapping[str, Tensor]) -> float:
    return _norm(change) / float(sum(tensor.numel() for tensor in change.values())) ** 0.5
