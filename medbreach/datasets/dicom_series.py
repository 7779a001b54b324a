"""Folders of DICOM series."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal

from medbreach.collection import Collection
from medbreach.datasets.cutting import Form, Scan, collect
from medbreach.datasets.dicom import Series, read_series
from medbreach.datasets.folders import children, name_below
from medbreach.datasets.scans import PLACES_NOTE, RELATIVE_NOTE, VolumeFiles, loader, notes
from medbreach.errors import DataError

SAME_NUMBER_NOTE: Final = "folders with the same patient number count as one patient"
BODY: Final = (-1000.0, 1000.0)  # HU: air to dense bone


@dataclass(frozen=True, kw_only=True)
class DicomSeries(VolumeFiles):
    """A folder with the files of one DICOM series, or with one such folder a patient.

    Slices are put in order by their positions, rescaled by slope and intercept, and stacked by the
    distance between positions. Compressed files are read. File names mean nothing. Everything below
    one first-level subfolder is one patient's, and so are folders that carry the same patient
    number. There are no labels: the case makes them up.

    Attributes:
        path: The folder.
        window: Least and greatest intensity, the bounds that images are clipped to. Null: -1000 to
            1000 HU for CT; for others each volume is scaled so that its 0.5th and 99.5th
            percentiles are 0 and 1.
        patients: ``header``: first-level subfolders with the same patient number are one patient's;
            ``folders``: each is a patient, whatever number an anonymisation gave them.
        one_subject: Take each place in a volume for a patient. Null: so for slices and blocks where
            there is one patient.
    """

    name: ClassVar[str] = "dicom_series"

    path: Path
    form: Form = "blocks"
    space: tuple[int, ...] = (16, 64, 64)
    patients: Literal["header", "folders"] = "header"
    one_subject: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.one_subject and self.form == "volumes":
            raise ValueError("one_subject needs form slices or blocks: a volume is one place")

    def open(self) -> Collection:
        """Return the images; whole volumes unread, slices and blocks after one look.

        Raises:
            DataError: The folder is not as it should be; the message names the file.
        """
        folders = _leaves(self.path)
        series = [read_series(folder, name_below(self.path, folder)) for folder in folders]
        modalities = sorted({s.modality for s in series})
        if len(modalities) > 1:
            raise DataError(
                f"{self.path} mixes {len(modalities)} modalities: give one kind of image"
            )
        ct = modalities == ["CT"]
        window = self.window or (BODY if ct else None)
        tops = [s.name.partition("/")[0] for s in series]
        patients = self._patients(series, tops)
        one = self.one_subject
        if one is None:
            one = self.form != "volumes" and len(set(patients)) == 1
        scans = [
            Scan(s.name, "subject" if one else patient, s.grid, loader(s.read, s.name, window))
            for s, patient in zip(series, patients, strict=True)
        ]
        told = {
            PLACES_NOTE: one,
            SAME_NUMBER_NOTE: len(set(patients)) < len(set(tops)),
            RELATIVE_NOTE: window is None,
        }
        unit = "HU" if ct else "arbitrary"
        return collect(scans, self.cut(window, one_subject=one), unit, note=notes(told))

    def _patients(self, series: Sequence[Series], folders: Sequence[str]) -> Sequence[str]:
        """Return whose each series is: the name of a first-level folder.

        Args:
            series: The series.
            folders: The first-level folder of each.

        Raises:
            DataError: Several folders all carry one number, which may be a placeholder.
        """
        if self.patients == "folders":
            return folders
        owners = _owners(
            (folder, f"number {s.patient}" if s.patient else folder)
            for folder, s in zip(folders, series, strict=True)
        )
        patients = [owners[folder] for folder in folders]
        if self.one_subject is None and len(set(patients)) == 1 < len(set(folders)):
            raise DataError(
                f"all {len(set(folders))} folders of {self.path} carry the same patient number: "
                "set case.data.patients=folders if they are different people, or "
                "case.data.one_subject=true if they are one"
            )
        return patients


def _owners(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the first of all names that pairs connect, directly or not, for each name."""
    owner: dict[str, str] = {}
    for a, b in pairs:
        joined = {owner.setdefault(a, a), owner.setdefault(b, owner[a])}
        first = next(name for name in owner if name in joined)
        owner = {name: first if now in joined else now for name, now in owner.items()}
    return owner


def _leaves(folder: Path) -> Iterator[Path]:
    """Yield the folders that hold files.

    Raises:
        DataError: A folder holds both files and folders.
    """
    inside = [path for path in children(folder) if path.name.upper() != "DICOMDIR"]
    folders = [path for path in inside if path.is_dir()]
    if folders and len(folders) < len(inside):
        raise DataError(f"{folder} holds both files and folders: give each series its own folder")
    if not folders:
        yield folder
    for below in folders:
        yield from _leaves(below)
