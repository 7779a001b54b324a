"""What the attacks share that search for images whose gradient matches the update."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from medbreach.components import Attack
from medbreach.errors import NotApplicable
from medbreach.settings import nearest, plain
from medbreach.types import Exchange, Reconstruction, Reveals

LabelStrategy = Literal[
    "iDLG", "analytic", "yin", "wainakh-simple", "bias-corrected", "random", "None", "mean-softmax"
]
"""breaching's ways of inferring labels (it writes ``None`` in quotes where it means null), and
ours: ``mean-softmax`` estimates each class's share by the mean softmax of public images."""

COLOURS = r"(red|green|blue|dark|light)(-true)?"
TILES = r"(randn?-)?(patterned|wei)-[1-9]\d*(-randn?)?"
FIRST_CANDIDATES = rf"randn|randn-trunc|rand|zeros|{COLOURS}|{TILES}"

AUGMENTATIONS: Mapping[str, frozenset[str]] = {
    "antialias": frozenset({"width"}),
    "colorjitter": frozenset({"shuffle_every", "mean", "std", "none"}),
    "continuous_shift": frozenset({"shift", "fliplr", "flipud", "mode", "padding"}),
    "discrete_shift": frozenset({"lim"}),
    "flip": frozenset({"p"}),
    "focus": frozenset({"size", "std"}),
    "median": frozenset({"kernel_size", "stride", "padding", "same"}),
    "centerzoom": frozenset({"initial_fov", "out_size"}),
    "zoom": frozenset({"out_size"}),
}
"""breaching's augmentations and their settings."""


@dataclass(frozen=True)
class Objective:
    """Distance of the candidate's gradient to the update.

    Attributes:
        type: Name of the distance.
        scale: Factor of the distance.
        task_regularization: Factor of the task loss that is added.
    """

    type: Literal[
        "euclidean",
        "cosine-similarity",
        "masked-cosine-similarity",
        "fast-cosine-similarity",
        "angular",
        "l1",
    ] = "euclidean"
    scale: float = 1.0
    task_regularization: float = 0.0


@dataclass(frozen=True)
class Restarts:
    """Several starts, of which the best is kept, without a look at the truth.

    Attributes:
        num_trials: Number of starts.
        scoring: Distance that decides which is best.
    """

    num_trials: int = 1
    scoring: Literal["euclidean", "cosine-similarity", "TV", "total-variation"] = "euclidean"

    def __post_init__(self) -> None:
        if self.num_trials < 1:
            raise ValueError(f"num_trials must be at least 1, got {self.num_trials}")


@dataclass(frozen=True)
class Descent:
    """How the candidate is moved.

    Attributes:
        optimizer: ``adam``, ``adam-safe``, ``bert-adam``, ``momgd``, ``gd`` or ``l-bfgs``.
        signed: Use the gradient's sign: ``hard``, or ``soft`` (a tanh that sharpens); null or
            false: the gradient itself.
        step_size: Step size, in normalised intensity.
        boxed: Keep the candidate within the images' bounds.
        max_iterations: Number of steps (of each stage).
        step_size_decay: ``step-lr``, ``cosine-decay``, ``linear``, or ``none`` or null.
        langevin_noise: Scale of noise on the gradient.
        warmup: Steps over which the step size rises.
        grad_clip: Greatest norm of the candidate's gradient; null for none.
        callback: Ignored: progress is shown at every step.
    """

    optimizer: str = "Adam"
    signed: Literal["hard", "soft"] | bool | None = None
    step_size: float = 1.0
    boxed: bool = False
    max_iterations: int = 400
    step_size_decay: Literal["step-lr", "cosine-decay", "linear", "none"] | None = None
    langevin_noise: float = 0.0
    warmup: int = 0
    grad_clip: float | None = None
    callback: int = 100

    def __post_init__(self) -> None:
        known = ("adam", "adam-safe", "bert-adam", "momgd", "gd", "l-bfgs")
        if self.optimizer.lower() not in known:
            raise ValueError(f"optim.optimizer must be one of {', '.join(known)}")
        if self.max_iterations < 1:
            raise ValueError(f"optim.max_iterations must be at least 1, got {self.max_iterations}")
        if self.step_size <= 0:
            raise ValueError(f"optim.step_size must be positive, got {self.step_size}")
        if self.signed is True:
            raise ValueError("optim.signed must be hard, soft, false or null: true does nothing")
        if self.warmup < 0:
            raise ValueError(f"optim.warmup must not be negative, got {self.warmup}")


@dataclass(frozen=True)
class TotalVariation:
    """Total variation of the candidate.

    Attributes:
        scale: Factor of the term.
        inner_exp: Exponent of each difference.
        outer_exp: Exponent of their sum at a pixel.
        double_opponents: Add differences of colour channels (RGB only).
        eps: Added to each difference.
    """

    scale: float = 0.1
    inner_exp: float = 1
    outer_exp: float = 1
    double_opponents: bool = False
    eps: float = 1e-8


@dataclass(frozen=True)
class Norm:
    """Norm of the candidate.

    Attributes:
        scale: Factor of the term.
        pnorm: Exponent.
    """

    scale: float = 0.1
    pnorm: float = 2.0


@dataclass(frozen=True)
class Features:
    """Distance to the features that the last linear layer gives away.

    Attributes:
        scale: Factor of the term.
    """

    scale: float = 0.1


@dataclass(frozen=True)
class DeepInversion:
    """Distance of the batch statistics to BatchNorm's running ones.

    Attributes:
        scale: Factor of the term.
        first_bn_multiplier: Extra weight of the first BatchNorm.
    """

    scale: float = 0.1
    first_bn_multiplier: float = 10


