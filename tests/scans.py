"""DICOM series to read in tests, made of pydicom's CT slice."""

import numpy as np
import pydicom
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid


def write_series(
    folder, count=12, step=(0.0, 0.0, 2.5), rows=128, names="{:02d}.dcm", **attributes
):
    """Write shifted copies of the slice as one series.

    Args:
        folder: Where to; it is made.
        count: Number of slices.
        step: From one slice's position to the next, in mm.
        rows: Rows of each slice.
        names: Of the files: a pattern, or the slices' numbers in some order.
        attributes: Further attributes of each file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    first = np.array(file.ImagePositionPatient, dtype=float)
    stored = file.pixel_array[:rows]
    file.Rows, file.SeriesInstanceUID = rows, generate_uid()
    for k in range(count):
        file.SOPInstanceUID = file.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        file.ImagePositionPatient = [f"{v:.4f}" for v in first + k * np.array(step)]
        file.PixelData = np.roll(stored, 3 * k, axis=0).tobytes()
        for attribute, value in attributes.items():
            setattr(file, attribute, value)
        name = names.format(k) if isinstance(names, str) else str(names[k])
        file.save_as(folder / name)
    return folder
