"""The run record: a folder, written append-only, from which everything else is made.

``run.json`` says what was asked for and with what software; ``findings.jsonl`` has one line a
finding; ``samples/`` holds the images of each attempt, ``claims/`` what was claimed of them (as
NIfTI too, for volumes). A kill at any moment leaves a readable record.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from medbreach.audit import Outcome
from medbreach.case import Sample
from medbreach.collection import Affine
from medbreach.encoding import Line as Line
from medbreach.encoding import encode as encode
from medbreach.encoding import line_from_json, line_to_json
from medbreach.errors import RecordError
from medbreach.settings import plain
from medbreach.storage import (
    LOCK,
    PARTIAL,
    append_line,
    arrays_to_bytes,
    drop_partial_files,
    drop_partial_line,
    locked,
    read_arrays,
    speaking_of,
    volume_to_bytes,
    write_whole,
)
from medbreach.text import file_name
from medbreach.types import SCHEMA, Finding, ImageSpec, Reconstruction, Role

HEADER: Final = "run.json"
FINDINGS: Final = "findings.jsonl"
SAMPLES: Final = "samples"
CLAIMS: Final = "claims"
SAME: Final = 1e-5  # of the bounds: how far apart the same image may be on two machines

_OURS: Final = (
    HEADER, FINDINGS, SAMPLES, CLAIMS, LOCK,
    "report.*", "report-redacted.*", ".checkpoint-*", f"*{PARTIAL}",
)  # fmt: skip


class Images(NamedTuple):
    """The images of an attempt, as recorded.

    Attributes:
        spec: What is known about them.
        truth: The records.
        labels: Their classes.
        decoys: Images of other patients.
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
            RecordError: The folder holds something, or cannot be written; nothing is left then.
        """
        refuse_taken(folder, overwrite=overwrite)
        with _undone(folder), speaking_of(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder):
                _clear(folder)
                content = json.dumps(encode({"schema": SCHEMA, **header}), indent=2)
                write_whole(folder / HEADER, content.encode())
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
        header = record.header()
        schema = header.get("schema")
        if not isinstance(schema, int) or schema > SCHEMA:
            raise RecordError(
                f"{folder} has a record of schema {schema}; this medbreach reads up to {SCHEMA}"
            )
        if not isinstance(header.get("attempts"), list):
            raise RecordError(f"{folder / HEADER} is damaged: it has no attempts")
        settings = header.get("settings")
        for key in ("case", "attacks", "stacks", "audit"):
            if not isinstance(settings, dict) or not isinstance(settings.get(key), dict):
                raise RecordError(f"{folder / HEADER} is damaged: it has no settings of the {key}")
        return record

    def header(self) -> dict[str, Any]:
        """Return what was asked for and with what software.

        Raises:
            RecordError: It is damaged.
        """
        try:
            header = json.loads((self.folder / HEADER).read_bytes())
        except (OSError, ValueError) as error:
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
        try:
            *whole, _ = file.read_bytes().split(b"\n") if file.exists() else [b""]
        except OSError as error:
            raise RecordError(f"{file} cannot be read: {error.strerror}") from error
        lines = []
        for number, text in enumerate(whole, start=1):
            try:
                lines.append(line_from_json(text.decode()))
            except ValueError as error:
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
        """Keep other processes from writing to this run, and drop what a kill left half written.

        Raises:
            RecordError: Another process is writing to it.
        """
        with locked(self.folder):
            with speaking_of(self.folder):
                drop_partial_line(self.folder / FINDINGS)
                drop_partial_files(self.folder)
                for attempt in self.findings():
                    self.checkpoint_file(attempt).unlink(missing_ok=True)
            yield

    def append(self, outcome: Outcome) -> None:
        """Record an outcome: first its images, then, in one line, its finding.

        Raises:
            RecordError: It cannot be written; what was there stays readable. Or the images are not
                those that the run began with.
        """
        with speaking_of(self.folder):
            name = ""
            if outcome.sample is not None and outcome.claims is not None:
                name = self._write_sample(outcome, outcome.sample)
                self._write_claims(outcome, outcome.sample, outcome.claims)
            line = Line(outcome.attempt.id, name, outcome.finding)
            append_line(self.folder / FINDINGS, line_to_json(line))
            self.checkpoint_file(outcome.attempt.id).unlink(missing_ok=True)

    def images(self, line: Line) -> Images | None:
        """Return the images of an attempt, or None if it had none.

        Raises:
            RecordError: They are missing or damaged.
        """
        if not line.sample:
            return None
        file = self.folder / SAMPLES / f"{line.sample}.npz"
        sample = read_arrays(file, "spec", "truth", "labels", "decoys")
        claims = read_arrays(self.folder / CLAIMS / f"{line.id}.npz", "claims")
        try:
            spec = ImageSpec(**_tuples(json.loads(str(sample["spec"]))))
        except (ValueError, TypeError, AttributeError) as error:
            raise RecordError(f"{file} is damaged") from error
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

    def _write_sample(self, outcome: Outcome, sample: Sample) -> str:
        """Write the images that attempts of one seed share; return their name.

        Raises:
            RecordError: Others are there already.
        """
        attempt = outcome.attempt
        control = f"{attempt.attack}-" if attempt.role is Role.SOLVABLE else ""
        name = file_name(f"{control}seed{attempt.seed}")
        file = self.folder / SAMPLES / f"{name}.npz"
        truth = sample.truth
        if not file.exists():
            content = arrays_to_bytes(
                truth=truth.images.numpy(),
                labels=truth.labels.numpy(),
                decoys=sample.decoys.numpy(),
                spec=np.array(json.dumps(plain(sample.spec))),
            )
            write_whole(file, content)
            return name
        there, ours = read_arrays(file, "truth")["truth"], truth.images.numpy()
        near = SAME * sample.spec.range
        if there.shape != ours.shape or not np.allclose(there, ours, rtol=0, atol=near):
            raise RecordError(f"the images are not those that {self.folder} began with")
        return name

    def _write_claims(self, outcome: Outcome, sample: Sample, claims: Reconstruction) -> None:
        optional = {"labels": claims.labels, "confidence": claims.confidence}
        arrays = {name: values.numpy() for name, values in optional.items() if values is not None}
        attempt = outcome.attempt.id
        content = arrays_to_bytes(claims=claims.images.numpy(), **arrays)
        write_whole(self.folder / CLAIMS / f"{attempt}.npz", content)
        if len(sample.spec.space) < 3:
            return
        positions = _positions(outcome.finding, sample)
        for number, volume in enumerate(claims.images):
            content = volume_to_bytes(volume, sample.spec, positions.get(number))
            write_whole(self.folder / CLAIMS / attempt / f"claim-{number:03d}.nii.gz", content)


def refuse_taken(folder: Path, *, overwrite: bool = False) -> None:
    """Refuse a folder that cannot become a run's.

    Args:
        folder: Where a run is to be written.
        overwrite: Whether a run that is there may be replaced.

    Raises:
        RecordError: It is a file, or holds something else than a run that may be replaced.
    """
    with speaking_of(folder):
        if not folder.is_dir():
            if folder.exists() or folder.is_symlink():
                raise RecordError(f"{folder} is a file, not a folder: choose another --out")
            return
        inside = sorted(p for p in folder.iterdir() if not p.name.endswith((PARTIAL, LOCK)))
    if inside and not (folder / HEADER).is_file():
        raise RecordError(f"{folder} is not empty and holds no run: choose another --out")
    if inside and not overwrite:
        raise RecordError(
            f"{folder} holds another run: choose another --out, go on with it by "
            f"'medbreach resume {folder}', or replace it with --overwrite"
        )
    strange = [path.name for path in inside if not any(path.match(ours) for ours in _OURS)]
    if strange:
        raise RecordError(
            f"{folder} holds {strange[0]}, which no run has written, and is not replaced: choose "
            "another --out"
        )


def _clear(folder: Path) -> None:
    """Empty a folder that `refuse_taken` let pass; its lock is ours."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


@contextlib.contextmanager
def _undone(folder: Path) -> Iterator[None]:
    """Remove a folder, and those around it that were made for it, if anything goes wrong."""
    made = next((p for p in (*reversed(folder.parents), folder) if not p.exists()), None)
    try:
        yield
    except BaseException:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)
        raise


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def _positions(finding: Finding, sample: Sample) -> dict[int, Affine | None]:
    """Return the position of the record behind each matched claim."""
    return {
        claim: sample.affines[record]
        for record, claim in enumerate(finding.matched)
        if claim is not None
    }
