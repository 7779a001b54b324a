"""What every model keeps."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from medbreach.case import Sample
from medbreach.components import Model
from medbreach.errors import ModelError
from medbreach.randomness import Seeds
from medbreach.testing.declaration import check_declaration
from medbreach.testing.examples import Form, tiny_sample, tiny_task
from medbreach.testing.guard import repeatable, require
from medbreach.training import LocalTrainer
from medbreach.types import Update

SIZES: Final = (Form((32, 32), 1), Form((32, 32), 3), Form((16, 32, 32), 1))


def check_model(
    model: type[Model],
    settings: Mapping[str, Any] | None = None,
    forms: Iterable[Form] = SIZES,
) -> None:
    """Check that a model keeps the contract: its network takes the images and can be trained.

    Args:
        model: Its class.
        settings: Its settings.
        forms: Sizes and channels of the images to try; it must apply to one of them.

    Raises:
        AssertionError: It does not; the sentence says how.
    """
    made = check_declaration(model, settings)
    reasons = [_check_form(made, form) for form in forms]
    require(
        "" in reasons,
        f"{made.name} takes none of the images that it was tried on: {'; '.join(reasons)}",
    )


def _check_form(model: Model, form: Form) -> str:
    """Check a model on one form of images; return why it cannot take them, or ``""``."""
    who = f"{model.name} on {form}"
    sample = tiny_sample(*form)

    def build() -> nn.Module:
        return model(sample.spec, sample.classes, Seeds(0).stream("model"))

    try:
        network = repeatable(who, build, outcomes=(ModelError,))
    except ModelError as reason:
        return str(reason)
    _check_outputs(who, network, sample)
    require(any(p.requires_grad for p in network.parameters()), f"{who} has nothing to train")
    _check_training(who, model, form)
    return ""


def _check_outputs(who: str, network: nn.Module, sample: Sample) -> None:
    images = sample.spec.normalise(sample.batches[0].images)

    def outputs() -> Tensor:
        with torch.no_grad():
            return network.eval()(images)  # type: ignore[no-any-return]

    found = repeatable(who, outputs, outcomes=(), images=images, network=network)
    require(bool(found.isfinite().all()), f"{who} returns outputs that are not finite")


def _check_training(who: str, model: Model, form: Form) -> None:
    def gradient(training: bool) -> Update:
        task = tiny_task(*form, training=training, model=model)
        return LocalTrainer()(task)

    for training in (False, True):
        mode = "training" if training else "evaluation"
        update = repeatable(f"{who} in {mode} mode", partial(gradient, training), outcomes=())
        change = update.change
        require(
            all(bool(g.isfinite().all()) for g in change.values())
            and any(bool(g.any()) for g in change.values()),
            f"{who}: the gradient in {mode} mode is not finite, or zero",
        )
