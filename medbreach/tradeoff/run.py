"""Carrying a trade-off out: an audit, and a training of every stack, going on where it was."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch

from medbreach.encoding import as_read, encode
from medbreach.errors import InputError, ModelError, RecordError
from medbreach.randomness import Seeds
from medbreach.record import HEADER, RunRecord
from medbreach.session import Session, header
from medbreach.storage import (
    append_line,
    arrays_to_bytes,
    claim,
    drop_partial_line,
    packed,
    read_arrays,
    speaking_of,
    write_whole,
)
from medbreach.text import file_name, in_a_line
from medbreach.tradeoff.images import DealtImages
from medbreach.tradeoff.line import Line
from medbreach.tradeoff.predictions import Predictions, measure
from medbreach.tradeoff.training import FederatedTraining, State, Training

SETTING: Final = "setting.json"
LINES: Final = "trainings.jsonl"
AUDIT: Final = "audit"
CURVE: Final = 10  # looks at the accuracy on the way
CHECKPOINT_SECONDS: Final = 30.0

log = logging.getLogger(__name__)

Tell = Callable[[str, int, int], None]
"""Is told the stack, the seed, and how many rounds are done."""


@dataclass(frozen=True)
class Tradeoff:
    """A trade-off that is ready to be carried out.

    Attributes:
        session: The audit beside it: the same case, stacks and seeds.
        training: How the federation trains.
        folder: Where everything is kept.
        identity: What tells it from other trade-offs: a run that goes on must share it.
    """

    session: Session
    training: Training
    folder: Path
    identity: Mapping[str, Any]

    def open(self) -> None:
        """Make the folder, or go on with what it holds.

        Raises:
            RecordError: The folder holds something else.
        """
        claim(self.folder, SETTING, as_read(self.identity), "a trade-off")

    def run_record(self) -> RunRecord:
        """Return the audit's run record, made if it is not there yet.

        Raises:
            RecordError: It is damaged or cannot be written.
        """
        folder = self.folder / AUDIT
        if (folder / HEADER).is_file():
            return RunRecord.open(folder)
        settings = json.loads((self.folder / SETTING).read_text())["settings"]
        return RunRecord.create(folder, header(self.session, settings), overwrite=True)

    @property
    def trained_seeds(self) -> tuple[int, ...]:
        """The seeds that are trained for."""
        return self.session.plan.options.seed_numbers[: self.training.seeds]

    def lines(self) -> dict[tuple[str, int], Line]:
        """Return what the trainings that are done came to, by stack and seed.

        Raises:
            RecordError: The file is damaged.
        """
        file = self.folder / LINES
        if not file.is_file():
            return {}
        drop_partial_line(file)
        try:
            found = [Line.of(json.loads(text)) for text in file.read_text().splitlines()]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RecordError(f"{file} is damaged: choose another --out") from error
        return {(line.stack, line.seed): line for line in found}

    def predictions(self) -> dict[tuple[str, int], Predictions]:
        """Return what the trained networks say of test images, by stack and seed."""
        found = {}
        for key, line in self.lines().items():
            if not line.problem:
                arrays = read_arrays(self._file(*key), "probabilities", "labels", "patients")
                found[key] = Predictions(
                    *(torch.from_numpy(arrays[n]) for n in ("probabilities", "labels", "patients"))
                )
        return found

    def train(self, tell: Tell) -> Iterator[Line]:
        """Carry out every training that is missing; record each and yield it."""
        done = self.lines()
        for seed in self.trained_seeds:
            missing = [s for s in self.session.plan.stacks if (s, seed) not in done]
            for federation, stack in self._federations(missing, seed):
                line = self._trained(federation, stack, seed, tell)
                with speaking_of(self.folder):
                    append_line(self.folder / LINES, json.dumps(encode(asdict(line))))
                self._checkpoint(stack, seed).unlink(missing_ok=True)
                yield line

    def _trained(self, federation: FederatedTraining, stack: str, seed: int, tell: Tell) -> Line:
        """Return what a training came to, whatever a plugin does in it.

        Raises:
            InputError: The input is unusable, or nothing can be written.
        """
        given = federation.guarantees()
        try:
            state, curve = self._played(federation, stack, seed, tell)
            self._finish(federation, state, stack, seed)
        except Exception as error:
            if isinstance(error, InputError) and not isinstance(error, ModelError):
                raise
            log.debug("the training with %s came to nothing", stack, exc_info=error)
            return Line(stack, seed, problem=in_a_line(error), guarantees=given)
        return Line(stack, seed, state.rounds, state.seconds, "", tuple(curve), given)

    def _federations(
        self, stacks: Sequence[str], seed: int
    ) -> Iterator[tuple[FederatedTraining, str]]:
        """Yield the training of each stack with one seed; all share their images."""
        if not stacks:
            return
        plan, seeds = self.session.plan, Seeds(seed)
        options, collection = plan.options, self.session.collection
        images = DealtImages(plan.case, collection, seeds, options.decoys, options.public)
        for stack in stacks:
            yield (
                FederatedTraining(
                    plan.case, self.training, plan.stacks[stack], images, seeds, self.session.device
                ),
                stack,
            )

    def _played(
        self, federation: FederatedTraining, stack: str, seed: int, tell: Tell
    ) -> tuple[State, list[tuple[int, float]]]:
        """Play every round; keep a checkpoint now and then."""
        total = self.training.rounds
        looks = {round(total * k / CURVE) for k in range(1, CURVE + 1)}
        state, curve = federation.start(), list[tuple[int, float]]()
        self._go_on(state, curve, stack, seed)
        saved = time.monotonic()

        def after(state: State) -> None:
            nonlocal saved
            if state.rounds in looks:
                curve.append((state.rounds, measure(federation.predictions(state))["accuracy"]))
            tell(stack, seed, state.rounds)
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                saved = time.monotonic()
                self._save(self._checkpoint(stack, seed), {**state.keep(), "curve": curve})

        return federation.go_on(state, after), curve

    def _go_on(self, state: State, curve: list[tuple[int, float]], stack: str, seed: int) -> None:
        """Go on from a checkpoint if there is one that can be read; else from the start."""
        file = self._checkpoint(stack, seed)
        try:
            kept = torch.load(file, map_location=self.session.device, weights_only=True)
        except FileNotFoundError:
            return
        except Exception:  # noqa: BLE001 - cut off in the middle, or of another torch: begin anew
            file.unlink()
            return
        curve += [(int(r), float(a)) for r, a in kept.pop("curve")]
        state.go_on(kept)

    def _save(self, file: Path, kept: Mapping[str, Any]) -> None:
        with speaking_of(self.folder):
            write_whole(file, packed(kept))

    def _finish(self, federation: FederatedTraining, state: State, stack: str, seed: int) -> None:
        """Keep what the trained network says of test images, and its weights."""
        said = federation.predictions(state)
        arrays = arrays_to_bytes(
            probabilities=said.probabilities.numpy(),
            labels=said.labels.numpy(),
            patients=said.patients.numpy(),
        )
        weights = {name: tensor.cpu() for name, tensor in state.model.state_dict().items()}
        with speaking_of(self.folder):
            self._file(stack, seed).parent.mkdir(exist_ok=True)
            self.weights(stack, seed).parent.mkdir(exist_ok=True)
        self._save(self.weights(stack, seed), weights)
        with speaking_of(self.folder):
            write_whole(self._file(stack, seed), arrays)

    def weights(self, stack: str, seed: int) -> Path:
        """Return the file of a trained network's weights."""
        return self.folder / "weights" / f"{_name(stack)}--seed{seed}.pt"

    def _file(self, stack: str, seed: int) -> Path:
        return self.folder / "predictions" / f"{_name(stack)}--seed{seed}.npz"

    def _checkpoint(self, stack: str, seed: int) -> Path:
        return self.folder / f".checkpoint-{_name(stack)}-{seed}.pt"


def _name(stack: str) -> str:
    """Return a stack's name fit for a file, unlike that of any other stack."""
    return f"{file_name(stack)[:80]}-{hashlib.sha256(stack.encode()).hexdigest()[:6]}"
