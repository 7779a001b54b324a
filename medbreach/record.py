"""The run record: a folder, written append-only, from which everything else is made.

``run.json`` says what was asked for and with what software; ``findings.jsonl`` has one line a
finding; ``samples/`` holds the images of each attempt, ``claims/`` what was claimed of them (as
NIfTI too, for volumes). A kill at any moment leaves a readable record.
"""

import contextlib
import dataclasses
import fcntl
import json
import math
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medbreach.audit import Outcome
from medbreach.case import Sample
from medbreach.collection import Affine
from medbreach.errors import RecordError
from medbreach.settings import plain
from medbreach.types import SCHEMA, Finding, ImageSpec, Rate, Reconstruction, Role, Verdict

HEADER = "run.json"
FINDINGS = "findings.jsonl"


class Line(NamedTuple):
    """One line of ``findings.jsonl``.

    Attributes:
        id: Name of the attempt.
        sample: Name of the images that it was tried on; empty if there were none.
        finding: What it showed.
    """

    id: str
    sample: str
    finding: Finding


class Images(NamedTuple):
    """The images of an attempt, as recorded.

    Attributes:
        spec: What is known about them.
        truth: The records.
        labels: Their classes.
        decoys: The look-alikes.
        claims: What was claimed.
    """

    spec: ImageSpec
    truth: Tensor
    labels: Tensor
    decoys: Tensor
    claims: Tensor


class RunRecord:
    """A run folder.

    Args:
        folder: Where it lies.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(
        cls, folder: Path, header: Mapping[str, Any], *, overwrite: bool = False
    ) -> "RunRecord":
        """Make a new run folder with its header.

        Args:
            folder: Where; it must be empty or not there.
            header: Plain values.
            overwrite: Replace a run that is there already.

        Raises:
            RecordError: The folder holds something, or cannot be written.
        """
        if folder.exists() and not folder.is_dir():
            raise RecordError(f"{folder} is a file, not a folder: choose another --out")
        if folder.is_dir() and any(folder.iterdir()):
            _make_room(folder, overwrite=overwrite)
        with _speaking_of(folder):
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder / HEADER, json.dumps(encode({"schema": SCHEMA, **header}), indent=2))
            (folder / FINDINGS).touch()
        return cls(folder)

    @classmethod
    def open(cls, folder: Path) -> "RunRecord":
        """Open a run folder that is there.

        Raises:
            RecordError: There is none, or it is damaged or from a newer medbreach.
        """
        if not (folder / HEADER).is_file():
            raise RecordError(f"{folder} holds no run: {HEADER} is not there")
        record = cls(folder)
        schema = record.header().get("schema")
        if not isinstance(schema, int) or schema > SCHEMA:
            raise RecordError(
                f"{folder} has a record of schema {schema}; this medbreach reads up to {SCHEMA}"
            )
        return record

    def header(self) -> dict[str, Any]:
        """Return what was asked for and with what software.

        Raises:
            RecordError: It is damaged.
        """
        try:
            header = json.loads((self.folder / HEADER).read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise RecordError(f"{self.folder / HEADER} is damaged: {error}") from error
        if not isinstance(header, dict):
            raise RecordError(f"{self.folder / HEADER} is damaged: it holds no settings")
        return header

    def lines(self) -> list[Line]:
        """Return every finding in the order in which they were made.

        A last line that a kill cut short is left out.

        Raises:
            RecordError: Another line is damaged.
        """
        file = self.folder / FINDINGS
        if not file.is_file():
            return []
        *whole, _ = file.read_text().split("\n")
        lines = []
        for number, text in enumerate(whole, start=1):
            try:
                lines.append(_decode_line(json.loads(text)))
            except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
                raise RecordError(f"{file}, line {number}, is damaged: {error}") from error
        return lines

    def findings(self) -> dict[str, Finding]:
        """Return the findings by attempt id."""
        return {line.id: line.finding for line in self.lines()}

    def missing(self) -> list[str]:
        """Return the ids of attempts that have no finding yet."""
        done = self.findings()
        return [a for a in self.header().get("attempts", []) if a not in done]

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Keep other processes from writing to this run, and drop a line that was cut short.

        Raises:
            RecordError: Another process is writing to it.
        """
        with _speaking_of(self.folder):
            lock = (self.folder / ".lock").open("w")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RecordError(f"another process is writing to {self.folder}") from error
            with _speaking_of(self.folder):
                _drop_partial_line(self.folder / FINDINGS)
            yield

    def append(self, outcome: Outcome) -> None:
        """Record an outcome: first its images, then, in one line, its finding.

        Raises:
            RecordError: It cannot be written; what was there stays readable.
        """
        with _speaking_of(self.folder):
            sample = ""
            if outcome.sample is not None and outcome.claims is not None:
                sample = self._write_sample(outcome)
                self._write_claims(outcome.attempt.id, outcome, outcome.claims)
            line = {"id": outcome.attempt.id, "sample": sample, **plain(outcome.finding)}
            _append(self.folder / FINDINGS, json.dumps(encode(line), allow_nan=False) + "\n")
            self.checkpoint_file(outcome.attempt.id).unlink(missing_ok=True)

    def images(self, line: Line) -> Images | None:
        """Return the images of an attempt, or None if it had none.

        Raises:
            RecordError: They are missing or damaged.
        """
        if not line.sample:
            return None
        sample = _read_arrays(self.folder / "samples" / f"{line.sample}.npz")
        claims = _read_arrays(self.folder / "claims" / f"{line.id}.npz")
        spec = ImageSpec(**_tuples(json.loads(str(sample["spec"]))))
        return Images(
            spec,
            torch.from_numpy(sample["truth"]),
            torch.from_numpy(sample["labels"]),
            torch.from_numpy(sample["decoys"]),
            torch.from_numpy(claims["claims"]),
        )

    def checkpoint_file(self, attempt: str) -> Path:
        """Return where an attempt that is under way keeps what it needs to go on."""
        return self.folder / f".checkpoint-{attempt}.pt"

    def _write_sample(self, outcome: Outcome) -> str:
        sample, attempt = outcome.sample, outcome.attempt
        assert sample is not None
        control = f"{attempt.attack}-" if attempt.role is Role.SOLVABLE else ""
        name = f"{control}seed{attempt.seed}".replace("/", "_")
        file = self.folder / "samples" / f"{name}.npz"
        if not file.is_file():
            _write_arrays(
                file,
                truth=sample.truth.images.numpy(),
                labels=sample.truth.labels.numpy(),
                decoys=sample.decoys.numpy(),
                spec=np.array(json.dumps(plain(sample.spec))),
            )
        return name

    def _write_claims(self, attempt: str, outcome: Outcome, claims: Reconstruction) -> None:
        assert outcome.sample is not None
        arrays = {"claims": claims.images.numpy()}
        if claims.labels is not None:
            arrays["labels"] = claims.labels.numpy()
        if claims.confidence is not None:
            arrays["confidence"] = claims.confidence.numpy()
        _write_arrays(self.folder / "claims" / f"{attempt}.npz", **arrays)
        if len(outcome.sample.spec.space) == 3:
            folder = self.folder / "claims" / attempt
            folder.mkdir(parents=True, exist_ok=True)
            positions = _positions(outcome.finding, outcome.sample)
            for number, volume in enumerate(claims.images):
                file = folder / f"claim-{number:03d}.nii.gz"
                _write_volume(file, volume, outcome.sample.spec, positions.get(number))


