"""What clients do in a round and what they tell, in the words of breaching's ``user`` group."""

from dataclasses import dataclass
from typing import Literal

from medbreach.types import Recipe


@dataclass(frozen=True)
class LocalNoise:
    """Clipping and noise at the client, as breaching's ``local_diff_privacy`` has them.

    Noise of these scales alone carries no (epsilon, delta) guarantee.

    Attributes:
        gradient_noise: Scale of the noise on the gradient of each step.
        input_noise: Scale of the noise on the normalised images that are trained on; the truth
            stays as it is.
        distribution: ``gaussian`` (scale: standard deviation) or ``laplacian`` (scale: diversity).
        per_example_clipping: Greatest L2 norm of one record's gradient; 0 for none.
    """

    gradient_noise: float = 0.0
    input_noise: float = 0.0
    distribution: Literal["gaussian", "laplacian"] = "laplacian"
    per_example_clipping: float = 0.0

    def __post_init__(self) -> None:
        for name in ("gradient_noise", "input_noise", "per_example_clipping"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


@dataclass(frozen=True)
class User:
    """Which clients take part, how they train, and what they reveal.

    Attributes:
        user_type: ``local_gradient``: one client sends a gradient; ``local_update``: one client
            trains and sends its change of weights; ``multiuser_aggregate``: several clients do.
        user_idx: The client of the first two types; null for one at random.
        user_range: First client, and the one after the last, of ``multiuser_aggregate``.
        num_data_points: Records of each client in the round.
        provide_buffers: Clients send their buffers (batch statistics) along.
        provide_labels: Clients send their labels along, sorted.
        provide_num_data_points: Clients say how many records they have.
        provide_local_hyperparams: Clients say how they trained, with each step's labels.
        local_diff_privacy: Clipping and noise at the client.
        num_local_updates: Optimiser steps of local training.
        num_local_epochs: Passes over the records instead of a number of steps.
        num_data_per_local_update_step: Records in each step; null for all.
        local_learning_rate: Learning rate of local training.
        local_optimizer: ``sgd`` or ``adam``; attackers play local training again for sgd only, and
            take the change by adam for a gradient.
        aggregation: What the server sees of several clients: ``secure``, only the exact mean of
            their updates; ``plain``, each update.
    """

    user_type: Literal["local_gradient", "local_update", "multiuser_aggregate"] = "local_gradient"
    user_idx: int | None = 0
    user_range: tuple[int, int] = (0, 2)
    num_data_points: int = 1
    provide_buffers: bool = False
    provide_labels: bool = False
    provide_num_data_points: bool = True
    provide_local_hyperparams: bool = False
    local_diff_privacy: LocalNoise = LocalNoise()
    num_local_updates: int = 1
    num_local_epochs: int | None = None
    num_data_per_local_update_step: int | None = None
    local_learning_rate: float = 0.001
    local_optimizer: Literal["sgd", "adam"] = "sgd"
    aggregation: Literal["secure", "plain"] = "secure"

    def __post_init__(self) -> None:
        for name in ("num_data_points", "num_local_updates", "num_local_epochs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        per_step = self.num_data_per_local_update_step
        if per_step is not None and per_step < 1:
            raise ValueError(f"num_data_per_local_update_step must be at least 1, got {per_step}")
        if self.local_learning_rate <= 0:
            raise ValueError(
                f"local_learning_rate must be positive, got {self.local_learning_rate}"
            )
        if not 0 <= self.user_range[0] < self.user_range[1]:
            raise ValueError(f"user_range must rise from at least 0, got {list(self.user_range)}")

        used = self._steps * self._records_per_step
        if self.user_type != "local_gradient" and used < self.num_data_points:
            raise ValueError(
                f"{self._steps} local steps of batch size {self._records_per_step} leave "
                f"{self.num_data_points - used} of {self.num_data_points} records unused: raise "
                "num_local_updates or num_data_per_local_update_step, or set num_local_epochs"
            )

    @property
    def secure(self) -> bool:
        """Whether the server sees only the mean of the clients' updates."""
        return self.user_type == "multiuser_aggregate" and self.aggregation != "plain"

    @property
    def recipe(self) -> Recipe | None:
        """How each client trains; None for the gradient of one batch."""
        plain = self._steps == 1 and self.local_optimizer == "sgd"
        one_step = self.user_type == "multiuser_aggregate" and plain
        if self.user_type == "local_gradient" or one_step:
            return None
        rate, optimizer = self.local_learning_rate, self.local_optimizer
        return Recipe(self._steps, self._records_per_step, rate, optimizer=optimizer)

    @property
    def _records_per_step(self) -> int:
        whole = self.num_data_points
        return min(self.num_data_per_local_update_step or whole, whole)

    @property
    def _steps(self) -> int:
        if self.num_local_epochs is None:
            return self.num_local_updates
        return self.num_local_epochs * -(-self.num_data_points // self._records_per_step)
