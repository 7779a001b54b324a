"""Scans that TotalSegmentator ships in its source distribution to test itself."""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from medbreach.errors import DataError

RELEASE: Final = "2.18.0"
SDIST: Final = "5d4223ef93973bc36d710869d11e7742ead2c154c72f7f9edcaaadd5b6c4bd03"
INSIDE: Final = PurePosixPath(f"totalsegmentator-{RELEASE}/tests/reference_files")


class Member(NamedTuple):
    """A file, or a folder of files, in the distribution.

    Attributes:
        path: Its path below the reference files.
        sha256: Sum of the file, or of a folder's files one after the other in order of name.
    """

    path: str
    sha256: str


CHEST_CT: Final = Member(
    "aorta_report/example_ct.nii.gz",
    "372d98723e3283a8d4a0ae2f0ef1e581c0ad17b673b30b2e8d3e215180cc2a12",
)
ABDOMEN_MR: Final = Member(
    "example_mr_sm.nii.gz", "209b46efaff595dd54a9332872e17a722b62654bbb68dbd89acd5090701bbd4f"
)
TRUNK_CT: Final = Member(
    "example_ct.nii.gz", "dbd3ae6d614d1d7ef3a46925c30c70038ed52da6b37fdd6afdc7b9b71387e3e1"
)
DICOM_CT: Final = Member(
    "example_ct_dicom", "8029e094aa3e24ca7c39b5acf697af594b8f56a959a35241c32e5b225bc9277a"
)
MEMBERS: Final = (CHEST_CT, ABDOMEN_MR, TRUNK_CT, DICOM_CT)


def cache() -> Path:
    """Return the folder that fetched files are kept in."""
    own = os.environ.get("MEDBREACH_CACHE")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared).expanduser() if shared else Path.home() / ".cache") / "medbreach"


def folder() -> Path:
    """Return the folder that the scans are kept in."""
    return cache() / f"totalsegmentator-{RELEASE}"


def missing(member: Member, name: str) -> str:
    """Return that a scan is not here and how to get it, or ``""``."""
    if (folder() / member.path).exists():
        return ""
    return f"the images of {name} are not on this machine: run medbreach data fetch {name}"


def located(member: Member, name: str) -> Path:
    """Return where a scan lies.

    Raises:
        DataError: It is not here, or is not as it was fetched.
    """
    problem = missing(member, name)
    if problem:
        raise DataError(problem)
    path = folder() / member.path
    if _sum(path) != member.sha256:
        raise DataError(f"{path} is damaged: remove {folder()} and run medbreach data fetch {name}")
    return path


def fetch() -> str:
    """Download the distribution and keep its scans; return where they lie.

    The distribution's sum is in the requirement, so pip refuses another one before it runs any of
    its code.

    Raises:
        DataError: It cannot be downloaded, or is not what was expected.
    """
    if all((folder() / m.path).exists() and _sum(folder() / m.path) == m.sha256 for m in MEMBERS):
        return str(folder())
    try:
        cache().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache()) as work:
            sdist = _download(Path(work))
            _extract(sdist, Path(work) / "scans")
            shutil.rmtree(folder(), ignore_errors=True)
            (Path(work) / "scans").rename(folder())
    except OSError as error:
        raise DataError(f"the scans cannot be kept in {cache()}: {error.strerror}") from error
    return str(folder())


def _download(work: Path) -> Path:
    requirement = work / "requirement.txt"
    requirement.write_text(f"TotalSegmentator=={RELEASE} --hash=sha256:{SDIST}\n")
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-binary", "TotalSegmentator", "-d", str(work), "-r", str(requirement)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = list(work.glob("*.tar.gz"))
    if done.returncode or len(found) != 1:
        said = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        raise DataError(f"pip cannot download TotalSegmentator {RELEASE}: {said[-1]}")
    if _sum(found[0]) != SDIST:
        raise DataError(f"{found[0].name} is not the published TotalSegmentator {RELEASE}")
    return found[0]


def _extract(sdist: Path, target: Path) -> None:
    """Write the wanted files, and only those, each under a name made here.

    Raises:
        DataError: The archive is damaged, or a file is missing or not as expected.
    """
    try:
        with tarfile.open(sdist) as archive:
            for entry in archive:
                path = PurePosixPath(entry.name)
                if not entry.isfile() or not _wanted(path):
                    continue
                place = target / path.relative_to(INSIDE)
                place.parent.mkdir(parents=True, exist_ok=True)
                content = archive.extractfile(entry)
                assert content is not None
                place.write_bytes(content.read())
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{sdist.name} is damaged: try again") from error
    for member in MEMBERS:
        path_here = target / member.path
        if not path_here.exists() or _sum(path_here) != member.sha256:
            raise DataError(f"{sdist.name} does not hold {member.path} as it was published")


def _wanted(path: PurePosixPath) -> bool:
    if ".." in path.parts or not path.is_relative_to(INSIDE):
        return False
    below = path.relative_to(INSIDE)
    return any(
        below == PurePosixPath(m.path) or PurePosixPath(m.path) in below.parents for m in MEMBERS
    )


def _sum(path: Path) -> str:
    files = [path] if path.is_file() else sorted(path.iterdir(), key=lambda file: file.name)
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
