"""The values that flow through an audit.

All of them are frozen, and none does more than check and convert itself. Axis names: ``records``
counts private images, ``claims`` reconstructions; ``*space`` is ``height width`` or
``depth height width``. Intensities are in the unit that the `ImageSpec` names.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

SCHEMA: Final = 1
"""Version of the run record, raised when a reader of old records would misread a new one."""

UNKNOWN: Final = -1
"""Label of a claim that no class is claimed for."""

LossFunction = Callable[[Tensor, Tensor], Tensor]


class Reveals(StrEnum):
    """Something that a client may tell the server besides its update."""

    LABELS = "labels"
    COUNT = "count"
    BUFFERS = "buffers"
    RECIPE = "recipe"


class Change(StrEnum):
    """What the tensors of an update are."""

    GRADIENT = "gradient"
    """The gradient of the mean loss over the client's records."""
    DIFFERENCE = "difference"
    """The weights after local training minus the weights that the server sent."""


class Role(StrEnum):
    """Why an attempt was made."""

    ATTACK = "attack"
    BLIND = "blind control"
    SOLVABLE = "solvable control"


class Verdict(StrEnum):
    """What one attempt, or a whole audit, showed."""

    LEAK = "leak"
    NO_LEAK = "no leak found"
    INCONCLUSIVE = "inconclusive"
    SOLVED = "solved"
    NOT_APPLICABLE = "not applicable"
    REFUSED = "refused by a defense"
    FAILED = "failed"


