"""A folder of NIfTI volumes."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Final, Literal

from medbreach.collection import Collection
from medbreach.datasets.cutting import Scan, collect
from medbreach.datasets.folders import Labels, check_pattern, list_files, patient_of
from medbreach.datasets.nifti import NIFTI, read_grid, read_volume
from medbreach.datasets.scans import PLACES_NOTE, RELATIVE_NOTE, VolumeFiles, loader, notes
from medbreach.errors import DataError

ALONE_NOTE: Final = "each file is taken for a patient of its own"
LUNG: Final = (-1000.0, 400.0)  # HU: air to trabecular bone


@dataclass(frozen=True, kw_only=True)
class NiftiFolder(VolumeFiles):
    """NIfTI volumes (``.nii``, ``.nii.gz``), in class subfolders or without classes.

    Everything from one file is one patient's, unless ``patients`` or ``one_subject`` says
    otherwise. Without a ``window`` each volume is scaled so that its 0.5th and 99.5th percentiles
    are 0 and 1: right for MR, whose intensities mean nothing across volumes, wrong for CT.

    Attributes:
        path: The folder.
        preset: ``MosMedData``: class folders ``CT-0`` to ``CT-4``, in ``studies`` if there is one,
            and the window -1000 to 400 HU unless another is set.
        unit: Unit of the intensities: ``HU`` for CT.
        labels: ``folders``: the class is the subfolder, classes in order of name; ``arbitrary``:
            folders mean nothing, and the case makes labels up.
        patients: Regular expression, searched for in each file's path below ``path``; its one group
            is the patient. Null: each file is a patient of its own.
        one_subject: Take each place in a volume for a patient: for slices or blocks of volumes that
            are all of one person.
    """

    name: ClassVar[str] = "nifti_folder"

    path: Path
    preset: Literal["MosMedData"] | None = None
    unit: str = "arbitrary"
    labels: Labels = "folders"
    patients: str | None = None
    one_subject: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_pattern(self.patients)
        if self.one_subject and self.form == "volumes":
            raise ValueError("one_subject needs form slices or blocks: a volume is one place")

    def open(self) -> Collection:
        """Return the images; whole volumes unread, slices and blocks after one look.

        Raises:
            DataError: The folder is not as it should be; the message names the file.
        """
        folder, window, unit = self.path, self.window, self.unit
        if self.preset == "MosMedData":
            folder = folder / "studies" if (folder / "studies").is_dir() else folder
            window, unit = window or LUNG, "HU"
        files, classes = list_files(folder, NIFTI, self.labels)
        scans = [
            Scan(
                name=file.name,
                patient="subject" if self.one_subject else patient_of(file.name, self.patients),
                grid=read_grid(file.path, file.name),
                load=loader(partial(read_volume, file.path, file.name), file.name, window),
                label=file.label,
            )
            for file in files
        ]
        if self.form != "volumes" and not self.one_subject and len({s.patient for s in scans}) == 1:
            raise DataError(
                f"{folder} holds the volumes of one patient: add other patients', or set "
                "case.data.one_subject=true to take places for patients"
            )
        told = {
            PLACES_NOTE: self.one_subject,
            ALONE_NOTE: not self.one_subject and self.patients is None,
            RELATIVE_NOTE: window is None,
        }
        cut = self.cut(window, one_subject=self.one_subject)
        return collect(scans, cut, unit, classes, notes(told))
