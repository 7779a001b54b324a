"""What a plugin can offer: the six kinds of component.

A component is a frozen dataclass. Its fields are its settings: the same names appear in the YAML
under ``cases/``, in ``medbreach show`` and in the reference. The base class checks what goes in and
what comes out; the subclass computes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medbreach.collection import Collection
from medbreach.errors import ContractError, ModelError, NotApplicable
from medbreach.randomness import lend_global
from medbreach.text import blaming
from medbreach.types import (
    Batch,
    Exchange,
    ImageSpec,
    LossFunction,
    Recipe,
    Reconstruction,
    Reveals,
    Update,
)

if TYPE_CHECKING:
    from medbreach.case import Case


class Component(ABC):
    """Something that plugins offer and that cases choose by name.

    Attributes:
        name: The registered name.
        source: The publication it comes from, or ``"medbreach"``.
        differs: How it differs from the source, in a sentence; empty if it does not.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    differs: ClassVar[str] = ""


class Attack(Component):
    """An attacker that runs the server and wants the clients' records. Subclasses write `run`.

    Attributes:
        needs: What the update must reveal.
        dimensions: Numbers of spatial axes that it works on.
        channels: Numbers of channels that it works on; None for any.
        blind: True for a negative control, which ignores the update.
    """

    needs: ClassVar[frozenset[Reveals]] = frozenset()
    dimensions: ClassVar[frozenset[int]] = frozenset({2, 3})
    channels: ClassVar[frozenset[int] | None] = None
    blind: ClassVar[bool] = False

    @abstractmethod
    def run(self, exchange: Exchange, rng: torch.Generator) -> Reconstruction:
        """Return the records that the exchange gives away.

        Raises:
            NotApplicable: The exchange lacks something that the attack needs.
        """

    def control(self, case: "Case") -> "Case | None":
        """Return a case like ``case`` that the attack must solve, or None if it is a control.

        The default is one record of one client, everything revealed, and a small network.
        """
        return None if self.blind else case.solvable()

    @final
    def __call__(self, exchange: Exchange, rng: torch.Generator) -> Reconstruction:
        """Check what the attack needs, run it, and check what it returns.

        Raises:
            NotApplicable: The update withholds something in `needs` or is not finite, or the images
                do not fit.
            ContractError: The claims have the wrong shape, or are not finite.
        """
        self._check_needs(exchange)
        claim = self.run(exchange, rng)
        if not isinstance(claim, Reconstruction):
            raise ContractError(f"{self.name} returned a {type(claim).__name__}, no Reconstruction")
        images = claim.images.detach().to("cpu", torch.float32)
        if tuple(images.shape[1:]) != exchange.spec.shape:
            raise ContractError(
                f"{self.name} returned images of shape {tuple(images.shape[1:])}, "
                f"not {exchange.spec.shape}"
            )
        if not is_finite(images):
            raise ContractError(f"{self.name} returned intensities that are not finite")
        for what in (claim.labels, claim.confidence):
            if what is not None and len(what) != len(images):
                raise ContractError(f"{self.name} returned {len(images)} images, {len(what)} marks")
        labels = None if claim.labels is None else claim.labels.detach().cpu()
        confidence = None if claim.confidence is None else claim.confidence.detach().cpu()
        low, high = exchange.spec.bounds
        if images.numel() and (images.min() < low or images.max() > high):  # else without a copy
            images = images.clamp(low, high)
        return Reconstruction(images, labels, confidence)

    def _check_needs(self, exchange: Exchange) -> None:
        spec = exchange.spec
        missing = sorted(need for need in self.needs if getattr(exchange.update, need) is None)
        if missing:
            raise NotApplicable(
                f"{self.name} needs {', '.join(missing)}, which the client withholds"
            )
        for name, change in exchange.update.change.items():
            if not self.blind and not is_finite(change):
                raise NotApplicable(
                    f"the update's {name} is not finite: the client's training diverged"
                )
        if len(spec.space) not in self.dimensions:
            raise NotApplicable(f"{self.name} does not work on {len(spec.space)}D images")
        if self.channels is not None and spec.channels not in self.channels:
            able = " or ".join(map(str, sorted(self.channels)))
            raise NotApplicable(
                f"{self.name} needs {able} channels, the images have {spec.channels}"
            )