def encode(value: Any) -> Any:
    """Return plain values as JSON can hold them: numbers that are not finite as strings.

    >>> encode({"psnr": [float("inf"), 1.0]})
    {'psnr': ['inf', 1.0]}
    """
    if isinstance(value, Mapping):
        return {k: encode(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _decode_line(values: dict[str, Any]) -> Line:
    identity, sample = values.pop("id"), values.pop("sample")
    known = {f.name for f in dataclasses.fields(Finding)}
    found = {k: _decode(v, k) for k, v in values.items() if k in known}
    found["role"], found["verdict"] = Role(found["role"]), Verdict(found["verdict"])
    if found.get("null") is not None:
        found["null"] = Rate(**found["null"])
    return Line(identity, sample, Finding(**found))


_TEXTS = {"case", "server", "attack", "defenses", "role", "verdict", "note", "device"}


def _decode(value: Any, key: str = "") -> Any:
    """Undo `encode`: lists to tuples, and strings to numbers but in fields that hold text."""
    if isinstance(value, list):
        return tuple(_decode(v, key) for v in value)
    if isinstance(value, dict):
        return {k: _decode(v) for k, v in value.items()}
    if isinstance(value, str) and key not in _TEXTS:
        return float(value)
    return value


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def _positions(finding: Finding, sample: Sample) -> dict[int, Affine | None]:
    """Return the position of the record behind each matched claim."""
    return {
        claim: sample.affines[record]
        for record, claim in enumerate(finding.matched)
        if claim is not None
    }


def _write_volume(file: Path, volume: Tensor, spec: ImageSpec, affine: Affine | None) -> None:
    """Write a volume as NIfTI; where its position is unknown, at the origin with its spacing."""
    import nibabel

    array = volume.permute(3, 2, 1, 0).numpy()  # x, y, z, channel
    array = array[..., 0] if spec.channels == 1 else array
    spacing = spec.spacing or (1.0, 1.0, 1.0)
    matrix = np.diag([*reversed(spacing), 1.0]) if affine is None else np.array(affine)
    image = nibabel.Nifti1Image(array, matrix)
    image.header.set_xyzt_units("mm")
    partial = file.with_name(f".{file.name}")
    nibabel.save(image, partial)
    partial.replace(file)


def _make_room(folder: Path, *, overwrite: bool) -> None:
    if not (folder / HEADER).is_file():
        raise RecordError(f"{folder} is not empty and holds no run: choose another --out")
    if not overwrite:
        raise RecordError(
            f"{folder} holds another run: choose another --out, go on with it by "
            f"'medbreach resume {folder}', or replace it with --overwrite"
        )
    shutil.rmtree(folder)


def _drop_partial_line(file: Path) -> None:
    text = file.read_bytes() if file.is_file() else b""
    if text and not text.endswith(b"\n"):
        with file.open("r+b") as stream:
            stream.truncate(text.rfind(b"\n") + 1)


def _append(file: Path, text: str) -> None:
    size = file.stat().st_size
    try:
        with file.open("a") as stream:
            stream.write(text)
            _flush(stream)
    except OSError:
        with file.open("r+b") as stream:
            stream.truncate(size)
        raise


def _write(file: Path, text: str) -> None:
    partial = file.with_name(f".{file.name}.partial")
    try:
        with partial.open("w") as stream:
            stream.write(text)
            _flush(stream)
        partial.replace(file)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _write_arrays(file: Path, **arrays: NDArray[Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    try:
        with partial.open("wb") as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
        partial.replace(file)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _read_arrays(file: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise RecordError(f"{file} is missing or damaged") from error


def _flush(stream: IO[str]) -> None:
    stream.flush()
    os.fsync(stream.fileno())


@contextlib.contextmanager
def _speaking_of(folder: Path) -> Iterator[None]:
    """Turn the operating system's errors into a sentence about a run folder."""
    try:
        yield
    except OSError as error:
        raise RecordError(
            f"{error.filename or folder} cannot be written: {error.strerror or error}; what was "
            f"recorded before is whole"
        ) from error
