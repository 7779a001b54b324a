"""The loop of breaching's optimisation attackers, so that it can be followed and resumed."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from medbreach.attacks.known_defenses import KnownDefenses
from medbreach.breaching_bridge import library
from medbreach.breaching_bridge.course import Course
from medbreach.breaching_bridge.images import AnyImage
from medbreach.breaching_bridge.objectives import Adaptive, match_like_clients
from medbreach.breaching_bridge.regularisers import TotalVariation, fitted
from medbreach.errors import NotApplicable
from medbreach.progress import current


class Interrupted(BaseException):
    """The user's Ctrl-C, on its way past breaching, which swallows `KeyboardInterrupt`."""


class Descent(AnyImage):
    """What all attackers share that descend on a candidate.

    The loop is our own: it does what breaching's does, step by step, and besides tells a watch
    where it is and leaves points to go on from.

    Attributes:
        labelled: Whether the attacker knows the labels before it starts.
    """

    labelled = True
    objective: Any
    regularizers: list[Any]
    augmentations: torch.nn.Sequential

    def fit_to_exchange(self) -> None:
        """Replace the parts of breaching's that do not fit the images, network or protocol.

        Raises:
            NotApplicable: A part fits not at all.
        """
        exchange = self.exchange
        self.regularizers = [
            fitted(part, exchange, labelled=self.labelled) for part in self.regularizers
        ]
        self.check_augmentations(exchange.spec.space)
        self._finished: dict[str, list[Tensor]] = {}
        for step in ("_run_trial", "_score_trial"):
            setattr(self, step, _passing_interrupts(getattr(self, step)))

    def check_augmentations(self, space: tuple[int, ...]) -> None:
        """Check that augmentations work on images and keep their shape.

        Raises:
            NotApplicable: One does not.
        """
        blank = torch.zeros(1, self.exchange.spec.channels, *space, **self.setup)
        for augmentation in self.augmentations:
            try:
                with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
                    fits = copy.deepcopy(augmentation)(blank).shape == blank.shape
            except (RuntimeError, ValueError, IndexError, ArithmeticError):
                fits = False
            if not fits:
                raise NotApplicable(
                    f"breaching's augmentation {type(augmentation).__name__} fails on images of "
                    f"{' x '.join(map(str, space))} pixels in {self.cfg.impl.dtype} precision, or "
                    "changes their size: change its settings"
                )

    def begin(self, models: Any, shared_data: Any, labels: Any) -> None:
        """Prepare regularisers and objective for one trial."""
        match_like_clients(self.objective, self.exchange.update.clients, self._adaptive(models))
        for regulariser in self.regularizers:
            regulariser.initialize(models, shared_data, labels)
        recipe = shared_data[0]["metadata"]["local_hyperparams"]
        self.objective.initialize(self.loss_fn, self.cfg.impl, recipe)  # type: ignore[attr-defined]

    def _adaptive(self, models: Any) -> Adaptive | None:
        """Return what the attacker knows of the clients' defenses, if it makes use of it."""
        if not self.cfg.adaptive or not self.exchange.defenses:
            return None
        return Adaptive(KnownDefenses(self.exchange, self.cfg.draws), list(models))

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
        course = Course(
            stage=stage,
            variables=variables,
            optimizer=optimizer,
            scheduler=scheduler,
            augmentations=self.augmentations,
            least=torch.as_tensor(float("inf"), **self.setup),
            best=[v.detach().clone() for v in variables],
        )
        kept = current().restore()
        if kept is not None and kept["stage"] == stage:
            course.go_on(kept)
        total = self.cfg.optim.max_iterations
        while course.iteration < total:
            value = optimizer.step(closure(course.iteration, optimizer))
            scheduler.step()
            course.iteration += 1
            with torch.no_grad():
                self._project(variables[0])
                course.compare(value)
            current().step(part[0] * total + course.iteration, part[1] * total)
            if not torch.isfinite(value):
                break
            current().checkpoint(lambda: {**course.state(), "finished": self._finished})
        self._finished[stage] = [b.cpu() for b in course.best]
        return course.best

    def finished(self, stage: str) -> list[Tensor] | None:
        """Return what a descent found before the attack was cut off, or None."""
        kept = current().restore()
        if kept is None or stage not in kept["finished"]:
            return None
        self._finished[stage] = kept["finished"][stage]
        return [value.to(**self.setup) for value in kept["finished"][stage]]

    def _project(self, candidate: Tensor) -> None:
        if self.cfg.optim.boxed:
            candidate.data = torch.max(
                torch.min(candidate, (1 - self.dm) / self.ds), -self.dm / self.ds
            )

    def _score_trial(self, candidate: Tensor, labels: Any, models: Any, shared_data: Any) -> Any:
        """Score as breaching does, with gradients computed as clients compute them."""
        scoring = self.cfg.restarts.scoring
        if scoring in ("TV", "total-variation"):
            return TotalVariation()(candidate)
        objective = match_like_clients(
            library.objectives.objective_lookup[scoring](),
            self.exchange.update.clients,
            self._adaptive(models),
        )
        recipe = shared_data[0]["metadata"]["local_hyperparams"]
        objective.initialize(self.loss_fn, self.cfg.impl, recipe)  # type: ignore[attr-defined]
        score = sum(
            objective(m, shared["gradients"], candidate, labels)[0]
            for m, shared in zip(models, shared_data, strict=True)
        )
        return score if torch.as_tensor(score).isfinite() else float("inf")


def _passing_interrupts(step: Callable[..., Any]) -> Callable[..., Any]:
    def passing(*args: Any) -> Any:
        try:
            return step(*args)
        except KeyboardInterrupt as error:
            raise Interrupted from error

    return passing