@dataclass(frozen=True)
class ImageSpec:
    """What everyone in the federation knows about an image.

    Attributes:
        channels: Number of channels.
        space: Pixels or voxels along each spatial axis: ``(height, width)`` or
            ``(depth, height, width)``.
        spacing: Pixel or voxel size along each axis of ``space``, in mm; None if unknown.
        bounds: Least and greatest intensity, in ``unit``.
        unit: Unit of the intensities, such as ``"HU"``; ``"1"`` if they have none.
        mean: Mean intensity of each channel over public images, in ``unit``.
        std: Standard deviation of each channel over public images, in ``unit``.
    """

    channels: int
    space: tuple[int, ...]
    spacing: tuple[float, ...] | None = None
    bounds: tuple[float, float] = (0.0, 1.0)
    unit: str = "1"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.space) not in (2, 3):
            raise ValueError(f"images have 2 or 3 spatial axes, not {len(self.space)}")
        if self.spacing is not None and len(self.spacing) != len(self.space):
            raise ValueError(f"{len(self.space)} axes but {len(self.spacing)} spacings")
        if not self.bounds[0] < self.bounds[1]:
            raise ValueError(f"bounds must rise, got {self.bounds}")
        object.__setattr__(self, "mean", self.mean or (0.0,) * self.channels)
        object.__setattr__(self, "std", self.std or (1.0,) * self.channels)
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"{self.channels} channels need as many means and deviations")
        if not min(*self.std, *(self.spacing or (1.0,))) > 0:
            raise ValueError(f"std {self.std} and spacing {self.spacing} must be positive")

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels and space, as in ``images.shape[1:]``."""
        return (self.channels, *self.space)

    @property
    def range(self) -> float:
        """Width of ``bounds``: the peak of PSNR and SSIM."""
        return self.bounds[1] - self.bounds[0]

    def normalise(self, images: Float[Tensor, "n channels *space"]) -> Tensor:
        """Return images as the network takes them: zero mean, unit deviation a channel."""
        return (images - self._channelwise(self.mean, images)) / self._channelwise(self.std, images)

    def denormalise(self, images: Float[Tensor, "n channels *space"]) -> Tensor:
        """Undo `normalise`: return images in ``unit``."""
        return images * self._channelwise(self.std, images) + self._channelwise(self.mean, images)

    def _channelwise(self, values: tuple[float, ...], like: Tensor) -> Tensor:
        tensor = torch.tensor(values, dtype=like.dtype, device=like.device)
        return tensor.reshape(1, -1, *[1] * len(self.space))


@dataclass(frozen=True)
class Batch:
    """Private records: what a client trains on, and the truth that an attack is scored against.

    Attributes:
        images: Intensities in the spec's unit.
        labels: Class of each record.
    """

    images: Float[Tensor, "records channels *space"]
    labels: Int[Tensor, " records"]


@dataclass(frozen=True)
class Recipe:
    """How a client trains: over its records in order, starting again at the end.

    Attributes:
        steps: Number of optimiser steps.
        records_per_step: Records in each step's batch.
        lr: Learning rate.
        labels: Sorted labels of each step's batch, if the client gives them away.
        optimizer: ``sgd`` without momentum, or ``adam`` with torch's defaults, fresh each round.
    """

    steps: int
    records_per_step: int
    lr: float
    labels: tuple[Int[Tensor, " _step_records"], ...] | None = None
    optimizer: Literal["sgd", "adam"] = "sgd"


@dataclass(frozen=True)
class Update:
    """What the server receives from one client, or from a secure aggregation of several.

    Attributes:
        change: One tensor a parameter, by the parameter's name, in the model's order.
        kind: What the tensors are.
        buffers: The model's buffers after local training by name, or None if withheld.
        labels: Labels of the records in ascending order, or None if withheld.
        count: Number of records, or None if withheld.
        recipe: How the client trained, or None if withheld.
        clients: Number of clients in the aggregate; 1 for a client's own update.
        hints: What an attacker who knows the clients' defenses is taken to know of their state,
            such as learned noise parameters, by a name that begins with the defense's. Only
            adaptive attacks look at it.
    """

    change: Mapping[str, Tensor]
    kind: Change = Change.GRADIENT
    buffers: Mapping[str, Tensor] | None = None
    labels: Int[Tensor, " records"] | None = None
    count: int | None = None
    recipe: Recipe | None = None
    clients: int = 1
    hints: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def playable(self) -> Recipe | None:
        """The recipe if it says enough to play local training again: plain SGD with its labels."""
        recipe = self.recipe
        if self.kind is Change.GRADIENT or recipe is None or recipe.labels is None:
            return None
        return recipe if recipe.optimizer == "sgd" else None

    @property
    def is_unplayable(self) -> bool:
        """Whether it is a change of weights that can only be taken for minus a gradient.

        Minus the change then points the way of a gradient; its size is not known.
        """
        return self.kind is Change.DIFFERENCE and self.playable is None


@dataclass(frozen=True)
class Round:
    """One query: what the server sent and what came back.

    Attributes:
        model: The network as sent, weights included.
        update: What came back.
        training: True if the client ran the network in training mode (its own batch statistics),
            False if it used the running statistics that the server sent.
        secret: What the server remembers of how it changed the model; None if it is honest.
    """

    model: nn.Module
    update: Update
    training: bool = False
    secret: Any = None


@dataclass(frozen=True)
class Exchange:
    """Everything that the attacker saw, and nothing else.

    Attributes:
        spec: What is known about the images.
        classes: Number of classes.
        loss: The loss that the federation minimises: ``(outputs, labels) -> scalar``.
        rounds: One entry a query, over the same records.
        public: Images of other people that the attacker holds; there may be none.
        defenses: The defenses that the clients are known to have, innermost first. Only adaptive
            attacks look at them.
    """

    spec: ImageSpec
    classes: int
    loss: LossFunction
    rounds: tuple[Round, ...]
    public: Float[Tensor, "public channels *space"]
    defenses: tuple[Any, ...] = ()

    @property
    def model(self) -> nn.Module:
        """The network that the server sent in the first round."""
        return self.rounds[0].model

    @property
    def update(self) -> Update:
        """What came back in the first round."""
        return self.rounds[0].update

    @property
    def secret(self) -> Any:
        """What the server remembers of the first round."""
        return self.rounds[0].secret


@dataclass(frozen=True)
class Reconstruction:
    """What an attack claims the private records were.

    Attributes:
        images: One image a claim, in the spec's unit.
        labels: Class of each claim, if the attack claims one; `UNKNOWN` where it claims none.
        confidence: Confidence in each claim from 0 to 1, if the attack has an idea of it.
    """

    images: Float[Tensor, "claims channels *space"]
    labels: Int[Tensor, " claims"] | None = None
    confidence: Float[Tensor, " claims"] | None = None


@dataclass(frozen=True)
class Guarantee:
    """What differential privacy a defense gives over a whole training.

    Attributes:
        epsilon: Privacy loss; infinite if there is no bound.
        delta: Probability with which the loss may be greater.
        unit: What is protected: one ``record`` of a client, or a whole ``client``.
        adjacency: How neighbouring data sets differ in such a unit: ``add or remove one`` or
            ``replace one``.
        rounds: Rounds that are counted.
        how: The mechanism and its accounting, in a sentence.
    """

    epsilon: float
    delta: float
    unit: str
    adjacency: str
    rounds: int
    how: str


@dataclass(frozen=True)
class Rate:
    """How often something happened.

    Attributes:
        count: How often it happened.
        total: How often it could have.
        low: Lower end of the 95 % Wilson interval of the share.
        high: Upper end of it.
    """

    count: int
    total: int
    low: float
    high: float


@dataclass(frozen=True)
class Finding:
    """The outcome of one attempt: one case, server, attack, stack of defenses and seed.

    Attributes:
        case: Name of the case.
        server: Name of the server.
        attack: Name of the attack's settings.
        defenses: Names of the defenses' settings, innermost first.
        seed: Seed of the attempt.
        role: Whether this is an attack or one of the controls beside it.
        verdict: What the attempt showed.
        note: Why, where the numbers do not say it.
        records: Number of private records in the round.
        claims: Number of reconstructions that the attack claimed.
        identified: For each record, whether its claim resembles it more than any claim resembles
            any decoy of its class.
        matched: For each record, the claim matched to it, or None.
        similarity: For each record, the whitened correlation with its claim, or None.
        nearest_decoy: For each record, the highest whitened correlation between its claim and a
            decoy, or None.
        decoy_index: For each record, which decoy that is, or None.
        threshold: For each record, the highest whitened correlation of any claim with any decoy of
            its class, or None.
        decoys: Number of decoys of a record: those of its class; the fewest that one has.
        pools: For each class, the number of records and of decoys.
        p_value: Probability at most of as many identified records or more if the claims were
            independent of the records; None without an attempt.
        level: The finding is a leak if ``p_value`` is at most this.
        scores: Metric name to one score a record; None where no claim was matched.
        baselines: Metric name to the median score of the black, the mean public and the nearest
            decoy image.
        identified_by: Other similarity name to the number of records that it would identify.
        null: Identifications by blind claims over many draws; only of blind controls.
        clients: For each record, the index of its client.
        seconds: Time that the attack took.
        peak_memory_mb: Peak memory while the attack ran, in MiB; GPU memory on a GPU.
        device: Where it ran.
        guarantees: What differential privacy the defenses give over the whole training.
    """

    case: str
    server: str
    attack: str
    defenses: tuple[str, ...]
    seed: int
    role: Role
    verdict: Verdict
    note: str = ""
    records: int = 0
    claims: int = 0
    identified: tuple[bool, ...] = ()
    matched: tuple[int | None, ...] = ()
    similarity: tuple[float | None, ...] = ()
    nearest_decoy: tuple[float | None, ...] = ()
    decoy_index: tuple[int | None, ...] = ()
    threshold: tuple[float | None, ...] = ()
    decoys: int = 0
    pools: tuple[tuple[int, int], ...] = ()
    p_value: float | None = None
    level: float = 0.05
    scores: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    identified_by: Mapping[str, int] = field(default_factory=dict)
    null: Rate | None = None
    clients: tuple[int, ...] = ()
    seconds: float = 0.0
    peak_memory_mb: float = 0.0
    device: str = "cpu"
    guarantees: tuple[Guarantee, ...] = ()
