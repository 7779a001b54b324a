"""Private records and public images of other people, or of other places, for the benchmark."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import nibabel
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from medbreach import plugins
from medbreach.components import Dataset, Model
from medbreach.datasets.dermoscopy import Dermoscopy
from medbreach.datasets.image_folder import ImageFolder
from medbreach.datasets.nifti import read_series, read_volume
from medbreach.datasets.volumes import Voxels, robust_scale
from medbreach.errors import DataError
from medbreach.federation import Federation
from medbreach.population import with_normalisation
from medbreach.randomness import Seeds
from medbreach.types import Batch, ImageSpec

PUBLIC: Final = 400  # public images, at most
CLASSES: Final = 4  # of labels that are made up
TISSUE: Final = 0.5  # of a block's voxels, at least, are brighter than FAINT
FAINT: Final = 0.05
PACKAGED: Final = Path(nibabel.__file__).parent / "tests" / "data" / "example4d.nii.gz"


class Drawn(NamedTuple):
    """The images of one round.

    Attributes:
        spec: What is known about the images.
        classes: Number of classes.
        records: The private ones.
        public: The server's.
    """

    spec: ImageSpec
    classes: int
    records: Batch
    public: Float[Tensor, "public channels *space"]


@dataclass(frozen=True)
class Source:
    """Where images come from, and the network that is trained on them.

    Attributes:
        network: Registered name of the network.
    """

    network: str

    @property
    def model(self) -> Model:
        """The network."""
        return plugins.models()[self.network]()

    def draw(self, count: int, seed: int) -> Drawn:
        """Return so many records, and public images.

        Raises:
            DataError: There are not so many.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Pictures(Source):
    """Pictures of a data set. Public ones are of patients without a record.

    Attributes:
        dataset: Where they lie.
    """

    dataset: Dataset

    def draw(self, count: int, seed: int) -> Drawn:
        """Return so many records, of patients in random order, and public images.

        Raises:
            DataError: There are not so many.
        """
        collection, seeds = self.dataset.open(), Seeds(seed)
        patients = sorted({entry.patient for entry in collection.entries})
        order = torch.randperm(len(patients), generator=seeds.stream("patients")).tolist()
        place = {patients[k]: turn for turn, k in enumerate(order)}
        turns = [place[entry.patient] for entry in collection.entries]
        by_patient = sorted(range(len(turns)), key=turns.__getitem__)
        chosen = by_patient[:count]
        others = [k for k in by_patient if turns[k] > turns[chosen[-1]]]
        if len(chosen) < count or not others:
            raise DataError(f"there are {len(turns)} images, too few for {count} records and more")
        classes = len(collection.classes or range(CLASSES))
        made_up = torch.randint(classes, (count,), generator=seeds.stream("labels")).tolist()
        known = [collection.entries[k].label for k in chosen]
        labels = [a if y is None else y for a, y in zip(made_up, known, strict=True)]
        public = collection.images(others[:: 1 + len(others) // PUBLIC])
        return Drawn(
            with_normalisation(collection.spec, public, Federation()),
            classes,
            Batch(collection.images(chosen), torch.tensor(labels)),
            public,
        )


@dataclass(frozen=True)
class Blocks(Source):
    """Overlapping blocks of volumes: public ones of the left halves, records of the right.

    The right halves are mirrored, so that both show the same anatomy.

    Attributes:
        volumes: Intensities from 0 to 1.
        side: Voxels of a block along each axis.
        stride: Voxels from one block to the next.
    """

    volumes: tuple[Voxels, ...]
    side: int
    stride: int

    def draw(self, count: int, seed: int) -> Drawn:
        """Return so many records and public blocks, in random order.

        Raises:
            DataError: There are not so many.
        """
        seeds = Seeds(seed)
        middle = [volume.shape[2] // 2 for volume in self.volumes]
        left = [v[:, :, :m] for v, m in zip(self.volumes, middle, strict=True)]
        right = [v[:, :, : m - 1 : -1] for v, m in zip(self.volumes, middle, strict=True)]
        records = self._blocks(right, count, seeds.stream("records"))
        public = self._blocks(left, PUBLIC, seeds.stream("public"))
        if len(records) < count:
            raise DataError(f"there are {len(records)} blocks, not {count}: lower --stride")
        labels = torch.randint(CLASSES, (count,), generator=seeds.stream("labels"))
        spec = with_normalisation(ImageSpec(1, (self.side,) * 3), public, Federation())
        return Drawn(spec, CLASSES, Batch(records, labels), public)

    def _blocks(self, halves: list[Voxels], most: int, rng: torch.Generator) -> Tensor:
        found = [block for half in halves for block in self._of(half)]
        order = torch.randperm(len(found), generator=rng)[:most].tolist()
        return torch.stack([torch.from_numpy(found[k].copy())[None] for k in order])

    def _of(self, half: Voxels) -> Iterator[Voxels]:
        """Yield the blocks that show tissue, as views."""
        windows = np.lib.stride_tricks.sliding_window_view(half, (self.side,) * 3)
        windows = windows[:: self.stride, :: self.stride, :: self.stride]
        for place in np.ndindex(windows.shape[:3]):
            if (windows[place] > FAINT).mean() >= TISSUE:
                yield windows[place]


def packaged() -> Mapping[str, Source]:
    """Return dermoscopy patches and blocks of a head MR, with small networks."""
    first = read_series(PACKAGED, PACKAGED.name)[0]
    scaled = robust_scale(first.voxels, PACKAGED.name).clip(0, 1)
    return {
        "dermoscopy patches, 3 x 32 x 32": Pictures("small_cnn", Dermoscopy()),
        "brain MR blocks, 16 x 16 x 16": Blocks("small_cnn", (scaled,), 16, 3),
    }


def folder(path: Path, side: int) -> Mapping[str, Source]:
    """Return a folder's pictures, with a ResNet18."""
    dataset = ImageFolder(path, size=(side, side), channels=3)
    return {
        f"{path.name}, 3 x {side} x {side}, ResNet18": Pictures("torchvision_resnet18", dataset)
    }


def volumes(path: Path, side: int, stride: int) -> Mapping[str, Source]:
    """Return blocks of a folder's volumes, with a 3D ResNet10.

    Files that are no volume, or too small for a block in each half, are left out.
    """
    found = []
    for file in sorted(path.glob("*.nii*")):
        try:
            voxels = read_volume(file, file.name).voxels
        except DataError:
            continue
        if min(*voxels.shape[:2], voxels.shape[2] // 2) >= side:
            found.append(robust_scale(voxels, file.name).clip(0, 1))
    name = f"{len(found)} volumes of {path.name}, {side} x {side} x {side}, ResNet10"
    return {name: Blocks("monai_resnet10", tuple(found), side, stride)}
