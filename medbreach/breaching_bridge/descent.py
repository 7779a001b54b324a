"""breaching's optimisation attackers, for any image, that can be followed and resumed."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from medbreach.breaching_bridge import library
from medbreach.breaching_bridge.objectives import match_like_clients
from medbreach.breaching_bridge.regularisers import BatchNormMatching, TotalVariation
from medbreach.progress import State, current
from medbreach.types import Change, Exchange


class Interrupted(BaseException):
    """The user's Ctrl-C, on its way past breaching, which swallows `KeyboardInterrupt`."""


class AnyImage:
    """What breaching's attackers lack for volumes and for other channel counts than three."""

    exchange: Exchange
    cfg: Any
    setup: Any
    dm: Tensor
    ds: Tensor
    memory_format: torch.memory_format

    def prepare_attack(self, server_payload: Any, shared_data: Any) -> Any:
        """Prepare as breaching does, with constants that fit the images' number of axes."""
        prepared = super().prepare_attack(server_payload, shared_data)  # type: ignore[misc]
        axes = [1] * len(self.exchange.spec.space)
        self.dm = self.dm.reshape(1, -1, *axes)
        self.ds = self.ds.reshape(1, -1, *axes)
        return prepared

    def _recover_label_information(self, user_data: Any, *rest: Any) -> Any:
        """Infer labels as breaching does, from changes of weights too."""
        if self.exchange.update.kind is Change.DIFFERENCE and _has_recipe(user_data):
            user_data = [
                {**shared, "gradients": [-g for g in shared["gradients"]]} for shared in user_data
            ]
        return super()._recover_label_information(user_data, *rest)  # type: ignore[misc]

    def _initialize_data(self, data_shape: Any) -> Tensor:
        """Initialise as breaching does; its patterns for any number of axes and channels."""
        init = self.cfg.init
        rgb = len(data_shape) == 4 and data_shape[1] == 3
        if "patterned" not in init or rgb or len(data_shape) < 4:
            started: Tensor = super()._initialize_data(data_shape)  # type: ignore[misc]
            return started
        width = int("".join(filter(str.isdigit, init)))
        seed_shape = [data_shape[0], data_shape[1], *[width] * (len(data_shape) - 2)]
        uniform = "rand" in init and "randn" not in init
        seed = (
            torch.rand(seed_shape, **self.setup) * 2 - 1
            if uniform
            else torch.randn(seed_shape, **self.setup)
        )
        repeats = [1, 1, *(math.ceil(side / width) for side in data_shape[2:])]
        started = seed.tile(repeats)[(..., *(slice(side) for side in data_shape[2:]))].clone()
        started.requires_grad = True
        started.grad = torch.zeros_like(started)
        return started