class Planted(NamedTuple):
    """What a server sends, and what it remembers.

    Attributes:
        model: The network that the clients receive.
        secret: What the attack will need to read the update; None from an honest server.
    """

    model: nn.Module
    secret: Any = None


@dataclass(frozen=True)
class Server(Component):
    """The party that sends the network out. A malicious one changes it first, in `plant`.

    Attributes:
        pretrained: Start from published weights where the model has them, else from the seed's.
        model_state: ``default`` and ``trained`` leave the weights alone; ``untrained`` resets
            them; ``orthogonal`` and ``linearized`` initialise them as breaching does.
        provide_public_buffers: Send running statistics, so that clients run in evaluation mode;
            otherwise they train with the statistics of their own batch.
        has_external_data: The attacker holds public images of other people.
        num_queries: Rounds over the same records.
    """

    pretrained: bool = False
    model_state: Literal["default", "trained", "untrained", "orthogonal", "linearized"] = "default"
    provide_public_buffers: bool = True
    has_external_data: bool = True
    num_queries: int = 1

    malicious: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.num_queries < 1:
            raise ValueError(f"num_queries must be at least 1, got {self.num_queries}")

    def plant(
        self,
        model: nn.Module,
        spec: ImageSpec,
        public: Float[Tensor, "public channels *space"],
        rng: torch.Generator,
    ) -> Planted:
        """Return the network to send; ``model`` may be changed in place.

        Args:
            model: The honest network.
            spec: What is known about the images.
            public: Public images in the spec's unit, for calibration; there may be none.
            rng: The server's own randomness, fresh for each round.

        Raises:
            NotApplicable: The network has no place for what the server would plant.
        """
        del spec, public, rng
        return Planted(model)

    def send(self, planted: Planted, client: int) -> nn.Module:
        """Return the network as one client of the round receives it: by default, all the same.

        Another network must be an object of its own, with the parameters and buffers of
        ``planted.model``; only their values may differ.

        Args:
            planted: What `plant` returned.
            client: The client's place in the round, from 0.
        """
        del client
        return planted.model


def is_finite(tensor: Tensor) -> bool:
    """Return whether no number is NaN or infinite, without a copy as large as the tensor."""
    return not tensor.numel() or bool(torch.stack(tensor.aminmax()).isfinite().all())


@dataclass(frozen=True)
class ClientTask:
    """What one client does in one round.

    Attributes:
        model: The network as received; training may change it in place.
        batch: The client's records, in the spec's unit.
        spec: What is known about the images.
        classes: Number of classes.
        loss: The loss to minimise.
        recipe: How to train; None for the gradient of one batch.
        training: Run the network in training mode.
        rng: The client's own randomness.
    """

    model: nn.Module
    batch: Batch
    spec: ImageSpec
    classes: int
    loss: LossFunction
    recipe: Recipe | None
    training: bool
    rng: torch.Generator


LocalTraining = Callable[[ClientTask], Update]


class Defense(Component):
    """Something that makes an update give away less. Each method does nothing by default."""

    def vet(self, model: nn.Module, spec: ImageSpec) -> None:
        """Inspect what the server sent, before any training.

        Raises:
            Refused: The client will not train this network.
        """
        del model, spec

    def wrap(self, train: LocalTraining) -> LocalTraining:
        """Return local training with this defense around it.

        The task's batch, model and recipe may be replaced (`dataclasses.replace`) before training,
        the update after it. The truth that attacks are scored against stays as it is.
        """
        return train

    def aggregate(self, updates: Sequence[Update]) -> Sequence[Update]:
        """Return the clients' updates as the server's aggregation should take them."""
        return updates


