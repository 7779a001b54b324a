"""Descent on a tensor with Adam, which a watch can follow and resume."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from medbreach.progress import State, current


def minimise(
    start: Tensor,
    objective: Callable[[Tensor], Tensor],
    steps: int,
    step_size: float,
    bounds: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Return where Adam ends, with a step size that falls along a cosine.

    Args:
        start: Where it starts.
        objective: What is to become small; it may not be random.
        steps: Number of steps.
        step_size: Size of the first one.
        bounds: Least and greatest values, to which the tensor is clipped after each step.
    """
    variable = start.detach().clone().requires_grad_()
    adam = torch.optim.Adam([variable], lr=step_size)
    watch, first = current(), 0
    kept = watch.restore()
    if kept is not None:
        first = kept["done"]
        variable.data = kept["variable"].to(variable)
        adam.load_state_dict(kept["adam"])

    def state(done: int) -> State:
        return {"done": done, "variable": variable.detach().cpu(), "adam": adam.state_dict()}

    for step in range(first, steps):
        adam.param_groups[0]["lr"] = step_size * (1 + math.cos(math.pi * step / steps)) / 2
        (variable.grad,) = torch.autograd.grad(objective(variable), variable)
        adam.step()
        if bounds is not None:
            variable.data = variable.data.clamp(*bounds)
        watch.step(step + 1, steps)
        watch.checkpoint(lambda done=step + 1: state(done))  # type: ignore[misc]
    return variable.detach()
