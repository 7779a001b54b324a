"""What the DKFZ setting is reproduced on."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from medbreach.datasets.totalsegmentator import CHEST_CT, missing
from medbreach.text import file_name

SEEDS: Final = 3
RECORDS: Final = 16  # of each client, as in the notebooks

PUBLICATION: Final = "Parampottupadam et al. 2024, CCIS 2240"
DOI: Final = "10.1007/978-3-031-79103-1_24"

PUBLISHED: Final[Mapping[tuple[str, int], str]] = {
    ("dkfz_2d", 6): "35.19 %",
    ("dkfz_2d", 12): "37.21 %",
    ("dkfz_3d", 12): "62.92 %",
}
"""What the abstract says by setting and clients; that its first number is of 2D is our reading."""


class Notebooks(NamedTuple):
    """What the notebooks were run on.

    Attributes:
        images: The data set.
        clients: Who took part.
        rows: Rows that were planted.
    """

    images: str
    clients: str
    rows: int


NOTEBOOKS: Final[Mapping[str, Notebooks]] = {
    "dkfz_2d": Notebooks("Kaggle's brain-tumour MRI", "in the notebook 4 of 6", 128),
    "dkfz_3d": Notebooks(
        "MosMedData's chest CT", "in the notebook one, with slices of one CT", 500
    ),
}


@dataclass(frozen=True)
class Setting:
    """What to reproduce, and on what.

    Attributes:
        name: ``dkfz_2d`` or ``dkfz_3d``.
        folder: The user's images; None for packaged ones.
        seeds: Number of seeds.
        quick: Six clients only, and small images; the networks are the same.
    """

    name: str
    folder: str | None = None
    seeds: int = SEEDS
    quick: bool = False

    @property
    def title(self) -> str:
        """A name that tells it from other settings, fit for a folder."""
        words = [self.name]
        if self.folder is not None:
            words.append(file_name(Path(self.folder).resolve().name) or "images")
        if self.quick:
            words.append("quick")
        if self.seeds != SEEDS:
            words.append(f"{self.seeds}_seeds")
        return "-".join(words)

    @property
    def clients(self) -> tuple[int, ...]:
        """Numbers of clients."""
        return (6,) if self.quick else (6, 12)

    @property
    def rows(self) -> int:
        """Number of rows, as in the notebooks."""
        return NOTEBOOKS[self.name].rows

    @property
    def forms(self) -> Mapping[str, tuple[str, ...]]:
        """The images in each form that they are tried in: settings of a case by the form's name."""
        if self.name == "dkfz_2d":
            return {"images": self._pictures()}
        return {"slices": self._volumes(flat=True), "volumes": self._volumes(flat=False)}

    def _pictures(self) -> tuple[str, ...]:
        network = "case.model=torchvision_resnet18"
        if self.folder is None:
            return ("case=dermoscopy_2d", network)
        side = 64 if self.quick else 224
        return (
            "case=brain_tumor_2d", f"case.data.path={self.folder}",
            f"case.data.size=[{side},{side}]", network,
        )  # fmt: skip

    def _volumes(self, *, flat: bool) -> tuple[str, ...]:
        network = f"case.model={'torchvision_resnet18' if flat else 'monai_resnet10'}"
        if self.folder is not None:
            slices, volumes = ("64,64", "16,32,32") if self.quick else ("224,224", "32,64,64")
            return (
                "case=brain_mr_3d", "case/data=nifti_folder", f"case.data.path={self.folder}",
                f"case.data.form={'slices' if flat else 'volumes'}",
                f"case.data.space=[{slices if flat else volumes}]", network, *self._mosmed(),
            )  # fmt: skip
        if not missing(CHEST_CT, "chest_ct") and not self.quick:
            space = "[32,32]" if flat else "[16,32,32]"
            return "case=chest_ct_3d", f"case.data.space={space}", network
        return "case=brain_mr_3d", f"case.data.space={'[16,16]' if flat else '[8,16,16]'}", network

    def _mosmed(self) -> tuple[str, ...]:
        assert self.folder is not None
        root = Path(self.folder)
        has_classes = any((root / part / "CT-0").is_dir() for part in ("", "studies"))
        return ("case.data.preset=MosMedData",) if has_classes else ()
