"""Bilateral dependency optimisation: representations that depend little on the image."""

import copy
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from medbreach import (
    Batch,
    ClientTask,
    Defense,
    Gradient,
    ImageSpec,
    ModelError,
    StepGradient,
    Update,
)
from medbreach_bido.dependence import MEASURES, gaussian_kernel, linear_kernel
from medbreach_bido.representations import ForwardPass, representations, watched


@dataclass(frozen=True)
class BiDO(Defense):
    """Train for representations that depend little on the image and much on the label.

    The loss is ``L(f(x), y) + sum_j [lambda_x d(Z_j, X) - lambda_y d(Z_j, Y)]``: X the images as
    the network takes them, Y the labels as one-hot vectors, Z_j hidden representations, and d a
    measure of dependence over the records of a step. The update is that of the whole loss.

    The source defends against model inversion, which asks a trained network for its classes. That
    it stops a server that inverts gradients is a claim of others, tested against attackers who do
    not know the loss. An attacker who does simulates it (`simulate_step`), and nothing is hidden:
    true images give exactly the update that was sent. A step over one record is undefended (d is
    zero), and over records of one class d(Z_j, Y) is.

    Chosen automatically, the representations are the last map of each resolution, and the last
    vector before the outputs. In small_cnn these are the outputs of its three ReLUs; in breaching's
    ConvNet the inputs of both poolings and the output of the last; in a ResNet the outputs of its
    stem, stages and last pooling. A transformer's have to be named.

    Attributes:
        lambda_x: Weight of the dependence on the image, which is minimised.
        lambda_y: Weight of the dependence on the label, which is maximised.
        measure: ``hsic``, normalised, from 0 to less than the number of records; or ``coco``, from
            0 to at most 0.6, however many records.
        sigma: Width of the Gaussian kernel, in root mean square differences of an entry.
        label_kernel: Kernel of the labels; images and representations have a Gaussian one.
        layers: Names of the modules whose outputs are the representations; empty: chosen
            automatically.
    """

    name: ClassVar[str] = "bido"
    source: ClassVar[str] = "Peng et al. 2022, arXiv:2206.05483; code of its authors"
    differs: ClassVar[str] = (
        "Kernels are centred from both sides and solved in double precision, where the released "
        "code inverts a matrix that is not symmetric: the same value. A Frobenius norm below 1e-12 "
        "counts as zero in COCO. The source's networks have their representations chosen by hand "
        "(the outputs of VGG's five poolings, which here are their inputs and the last one's "
        "output); the rule for others is ours."
    )

    lambda_x: float = 0.05
    lambda_y: float = 0.5
    measure: Literal["hsic", "coco"] = "hsic"
    sigma: float = 5.0
    label_kernel: Literal["linear", "gaussian"] = "linear"
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.lambda_x < 0 or self.lambda_y < 0:
            raise ValueError(
                f"lambda_x and lambda_y must not be negative, got {self.lambda_x} and "
                f"{self.lambda_y}"
            )
        if self.sigma <= 0:
            raise ValueError(f"sigma must be positive, got {self.sigma}")
        if len(set(self.layers)) < len(self.layers):
            raise ValueError(f"layers names a module twice: {', '.join(self.layers)}")

    def remodel(self, model: nn.Module, spec: ImageSpec, classes: int) -> nn.Module:
        """Return the network as it is, if it has the representations.

        Raises:
            ModelError: It has not.
        """
        del classes
        trial = copy.deepcopy(model).eval()
        with torch.no_grad(), watched(trial) as passed:
            trial(torch.zeros(1, *spec.shape))
        representations(passed, self.layers)
        return model

    def step(self, gradient: StepGradient) -> StepGradient:
        """Return how the gradient of the whole loss is computed."""

        def stepped(task: ClientTask, batch: Batch) -> Gradient:
            with watched(task.model) as passed:

                def loss(outputs: Tensor, labels: Tensor) -> Tensor:
                    plain = task.loss(outputs, labels)
                    return plain + self._penalty(passed, labels, task.classes).to(plain)

                return gradient(replace(task, loss=loss), batch)

        return stepped

    def simulate_step(self, gradient: StepGradient, seen: Update) -> StepGradient:
        """Return how an attacker computes it who knows the loss: as the client does."""
        del seen
        return self.step(gradient)

    def _penalty(self, passed: ForwardPass, labels: Tensor, classes: int) -> Tensor:
        """Return what is added to the loss of a step."""
        if passed.images is None:
            raise ModelError("bido found no forward pass of the client's network in this step")
        prepare, compare = MEASURES[self.measure]
        images = prepare(gaussian_kernel(passed.images, self.sigma))
        targets = prepare(self._label_kernel(labels, classes).to(images))
        total = images.new_zeros(())
        for hidden in representations(passed, self.layers):
            features = prepare(gaussian_kernel(hidden, self.sigma))
            total = total + self.lambda_x * compare(features, images)
            total = total - self.lambda_y * compare(features, targets)
        return total

    def _label_kernel(self, labels: Tensor, classes: int) -> Tensor:
        if not labels.is_floating_point():
            labels = nn.functional.one_hot(labels, classes).double()
        if self.label_kernel == "linear":
            return linear_kernel(labels)
        return gaussian_kernel(labels, self.sigma)