class Metric(Component):
    """A score of how well a reconstruction shows a record. Subclasses write `run`.

    Attributes:
        unit: Unit of the score.
        better: Whether a higher or a lower score means a closer likeness.
    """

    unit: ClassVar[str]
    better: ClassVar[Literal["higher", "lower"]]

    @abstractmethod
    def run(
        self,
        claim: Float[Tensor, "records channels *space"],
        truth: Float[Tensor, "records channels *space"],
        spec: ImageSpec,
    ) -> Float[Tensor, " records"]:
        """Return one score for each record, in `unit`.

        Raises:
            NotApplicable: The metric does not work on such images.
        """

    @final
    def __call__(
        self,
        claim: Float[Tensor, "records channels *space"],
        truth: Float[Tensor, "records channels *space"],
        spec: ImageSpec,
    ) -> Float[Tensor, " records"]:
        """Score each claim against its record, and check the scores.

        Raises:
            NotApplicable: The metric does not work on such images.
            ContractError: There is not one score a record, or one is not a number.
        """
        if not len(truth):
            return torch.empty(0)
        scores = self.run(claim, truth, spec)
        if tuple(scores.shape) != (len(truth),) or scores.isnan().any():
            raise ContractError(f"{self.name} returned no number for each of {len(truth)} records")
        return scores


class Dataset(Component):
    """Images that stand for the clients' private records. Subclasses write `open`.

    Attributes:
        licence: Terms of the images, in a word or two.
    """

    licence: ClassVar[str] = ""

    @abstractmethod
    def open(self) -> Collection:
        """Return the images, unread where they are many.

        Raises:
            DataError: Something is missing, damaged or ambiguous; the message names the file.
        """

    @classmethod
    def missing(cls) -> str:
        """Return why the images are not on this machine and how to get them, or ``""``."""
        return ""

    @classmethod
    def fetch(cls) -> str:
        """Bring the images to this machine; return where they lie.

        Raises:
            DataError: They cannot be fetched, or are not what was expected.
        """
        raise NotApplicable(f"{cls.name} has nothing to fetch: give its files by case.data.path")


class Model(Component):
    """A recipe for the network that the federation trains. Subclasses write `build`."""

    @abstractmethod
    def build(self, spec: ImageSpec, classes: int) -> nn.Module:
        """Return the network, with the constructors' own first weights.

        It takes normalised images of ``spec.shape`` and returns one output a class. Random weights
        come from torch's global generator, which the caller has seeded.

        Raises:
            ModelError: The network cannot take such images.
        """

    def loss(self) -> LossFunction:
        """Return the loss that the federation minimises: cross-entropy unless said otherwise."""
        return nn.CrossEntropyLoss()

    def load_pretrained(self, model: nn.Module) -> None:
        """Put published weights into a network that `build` returned.

        Raises:
            ModelError: There are none, or they are not at hand.
        """
        del model
        raise ModelError(f"{self.name} has no published weights: set case.server.pretrained=false")

    @final
    def __call__(self, spec: ImageSpec, classes: int, rng: torch.Generator) -> nn.Module:
        """Build the network and try it on a blank image.

        Raises:
            ModelError: It cannot be built, or fails on images of this shape.
        """
        shape = " x ".join(map(str, spec.shape))
        failure = f"{self.name} cannot take images of {shape} (channels first)"
        with lend_global(rng), blaming(ModelError, failure):
            model: object = self.build(spec, classes)
            if not isinstance(model, nn.Module):
                raise ModelError(f"{self.name} built a {type(model).__name__}, no torch network")
            with torch.no_grad():
                outputs = model.eval()(torch.zeros(2, *spec.shape))
        self._check_outputs(outputs, classes)
        return model

    def _check_outputs(self, outputs: Any, classes: int) -> None:
        """Check what the network returned for two images.

        Raises:
            ModelError: It is not one row an image, or not one output a class for cross-entropy.
        """
        if not isinstance(outputs, Tensor):
            raise ModelError(f"{self.name} returns a {type(outputs).__name__}, not one tensor")
        by_class = isinstance(self.loss(), nn.CrossEntropyLoss)
        if outputs.shape[:1] != (2,) or (by_class and outputs.shape != (2, classes)):
            raise ModelError(
                f"{self.name} returns outputs of shape {tuple(outputs.shape)} for 2 images, not "
                f"(2, {classes}): one output a class"
            )