class Descent(AnyImage):
    """What all attackers share that descend on a candidate.

    The loop is our own: it does what breaching's does, step by step, and besides tells a watch
    where it is and leaves points to go on from.
    """

    exchange: Exchange
    objective: Any
    regularizers: list[Any]
    current_task_loss: Any

    def fit_to_images(self, exchange: Exchange) -> None:
        """Replace the parts that know 2D RGB only where the images are something else."""
        self.exchange = exchange
        match_like_clients(self.objective, exchange.update.clients)
        flat = len(exchange.spec.space) == 2
        self.regularizers = [
            self._fitting(r, flat, flat and exchange.spec.channels == 3) for r in self.regularizers
        ]
        self._finished: dict[str, list[Tensor]] = {}
        for step in ("_run_trial", "_score_trial"):
            setattr(self, step, _passing_interrupts(getattr(self, step)))

    @staticmethod
    def _fitting(regulariser: Any, flat: bool, rgb: bool) -> Any:
        if isinstance(regulariser, library.regularizers.TotalVariation) and not rgb:
            return TotalVariation(regulariser)
        if isinstance(regulariser, library.regularizers.DeepInversion) and not flat:
            return BatchNormMatching(regulariser)
        return regulariser

    def begin(self, models: Any, shared_data: Any, labels: Any) -> None:
        """Prepare regularisers and objective for one trial."""
        for regulariser in self.regularizers:
            regulariser.initialize(models, shared_data, labels)
        recipe = shared_data[0]["metadata"]["local_hyperparams"]
        self.objective.initialize(self.loss_fn, self.cfg.impl, recipe)  # type: ignore[attr-defined]

    def descend(
        self,
        variables: list[Tensor],
        closure: Callable[[int, Any], Any],
        stage: str,
        part: tuple[int, int],
    ) -> list[Tensor]:
        """Descend on the variables; return their best values.

        Args:
            variables: The candidate first, then what is optimised with it.
            closure: Returns the optimiser's closure for an iteration.
            stage: Name of this descent among those of the attack.
            part: Its place among them and their number, for progress.
        """
        optimizer, scheduler = self._init_optimizer(variables)  # type: ignore[attr-defined]
        best = [v.detach().clone() for v in variables]
        least = torch.as_tensor(float("inf"), **self.setup)
        start, kept = 0, self._kept(stage)
        if kept is not None:
            start, least = kept["iteration"], kept["least"].to(least)
            best = [b.to(v) for b, v in zip(kept["best"], best, strict=True)]
            for variable, value in zip(variables, kept["variables"], strict=True):
                variable.data = value.to(variable)
            optimizer.load_state_dict(kept["optimizer"])
            scheduler.load_state_dict(kept["scheduler"])
            _set_rng(kept["rng"])
        total = self.cfg.optim.max_iterations
        for iteration in range(start, total):
            value = optimizer.step(closure(iteration, optimizer))
            scheduler.step()
            with torch.no_grad():
                self._project(variables[0])
                if value < least:
                    least = value.detach().clone()
                    best = [v.detach().clone() for v in variables]
            current().step(part[0] * total + iteration + 1, part[1] * total)
            if not torch.isfinite(value):
                break
            current().checkpoint(
                lambda: {
                    "stage": stage,
                    "finished": self._finished,
                    "iteration": iteration + 1,  # noqa: B023 - called at once
                    "least": least.cpu(),
                    "best": [b.cpu() for b in best],
                    "variables": [v.detach().cpu() for v in variables],
                    "optimizer": optimizer.state_dict(),
                    "scheduler": scheduler.state_dict(),
                    "rng": _get_rng(),
                }
            )
        self._finished[stage] = [b.cpu() for b in best]
        return best

    def finished(self, stage: str) -> list[Tensor] | None:
        """Return what a descent found before the attack was cut off, or None."""
        kept = current().restore()
        if kept is None or stage not in kept["finished"]:
            return None
        found = [value.to(**self.setup) for value in kept["finished"][stage]]
        self._finished[stage] = kept["finished"][stage]
        return found

    def _kept(self, stage: str) -> State | None:
        kept = current().restore()
        return kept if kept is not None and kept["stage"] == stage else None

    def _project(self, candidate: Tensor) -> None:
        if self.cfg.optim.boxed:
            candidate.data = torch.max(
                torch.min(candidate, (1 - self.dm) / self.ds), -self.dm / self.ds
            )

    def _score_trial(self, candidate: Tensor, labels: Any, models: Any, shared_data: Any) -> Any:
        """Score as breaching does, with gradients computed as clients compute them."""
        scoring = self.cfg.restarts.scoring
        if scoring not in ("euclidean", "cosine-similarity"):
            return super()._score_trial(candidate, labels, models, shared_data)  # type: ignore[misc]
        kind = library.objectives.objective_lookup[scoring]
        objective = match_like_clients(kind(), self.exchange.update.clients)
        recipe = shared_data[0]["metadata"]["local_hyperparams"]
        objective.initialize(self.loss_fn, self.cfg.impl, recipe)  # type: ignore[attr-defined]
        score = sum(
            objective(m, shared["gradients"], candidate, labels)[0]
            for m, shared in zip(models, shared_data, strict=True)
        )
        return score if torch.as_tensor(score).isfinite() else float("inf")


class Optimization(Descent, library.optimization.OptimizationBasedAttacker):  # type: ignore[misc]
    """breaching's attacker that descends on images with fixed labels."""

    def _run_trial(
        self, models: Any, shared_data: Any, labels: Any, stats: Any, trial: int, *rest: Any
    ) -> Tensor:
        stage = f"trial {trial}"
        self.begin(models, shared_data, labels)
        count = shared_data[0]["metadata"]["num_data_points"]
        candidate = self._initialize_data([count, *self.data_shape])
        done = self.finished(stage)
        if done is not None:
            return done[0]

        def closure(iteration: int, optimizer: Any) -> Any:
            return self._compute_objective(
                candidate, labels, models, optimizer, shared_data, iteration
            )

        return self.descend([candidate], closure, stage, (trial, self.cfg.restarts.num_trials))[0]