@dataclass(frozen=True)
class Regularization:
    """What a candidate should look like, whatever the update says.

    Attributes:
        total_variation: Smoothness.
        norm: Size.
        features: Features at the last linear layer.
        deep_inversion: BatchNorm statistics.
        orthogonality: Difference between the records of a batch.
    """

    total_variation: TotalVariation | None = None
    norm: Norm | None = None
    features: Features | None = None
    deep_inversion: DeepInversion | None = None
    orthogonality: Features | None = None


@dataclass(frozen=True)
class Precision:
    """How breaching computes.

    Attributes:
        dtype: ``float`` or ``double``.
        mixed_precision: Use autocast.
        JIT: Null: compiling the network is not supported.
    """

    dtype: Literal["float", "double"] = "float"
    mixed_precision: bool = False
    JIT: None = None


@dataclass(frozen=True)
class GradientMatching(Attack):
    """An attack of breaching's that descends on images until their gradient matches the update.

    Attributes:
        label_strategy: How labels are inferred where they are withheld; null: not at all. Ours,
            ``mean-softmax``, needs public images and is the most exact by far for batches.
        objective: Distance of the candidate's gradient to the update.
        restarts: Several starts, of which the best is kept.
        init: Where the candidate starts: ``randn``, ``randn-trunc``, ``rand``, ``zeros``;
            ``patterned-4`` or ``wei-4``: tiles of 4 pixels; ``red``, ``green``, ``blue``, ``dark``,
            ``light``, with ``-true`` before normalisation (RGB only).
        normalize_gradients: Scale the update to unit norm first.
        optim: How the candidate is moved.
        augmentations: breaching's augmentations of the candidate, by name, with their settings.
        differentiable_augmentations: Descend through the augmentations.
        regularization: What a candidate should look like, whatever the update says.
        impl: How breaching computes.
        adaptive: Behind defenses, attack a second time, with all that is known of them: the
            candidate's gradient is computed as the defended client would.
        draws: How often the clients' randomness is drawn for each gradient, and averaged.
    """

    needs: ClassVar[frozenset[Reveals]] = frozenset({Reveals.COUNT})
    differs: ClassVar[str] = (
        "Runs on grey images and volumes too (total variation along every axis, patterns and "
        "BatchNorm statistics in 3D); local training is replayed for every client and any batch "
        "size; a change of weights without its recipe is matched by direction with the right sign. "
        "Labels: of two classes, bias-corrected can name one only, so their shares are estimated "
        "by the mean softmax of public images; wainakh-simple takes each record's impact off the "
        "class that it has chosen. regularization.orthogonality.scale, which breaching ignores, "
        "counts. "
        "breaching's objectives pearlmutter-*, its label strategies wainakh-whitebox and "
        "exhaustive and its JIT are left out: they fail there, or torch gives them up."
    )

    label_strategy: LabelStrategy | None = "bias-corrected"
    objective: Objective = Objective()
    restarts: Restarts = Restarts()
    init: str = "randn"
    normalize_gradients: bool = False
    optim: Descent = Descent()
    augmentations: Mapping[str, Mapping[str, Any] | None] | None = None
    differentiable_augmentations: bool = False
    regularization: Regularization | None = None
    impl: Precision = Precision()
    adaptive: bool = True
    draws: int = 1

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError(f"draws must be at least 1, got {self.draws}")
        if not re.fullmatch(FIRST_CANDIDATES, self.init):
            raise ValueError(
                f"init {self.init!r} is unknown: try randn, rand, zeros, or patterned-4"
            )
        for name, settings in (self.augmentations or {}).items():
            if name not in AUGMENTATIONS:
                raise ValueError(f"augmentations has no {name!r}; {nearest(name, AUGMENTATIONS)}")
            for key in set(settings or {}) - AUGMENTATIONS[name]:
                raise ValueError(
                    f"augmentations.{name} has no key {key!r}; {nearest(key, AUGMENTATIONS[name])}"
                )

    def run(self, exchange: Exchange, rng: torch.Generator) -> Reconstruction:
        """Return as many images as there are records.

        Raises:
            NotApplicable: A setting works on 2D RGB images only.
        """
        from medbreach.breaching_bridge.run import reconstruct

        self.check_images(exchange)
        return reconstruct(self.name, self.in_breaching_words(), exchange, rng)  # type: ignore[arg-type]

    def check_images(self, exchange: Exchange) -> None:
        """Refuse settings that breaching has for 2D RGB images only.

        Raises:
            NotApplicable: There is one, and the images are something else.
        """
        spec = exchange.spec
        flat, rgb = len(spec.space) == 2, len(spec.space) == 2 and spec.channels == 3
        if re.fullmatch(COLOURS, self.init) and not rgb:
            raise NotApplicable(f"init {self.init!r} is for 2D RGB images only")
        if self.augmentations and not flat:
            raise NotApplicable("breaching's augmentations are for 2D images only")
        if {"colorjitter", "antialias"} & set(self.augmentations or ()) and not rgb:
            raise NotApplicable("colorjitter and antialias are for 2D RGB images only")
        if self.impl.mixed_precision and not flat:
            raise NotApplicable("breaching's mixed precision is for 2D images only")

    def in_breaching_words(self) -> dict[str, Any]:
        """Return the settings under breaching's keys."""
        words: dict[str, Any] = plain(self)
        given = words["regularization"] or {}
        if self.label_strategy == "None":
            words["label_strategy"] = None
        words["regularization"] = {k: v for k, v in given.items() if v is not None}
        augmentations = words["augmentations"] or {}
        words["augmentations"] = {k: v or {} for k, v in augmentations.items()}
        return {"type": self.name, "attack_type": self.name, **words}
