"""Nothing of a DICOM header's patient reaches a record or a report."""

import gzip
import zipfile

import pytest
from scans import write_series

from medbreach.report import render, write_reports

PRIVATE = {
    "PatientName": "Quixano^Alonso",
    "PatientID": "MRN-4711-0815",
    "PatientBirthDate": "15470929",
    "PatientAddress": "Un lugar de la Mancha",
    "InstitutionName": "Hospital de Toledo",
    "ReferringPhysicianName": "Carrasco^Sanson",
    "StudyDescription": "Windmill injury",
    "AccessionNumber": "ACC-1605",
}


@pytest.fixture
def series(tmp_path):
    return write_series(tmp_path / "series", count=8, **PRIVATE)


def test_no_patient_field_gets_out(run_audit, series, tmp_path):
    record = run_audit(
        tmp_path / "run",
        "case=brain_mr_3d",
        "case/data=dicom_series",
        f"case.data.path={series}",
        "case.data.space=[4,32,32]",
        "case/server=malicious-model-rtf",
        "attack=imprint",
        "case.user.num_data_points=2",
        "audit.null_draws=2",
    )
    write_reports(record)
    for form in ("html", "json", "text", "junit"):
        assert_anonymous(render(record, form).encode())
    for file in record.folder.rglob("*"):
        if file.is_file():
            assert_anonymous(unpacked(file))


def unpacked(file):
    if file.suffix == ".npz":
        with zipfile.ZipFile(file) as archive:
            return b"".join(archive.read(name) for name in archive.namelist())
    return gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()


def assert_anonymous(content):
    words = [word for value in PRIVATE.values() for word in (value, *value.split("^"))]
    for word in words:
        assert word.encode() not in content
