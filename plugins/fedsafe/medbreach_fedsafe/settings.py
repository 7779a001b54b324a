"""What the clients and the server of a Fed-Safe federation do."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from medbreach import ConfigError
from medbreach.settings import build
from medbreach.storage import write_whole
from medbreach_fedsafe.evasion import Evasion

FILE: Final = "fedsafe.json"
RETRAINING_ATTACK: Final = Evasion("pgd", eps=0.03, step=0.005, iterations=6)


def _at_least_one(settings: Any, *names: str) -> None:
    for name in names:
        if getattr(settings, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(settings, name)}")


def _positive(settings: Any, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be positive, got {value}")


@dataclass(frozen=True)
class Retraining:
    """How the server retrains on adversarial images, if it does.

    Attributes:
        share: Share p of the retraining pool whose adversarial images are trained on, from 0 (no
            retraining) to 1; the images of a smaller share are among those of a greater one.
        epochs: Passes over them; published 1.
        batch_size: Images in each step; published 100.
        learning_rate: Of SGD; published 0.02.
        attack: How they are made; published PGD of 6 steps of 0.005 in a ball of 0.03, in
            normalised space and not clamped. Here the same numbers are shares of the image's range.
            It is the server's, so that it need not be the strongest there is.
    """

    share: float = 0.0
    epochs: int = 1
    batch_size: int = 100
    learning_rate: float = 0.02
    attack: Evasion = RETRAINING_ATTACK

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share (p) must lie from 0 to 1, got {self.share}")
        _at_least_one(self, "epochs", "batch_size")
        _positive(self, "learning_rate")


NO_RETRAINING: Final = Retraining()


@dataclass(frozen=True)
class FedSafe:
    """The settings of one arm.

    Attributes:
        sigma: Standard deviation of the noise on each trained weight; published 0.01.
        downlink: Whether the server sends each client weights with noise of their own.
        uplink: Whether clients put noise on the weights that they send.
        retraining: What the server trains on adversarial images: with ``downlink``, each client's
            noisy network; without, the one global network.
        local_epochs: Passes of a client over its records in a round; published 5.
        learning_rate: Of the clients' SGD; published 0.02.
        batch_size: Records in each step; published 100.
        max_grad_norm: Gradients are scaled down to this L2 norm; published 20.
        max_update_norm: Clients scale the change of their weights down to this L2 norm before noise
            (ours); null, as published, for no bound, and then there is no epsilon.
    """

    sigma: float = 0.01
    downlink: bool = True
    uplink: bool = False
    retraining: Retraining = NO_RETRAINING
    local_epochs: int = 5
    learning_rate: float = 0.02
    batch_size: int = 100
    max_grad_norm: float = 20.0
    max_update_norm: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sigma) and self.sigma >= 0):
            raise ValueError(f"sigma must be 0 or greater, got {self.sigma}")
        _at_least_one(self, "local_epochs", "batch_size")
        _positive(self, "learning_rate", "max_grad_norm")
        if self.max_update_norm is not None:
            _positive(self, "max_update_norm")


NOISE_ALONE: Final = FedSafe()


@dataclass(frozen=True)
class Setup:
    """What every process of a federation reads from its folder.

    Attributes:
        case: ``key=value`` each: the images, the clients, the network.
        seed: Of the patients' roles, the first weights, the noise and the order of records.
        pool_share: Share of the public's patients whose images the server may retrain on; the
            others are for evaluation.
        device: Where to compute, as torch names it.
        fedsafe: What clients and server do.
        images: What is different if an image of any role is; empty if nobody looked.
    """

    case: tuple[str, ...]
    seed: int = 0
    pool_share: float = 0.5
    device: str = "cpu"
    fedsafe: FedSafe = NOISE_ALONE
    images: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.pool_share < 1:
            raise ValueError(f"pool_share must lie between 0 and 1, got {self.pool_share}")

    def write(self, folder: Path) -> None:
        """Write the file that `read` reads."""
        write_whole(folder / FILE, json.dumps(dataclasses.asdict(self), indent=1).encode())

    @classmethod
    def read(cls, folder: Path) -> "Setup":
        """Return what is in a federation's folder.

        Raises:
            ConfigError: The file is missing or damaged.
        """
        try:
            values: Mapping[str, Any] = json.loads((folder / FILE).read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{folder / FILE} is missing or damaged") from error
        return build(cls, values, "fedsafe")
