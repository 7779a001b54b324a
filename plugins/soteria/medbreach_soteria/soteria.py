"""Soteria: pruning the representation that the last linear layer gives away."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from medbreach import (
    Batch,
    Change,
    ClientTask,
    Defense,
    Gradient,
    ImageSpec,
    ModelError,
    StepGradient,
    Update,
)
from medbreach_soteria.sensitivity import copied_weights, gradient_norms, inputs_of, kept

WEIGHT = ".weight"


@dataclass(frozen=True)
class Soteria(Defense):
    """Prune a linear layer's gradient in features that depend little on the image for their size.

    A feature r of the layer's input has the score ``|dr/dx| / (r + 0.1)``, summed over a step's
    records. Columns of the layer's weight gradient are set to zero where the score lies below a
    percentile; all other gradients are sent as they are. The source argues that an attacker who
    inverts the representation is led astray most by those features.

    An attacker sees which columns are zero and matches the others (`simulate_update`); where the
    masks of several steps or clients are mixed, the attacker drops that layer's weights from the
    match. All other layers are sent untouched, so what an attacker loses is the layer's share of
    the update: Balunovic et al. 2022 (arXiv:2111.04706) reconstruct the images without it.

    It costs a backward pass for each feature in every step.

    Attributes:
        pruning_rate: Percentile of the scores below which a feature is pruned, from 0 (none) to
            100 (all but the highest).
        layer: Name of the linear layer; empty: the last one.
    """

    name: ClassVar[str] = "soteria"
    source: ClassVar[str] = "Sun et al. 2021, arXiv:2012.06043; code of its authors"
    differs: ClassVar[str] = (
        "The scores come from a forward pass of their own, which leaves BatchNorm's statistics "
        "alone and draws its own dropout. The source defends one gradient of LeNet and ConvNet; "
        "here any network with a linear layer on vectors, and each step's gradient in local "
        "training. A feature of exactly -0.1, whose score is infinite, is kept."
    )

    pruning_rate: float = 60.0
    layer: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.pruning_rate <= 100:
            raise ValueError(f"pruning_rate must lie from 0 to 100, got {self.pruning_rate}")

    def remodel(self, model: nn.Module, spec: ImageSpec, classes: int) -> nn.Module:
        """Return the network as it is, if it has the layer.

        Raises:
            ModelError: It has not, or the layer takes no vectors or is not trained.
        """
        del classes
        name = self._layer(dict(model.named_parameters()))
        if not isinstance(model.get_submodule(name), nn.Linear):
            raise ModelError(
                f"the last weight matrix is that of {name}, which is no linear layer: name a "
                "linear one in layer"
            )
        training = model.training
        model.eval()
        with torch.no_grad():
            images = torch.zeros(1, *spec.shape)
            taken = inputs_of(model, name, images, copied_weights(model))
        model.train(training)
        if [features.ndim for features in taken] != [2]:
            raise ModelError(
                f"soteria needs a linear layer that takes one vector for each record; {name} does "
                "not: name another in layer"
            )
        return model

    def step(self, gradient: StepGradient) -> StepGradient:
        """Return how a step's gradient is computed and pruned."""

        def stepped(task: ClientTask, batch: Batch) -> Gradient:
            found = gradient(task, batch)
            name = self._layer(found)
            mask = self._mask(task, batch, name).to(found[name + WEIGHT])
            return {**found, name + WEIGHT: found[name + WEIGHT] * mask}

        return stepped

    def simulate_update(self, change: Gradient, seen: Update) -> Gradient:
        """Return a candidate's change of weights without what tells nothing about the images.

        Columns that were seen as zero are set to zero. The masks of several steps or clients come
        mixed, and those of a candidate would be wrong: then the layer's weights are taken as they
        were seen, so that they do not count.
        """
        name = self._layer(change) + WEIGHT
        sent = seen.change[name].to(change[name])
        if seen.kind is Change.DIFFERENCE or seen.clients > 1:
            return {**change, name: sent}
        return {**change, name: change[name] * (sent != 0).any(0)}

    def _mask(self, task: ClientTask, batch: Batch, name: str) -> Tensor:
        """Return which features are kept in a step."""
        images = task.spec.normalise(batch.images.detach()).requires_grad_()
        with torch.enable_grad():
            features = inputs_of(task.model, name, images, copied_weights(task.model))[0]
            norms = gradient_norms(features, images)
        return kept(features, norms, self.pruning_rate)

    def _layer(self, tensors: Mapping[str, Tensor]) -> str:
        """Return the name of the layer among a network's parameters, or what is computed of them.

        Raises:
            ModelError: There is none.
        """
        matrices = [
            name.removesuffix(WEIGHT)
            for name, tensor in tensors.items()
            if name.endswith(WEIGHT) and tensor.ndim == 2
        ]
        if not matrices:
            raise ModelError(
                "soteria needs a linear layer, and the network has none that is trained"
            )
        if self.layer and self.layer not in matrices:
            raise ModelError(
                f"layer names {self.layer!r}; the network's linear layers are {', '.join(matrices)}"
            )
        return self.layer or matrices[-1]