class JointOptimization(Descent, library.joint.OptimizationJointAttacker):  # type: ignore[misc]
    """breaching's attacker that descends on images and labels together.

    Differs from breaching: the labels returned are the optimised ones, not their starting values.
    """

    def _run_trial(
        self, models: Any, shared_data: Any, template: Tensor, stats: Any, trial: int, *rest: Any
    ) -> tuple[Tensor, Tensor]:
        stage = f"trial {trial}"
        self.begin(models, shared_data, template)
        count = shared_data[0]["metadata"]["num_data_points"]
        candidate = self._initialize_data([count, *self.data_shape])
        logits = self._initialize_data(template.shape)
        done = self.finished(stage)

        def closure(iteration: int, optimizer: Any) -> Any:
            return self._compute_objective(
                candidate, logits, models, optimizer, shared_data, iteration
            )

        found = done or self.descend(
            [candidate, logits], closure, stage, (trial, self.cfg.restarts.num_trials)
        )
        template.data.copy_(found[1])  # breaching reads the labels from what it passed in
        return found[0], found[1]


class Multiscale(Descent, library.multiscale.MultiScaleOptimizationAttacker):  # type: ignore[misc]
    """breaching's attacker that descends at growing resolutions.

    Differs from breaching, whose version 0.1.2 stops with a TypeError before the first step: this
    calls the same stages as its code describes them.
    """

    def _run_trial(
        self, models: Any, shared_data: Any, labels: Any, stats: Any, trial: int, *rest: Any
    ) -> Tensor:
        self.begin(models, shared_data, labels)
        count = shared_data[0]["metadata"]["num_data_points"]
        channels, side = self.data_shape[0], self.data_shape[2]
        scales = self._scales(side)
        candidate = self._initialize_data([count, channels, scales[0], scales[0]]).detach()
        for number, scale in enumerate(scales):
            candidate = self._enlarge(candidate, scale).detach().requires_grad_()
            stage = f"trial {trial} stage {number}"
            done = self.finished(stage)
            part = (trial * len(scales) + number, self.cfg.restarts.num_trials * len(scales))
            if done is None:
                done = self.descend(
                    [candidate], self._closure(candidate, labels, models, shared_data), stage, part
                )
            candidate = done[0]
        return torch.nn.functional.interpolate(
            candidate, size=side, mode="bilinear", align_corners=False
        )

    def _closure(self, candidate: Tensor, labels: Any, models: Any, shared_data: Any) -> Any:
        def closure(iteration: int, optimizer: Any) -> Any:
            return self._compute_objective(
                candidate, labels, models, optimizer, shared_data, iteration
            )

        return closure

    def _scales(self, side: int) -> list[int]:
        stages = self.cfg.num_stages
        if self.cfg.scale_pyramid == "linear":
            step = max(1, side // stages)
            return list(range(step, side + 1, step))
        if self.cfg.scale_pyramid == "log":
            return [max(1, round(side / 2**i)) for i in range(stages - 1, -1, -1)]
        return [side] * stages

    def _enlarge(self, candidate: Tensor, scale: int) -> Tensor:
        how: Any = {"mode": "bilinear", "align_corners": False}
        if self.cfg.resize != "focus":
            return torch.nn.functional.interpolate(candidate, size=scale, **how)
        inner = max(1, scale // 2)
        start = (scale - inner) // 2
        ground = self._initialize_data([*candidate.shape[:2], scale, scale]).detach()
        small = torch.nn.functional.interpolate(candidate, size=inner, **how)
        ground[:, :, start : start + inner, start : start + inner] = small
        return ground


def _passing_interrupts(step: Callable[..., Any]) -> Callable[..., Any]:
    def passing(*args: Any) -> Any:
        try:
            return step(*args)
        except KeyboardInterrupt as error:
            raise Interrupted from error

    return passing


def _has_recipe(user_data: Any) -> bool:
    return user_data[0]["metadata"]["local_hyperparams"] is not None


def _get_rng() -> list[Tensor]:
    return [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]


def _set_rng(states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state_all(states[1:])
