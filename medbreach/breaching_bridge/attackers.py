"""breaching's optimisation attackers."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from medbreach.breaching_bridge import library
from medbreach.breaching_bridge.descent import Descent
from medbreach.breaching_bridge.heads import blank
from medbreach.breaching_bridge.images import WithLabels
from medbreach.errors import NotApplicable


class Optimization(
    WithLabels,
    Descent,
    library.optimization.OptimizationBasedAttacker,  # type: ignore[misc]
):
    """breaching's attacker that descends on images with fixed labels."""

    def _run_trial(
        self, models: Any, shared_data: Any, labels: Any, stats: Any, trial: int, *_: Any
    ) -> Tensor:
        del stats  # objectives by iteration: nobody reads them
        stage = f"trial {trial}"
        self.begin(models, shared_data, labels)
        count = shared_data[0]["metadata"]["num_data_points"]
        candidate = self._initialize_data([count, *self.data_shape])
        done = self.finished(stage)
        if done is not None:
            return done[0]
        closure = _closure(self, candidate, labels, models, shared_data)
        return self.descend([candidate], closure, stage, (trial, self.cfg.restarts.num_trials))[0]


class JointOptimization(Descent, library.joint.OptimizationJointAttacker):  # type: ignore[misc]
    """breaching's attacker that descends on images and labels together.

    Differs from breaching: the labels returned are the optimised ones, not their starting values.
    """

    labelled = False

    def fit_to_exchange(self) -> None:
        """Check that the loss takes soft labels, then fit as the others do.

        Raises:
            NotApplicable: It does not.
        """
        super().fit_to_exchange()
        model = copy.deepcopy(self.exchange.model).eval()
        with torch.no_grad():
            outputs = model(blank(self.exchange))
            try:
                self.loss_fn(outputs, outputs.new_zeros(1, self.exchange.classes).softmax(-1))
            except (RuntimeError, TypeError, ValueError, IndexError) as error:
                raise NotApplicable(
                    "joint-optimization needs a loss that takes class probabilities as labels"
                ) from error

    def _run_trial(
        self, models: Any, shared_data: Any, template: Tensor, stats: Any, trial: int, *_: Any
    ) -> tuple[Tensor, Tensor]:
        del stats  # objectives by iteration: nobody reads them
        stage = f"trial {trial}"
        self.begin(models, shared_data, template)
        count = shared_data[0]["metadata"]["num_data_points"]
        candidate = self._initialize_data([count, *self.data_shape])
        logits = self._initialize_data(template.shape)
        found = self.finished(stage) or self.descend(
            [candidate, logits],
            _closure(self, candidate, logits, models, shared_data),
            stage,
            (trial, self.cfg.restarts.num_trials),
        )
        template.data.copy_(found[1])  # breaching reads the labels from what it passed in
        return found[0], found[1]


class Multiscale(
    WithLabels,
    Descent,
    library.multiscale.MultiScaleOptimizationAttacker,  # type: ignore[misc]
):
    """breaching's attacker that descends at growing resolutions.

    Differs from breaching, whose version 0.1.2 stops with a TypeError before the first step: this
    calls the same stages as its code describes them.
    """

    def fit_to_exchange(self) -> None:
        """Check that the network takes images of every size, then fit as the others do.

        Raises:
            NotApplicable: It does not.
        """
        super().fit_to_exchange()
        model = copy.deepcopy(self.exchange.model).eval()
        whole = blank(self.exchange)
        for scale in self._scales(whole.shape[-1]):
            try:
                with torch.no_grad():
                    model(nn.functional.interpolate(whole, size=scale))
            except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
                raise NotApplicable(
                    f"multiscale starts with small images, and the network does not take "
                    f"{scale} x {scale} pixels: it needs pooling before its linear layers, or "
                    "attack.num_stages must be smaller"
                ) from error
            self.check_augmentations((scale, scale))

    def _run_trial(
        self, models: Any, shared_data: Any, labels: Any, stats: Any, trial: int, *_: Any
    ) -> Tensor:
        del stats
        self.begin(models, shared_data, labels)
        count = shared_data[0]["metadata"]["num_data_points"]
        channels, side = self.data_shape[0], self.data_shape[2]
        scales = self._scales(side)
        candidate = self._initialize_data([count, channels, scales[0], scales[0]]).detach()
        for number, scale in enumerate(scales):
            candidate = self._enlarge(candidate, scale).detach().requires_grad_()
            stage = f"trial {trial} stage {number}"
            part = (trial * len(scales) + number, self.cfg.restarts.num_trials * len(scales))
            done = self.finished(stage) or self.descend(
                [candidate], _closure(self, candidate, labels, models, shared_data), stage, part
            )
            candidate = done[0]
        return _resized(candidate, side)

    def _scales(self, side: int) -> list[int]:
        stages = self.cfg.num_stages
        if self.cfg.scale_pyramid == "linear":
            step = max(1, side // stages)
            return list(range(step, side + 1, step))
        if self.cfg.scale_pyramid == "log":
            return [max(1, round(side / 2**i)) for i in range(stages - 1, -1, -1)]
        return [side] * stages

    def _enlarge(self, candidate: Tensor, scale: int) -> Tensor:
        if self.cfg.resize != "focus":
            return _resized(candidate, scale)
        inner = max(1, scale // 2)
        start = (scale - inner) // 2
        ground = self._initialize_data([*candidate.shape[:2], scale, scale]).detach()
        ground[:, :, start : start + inner, start : start + inner] = _resized(candidate, inner)
        return ground


def _closure(
    attacker: Any, candidate: Tensor, labels: Tensor, models: Any, shared_data: Any
) -> Callable[[int, Any], Any]:
    """Return breaching's objective as a function of the iteration and the optimiser."""

    def closure(iteration: int, optimizer: Any) -> Any:
        return attacker._compute_objective(
            candidate, labels, models, optimizer, shared_data, iteration
        )

    return closure


def _resized(images: Tensor, side: int) -> Tensor:
    return nn.functional.interpolate(images, size=side, mode="bilinear", align_corners=False)
