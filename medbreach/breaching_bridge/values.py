"""An exchange in breaching's words."""

from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from medbreach.types import Exchange, ImageSpec, Recipe, Round, Update

Words = dict[str, Any]


class Container(nn.Module):
    """breaching's attackers find the network below the attribute ``model``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Run the network."""
        outputs: torch.Tensor = self.model(inputs)
        return outputs


def metadata(spec: ImageSpec, classes: int) -> Any:
    """Return what breaching calls the data configuration.

    breaching takes images to lie in [0, 1] before normalisation; the bounds are mapped there, which
    leaves normalised images as they are.
    """
    low, width = spec.bounds[0], spec.range
    return OmegaConf.create(
        {
            "name": "medbreach",
            "modality": "vision",
            "task": "classification",
            "classes": classes,
            "shape": list(spec.shape),
            "mean": [(m - low) / width for m in spec.mean],
            "std": [s / width for s in spec.std],
        }
    )


def server_payload(exchange: Exchange) -> list[Words]:
    """Return what breaching's server would have sent, one entry a round."""
    words = metadata(exchange.spec, exchange.classes)
    return [
        {
            "parameters": [p.detach() for p in r.model.parameters()],
            "buffers": None if r.training else [b.detach() for b in r.model.buffers()],
            "metadata": words,
        }
        for r in exchange.rounds
    ]


def shared_data(exchange: Exchange) -> list[Words]:
    """Return what breaching's user would have shared, one entry a round."""
    return [_shared(r) for r in exchange.rounds]


def _shared(played: Round) -> Words:
    """Return a round in breaching's words.

    A change of weights that cannot be played again is passed on as minus the change, since
    breaching compares it with a gradient (breaching itself passes it on with the wrong sign).
    """
    update = played.update
    recipe = update.playable
    sign = -1 if update.is_unplayable else 1
    buffers = update.buffers if played.training else None
    return {
        "gradients": [sign * g.detach().clone() for g in update.change.values()],
        "buffers": None if buffers is None else [b.clone() for b in buffers.values()],
        "metadata": {
            "num_data_points": update.count,
            "labels": _labels(update, played),
            "local_hyperparams": None
            if recipe is None
            else {
                "lr": recipe.lr,
                "steps": recipe.steps,
                "data_per_step": recipe.records_per_step,
                "labels": [y.to(_device(played)) for y in recipe.labels or ()],
            },
        },
    }


def _labels(update: Update, played: Round) -> torch.Tensor | None:
    recipe = update.playable
    labels = update.labels
    if recipe is not None and update.count is not None:
        ordered = _in_training_order(recipe, update.count // update.clients, update.clients)
        labels = labels if ordered is None else ordered
    return None if labels is None else labels.to(_device(played))


def _in_training_order(recipe: Recipe, each: int, clients: int) -> torch.Tensor | None:
    """Return the records' labels as clients came across them; None if they did not see all."""
    assert recipe.labels is not None
    steps = -(-each // recipe.records_per_step)
    if steps > recipe.steps:
        return None
    first_pass = [recipe.labels[k * recipe.steps + s] for k in range(clients) for s in range(steps)]
    return torch.cat(first_pass)


def _device(played: Round) -> torch.device:
    return next(iter(played.update.change.values())).device
