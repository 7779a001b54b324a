"""What a federation of classifiers is, as plain settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from medbreach.tradeoff.training import Training
from medbreach_federation.flower_rule import ADAPTIVE, OF_KRUM, Strength

Strategy = Literal[
    "fedavg", "fedprox", "fedadam", "fedyogi", "fedadagrad", "median", "trimmed_mean", "krum",
    "multi_krum",
]  # fmt: skip

USED_BY: Final[Mapping[str, tuple[str, ...]]] = {
    "proximal_mu": ("fedprox",),
    "server_learning_rate": tuple(ADAPTIVE),
    "malicious": OF_KRUM,
    "selected": ("multi_krum",),
    "trimmed": ("trimmed_mean",),
}
"""Settings that only some strategies use."""


@dataclass(frozen=True)
class Setting:
    """How a federation trains a classifier.

    Attributes:
        rounds: Number of rounds.
        fraction: Share of the clients that takes part in a round, drawn by the seed.
        local_epochs: Passes over a client's records in a round.
        batch_size: Records in each step.
        learning_rate: Learning rate of a client's steps.
        optimizer: ``sgd`` or ``adam``: how clients take them, anew in each round.
        strategy: How the server makes new weights: ``fedavg``, ``fedprox`` (with
            ``proximal_mu``), ``fedadam``, ``fedyogi``, ``fedadagrad``, ``median``,
            ``trimmed_mean``, ``krum`` or ``multi_krum``, all Flower's.
        proximal_mu: Of ``fedprox``: weight of the squared distance to what was sent (Li et al.
            2020, arXiv:1812.06127); the default is ours.
        server_learning_rate: Of ``fedadam``, ``fedyogi`` and ``fedadagrad``.
        malicious: Of ``krum`` and ``multi_krum``: how many clients may be malicious.
        selected: Of ``multi_krum``: of how many clients the mean is taken; null: of all that answer
            but ``malicious``.
        trimmed: Of ``trimmed_mean``: share of the clients that is left out at each end.
        seed: Chooses patients, first weights, clients of each round, and batches.
        timeout: Seconds that a client may take in a round, the start of its process included.
    """

    rounds: int = 10
    fraction: float = 1.0
    local_epochs: int = 1
    batch_size: int = 16
    learning_rate: float = 0.05
    optimizer: Literal["sgd", "adam"] = "sgd"
    strategy: Strategy = "fedavg"
    proximal_mu: float = 0.1
    server_learning_rate: float = 0.01
    malicious: int = 1
    selected: int | None = None
    trimmed: float = 0.2
    seed: int = 0
    timeout: float = 3600.0

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must lie above 0 and at most at 1, got {self.fraction}")
        if self.strategy not in get_args(Strategy):
            raise ValueError(f"strategy must be one of {', '.join(get_args(Strategy))}")
        for name in ("malicious", "proximal_mu", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("server_learning_rate", "selected", "timeout"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if not 0 <= self.trimmed < 0.5:
            raise ValueError(f"trimmed must lie from 0 to below 0.5, got {self.trimmed}")
        _ = self.training  # checks the rest

    @property
    def training(self) -> Training:
        """The clients' part of it, in the words of a trade-off."""
        return Training(
            rounds=self.rounds,
            local_epochs=self.local_epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            optimizer=self.optimizer,
        )

    @property
    def strength(self) -> Strength:
        """What Flower's strategy is made of."""
        return Strength(self.server_learning_rate, self.malicious, self.selected, self.trimmed)
