"""Small rounds of the protocol on real images, for tests that have to be quick.

The images are resampled from dermoscopy patches (RGB) and from a head MR (grey, in 2D and 3D), both
of which are installed with medbreach.
"""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from medbreach.case import Case, Sample, draw
from medbreach.collection import Collection, Entry
from medbreach.components import ClientTask, Dataset, Defense
from medbreach.datasets.brain_mr import BrainMR
from medbreach.datasets.dermoscopy import Dermoscopy
from medbreach.federation import Federation
from medbreach.models.small_cnn import SmallCNN
from medbreach.protocol import User
from medbreach.randomness import Seeds
from medbreach.round import play
from medbreach.types import Exchange, Recipe

PATIENTS: Final = 40
DECOYS: Final = 9
PUBLIC: Final = 20
CPU: Final = torch.device("cpu")


class Form(NamedTuple):
    """A shape of images.

    Attributes:
        space: Pixels or voxels along each spatial axis.
        channels: Number of channels.
    """

    space: tuple[int, ...]
    channels: int

    def __str__(self) -> str:
        sides = " x ".join(map(str, self.space))
        return f"{sides} {'grey' if self.channels == 1 else 'RGB'} images"


FORMS: Final = (Form((16, 16), 1), Form((16, 16), 3), Form((8, 16, 16), 1))
"""What the contract tries components on."""


def tiny_collection(space: tuple[int, ...] = (16, 16), channels: int = 3) -> Collection:
    """Return one image of each of 40 patients (or places), resampled to a size.

    Args:
        space: Pixels or voxels along each axis.
        channels: 3 for dermoscopy patches, 2D only; 1 for a head MR.

    Raises:
        ValueError: There are no real images of that form.
    """
    return _resampled(tuple(space), channels)


def tiny_case(space: tuple[int, ...] = (16, 16), channels: int = 3, **changes: Any) -> Case:
    """Return a case of one client with two records, everything revealed, and a small network.

    Args:
        space: Pixels or voxels along each axis.
        channels: 3 for dermoscopy patches, 2D only; 1 for a head MR.
        changes: Fields of `Case` that shall be different, such as ``user=User(...)``.
    """
    case = Case(
        name="tiny",
        dataset=_dataset(tuple(space), channels),
        model=SmallCNN(width=8),
        user=User(num_data_points=2, provide_labels=True, provide_buffers=True),
        federation=Federation(partition="random", default_clients=2),
    )
    return replace(case, **changes)


def tiny_sample(space: tuple[int, ...] = (16, 16), channels: int = 3, **changes: Any) -> Sample:
    """Return the records, decoys and public images of a tiny case; arguments as there."""
    case = tiny_case(space, channels, **changes)
    return draw(case, tiny_collection(space, channels), Seeds(0), DECOYS, PUBLIC)


def tiny_exchange(
    space: tuple[int, ...] = (16, 16),
    channels: int = 3,
    defenses: Sequence[Defense] = (),
    **changes: Any,
) -> Exchange:
    """Return what the attacker sees of one round of a tiny case.

    Args:
        space: Pixels or voxels along each axis.
        channels: 3 for dermoscopy patches, 2D only; 1 for a head MR.
        defenses: Defenses around local training, innermost first.
        changes: Fields of `Case` that shall be different, such as ``server=MyServer()``.
    """
    sample = tiny_sample(space, channels, **changes)
    return play(tiny_case(space, channels, **changes), sample, defenses, Seeds(0), CPU)[0]


def tiny_task(
    space: tuple[int, ...] = (16, 16),
    channels: int = 3,
    recipe: Recipe | None = None,
    training: bool = False,
    **changes: Any,
) -> ClientTask:
    """Return what a client of a tiny case has to do, to be handed to a defense's local training.

    Args:
        space: Pixels or voxels along each axis.
        channels: 3 for dermoscopy patches, 2D only; 1 for a head MR.
        recipe: How to train; None for the gradient of one batch.
        training: Run the network in training mode.
        changes: Fields of `Case` that shall be different, such as ``model=MyModel()``.
    """
    case, sample = tiny_case(space, channels, **changes), tiny_sample(space, channels, **changes)
    return ClientTask(
        model=case.model(sample.spec, sample.classes, Seeds(0).stream("model")),
        batch=sample.batches[0],
        spec=sample.spec,
        classes=sample.classes,
        loss=case.model.loss(),
        recipe=recipe,
        training=training,
        rng=Seeds(0).stream("client"),
        others=sample.others[0],
    )


def _dataset(space: tuple[int, ...], channels: int) -> Dataset:
    if channels == 3 and len(space) == 2:
        return Dermoscopy()
    if channels == 1 and len(space) in (2, 3):
        return BrainMR((16, 16) if len(space) == 2 else (8, 16, 16))
    raise ValueError(
        f"there are tiny images of 1 channel in 2D and 3D and of 3 in 2D, not {channels} in "
        f"{len(space)}D"
    )


@functools.cache
def _resampled(space: tuple[int, ...], channels: int) -> Collection:
    whole = _dataset(space, channels).open()
    labelled = [e for e in whole.entries if e.label is not None or whole.classes is None]
    of_patient = {entry.patient: entry for entry in reversed(labelled)}
    entries = list(of_patient.values())[::-1]
    step = len(entries) // PATIENTS
    spacing = whole.spec.spacing
    if spacing is not None:
        sides = zip(spacing, whole.spec.space, space, strict=True)
        spacing = tuple(mm * before / after for mm, before, after in sides)
    return replace(
        whole,
        spec=replace(whole.spec, space=space, spacing=spacing),
        entries=[_read_once(entry, space) for entry in entries[::step][:PATIENTS]],
    )


def _read_once(entry: Entry, space: tuple[int, ...]) -> Entry:
    image = nn.functional.interpolate(entry.read()[None], space, mode="area")[0]

    def read() -> Tensor:
        return image.clone()

    return replace(entry, read=read, affine=None)
