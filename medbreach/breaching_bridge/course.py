"""Where a descent is: everything that a checkpoint holds."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medbreach.progress import State

DRAWN_ONCE = ("shuffled", "mean", "std")  # by breaching's colorjitter, at its first image


@dataclass
class Course:
    """One descent on its way.

    Attributes:
        stage: Its name among the attack's descents.
        variables: What is optimised; changed in place.
        optimizer: Who moves them.
        scheduler: Who sets its step size, from the number of steps alone.
        augmentations: breaching's, some of which draw something once.
        least: Least objective so far.
        best: The variables just after it was computed, as in breaching.
        iteration: Number of steps done.
    """

    stage: str
    variables: list[Tensor]
    optimizer: Any
    scheduler: Any
    augmentations: nn.Sequential
    least: Tensor
    best: list[Tensor]
    iteration: int = 0

    def compare(self, value: Tensor) -> None:
        """Remember the variables if their objective is the least so far."""
        if value < self.least and all(v.isfinite().all() for v in self.variables):
            self.least = value.detach().clone()
            self.best = [v.detach().clone() for v in self.variables]

    def state(self) -> dict[str, Any]:
        """Return what `go_on` needs, plain values and tensors."""
        return {
            "stage": self.stage,
            "iteration": self.iteration,
            "variables": [v.detach().cpu() for v in self.variables],
            "optimizer": self.optimizer.state_dict(),
            "drawn": [
                {k: v for k, v in vars(m).items() if k in DRAWN_ONCE} for m in self.augmentations
            ],
            "least": self.least.cpu(),
            "best": [b.cpu() for b in self.best],
            "rng": [torch.get_rng_state(), *torch.cuda.get_rng_state_all()],
        }

    def go_on(self, kept: State) -> None:
        """Put everything that a descent changes back to where `state` found it."""
        self.iteration = kept["iteration"]
        for variable, value in zip(self.variables, kept["variables"], strict=True):
            variable.data = value.to(variable)
        for _ in range(self.iteration):
            self.scheduler.step()
        self.optimizer.load_state_dict(kept["optimizer"])
        for module, drawn in zip(self.augmentations, kept["drawn"], strict=True):
            vars(module).update({k: self._here(v) for k, v in drawn.items()})
        self.least = kept["least"].to(self.least)
        self.best = [b.to(v) for b, v in zip(kept["best"], self.variables, strict=True)]
        cpu, *devices = kept["rng"]
        torch.set_rng_state(cpu)
        if devices:
            torch.cuda.set_rng_state_all(devices)

    def _here(self, value: Any) -> Any:
        return value.to(self.variables[0]) if isinstance(value, Tensor) else value
