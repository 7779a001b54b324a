"""A federation that can be worked out by hand: clients pull a vector to their own numbers."""

import json
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from medbreach_federation import Instruction, Learner, Result, Weights

SLEEP = 600  # seconds


class Pull(Learner):
    """Client k adds k + 1 and its count of rounds so far; settings make clients misbehave."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        file = folder / "toy.json"
        self._settings = json.loads(file.read_text()) if file.is_file() else {}

    @property
    def clients(self) -> int:
        return int(self._settings.get("clients", 4))

    def first(self) -> Weights:
        return {"w": torch.zeros(3), "n": torch.zeros((), dtype=torch.long)}

    def train(self, instruction: Instruction) -> Result:
        k = instruction.client
        fault = self._settings.get("faults", {}).get(f"{k}/{instruction.round}", "")
        if fault:
            self._misbehave(fault, k, instruction.round)
        visits = int(instruction.memory.get("visits", 0)) + 1
        weights = {"w": instruction.weights["w"] + k + 1, "n": instruction.weights["n"] + visits}
        if fault == "nan":
            weights["w"] = weights["w"] / 0 * 0
        if fault == "shape":
            weights["w"] = weights["w"][:2]
        if fault == "names":
            del weights["n"]
        if fault == "double":
            weights["w"] = weights["w"].double()
        records = float("nan") if fault == "records" else 10 * (k + 1)
        return Result(weights, records, {"visits": visits}, {"visits": visits})

    def _misbehave(self, fault: str, client: int, number: int) -> None:
        if fault == "raise":
            raise RuntimeError("no such scanner")
        if fault == "sleep":
            time.sleep(SLEEP)
        once = self._folder / f"killed-{client}-{number}"
        if fault == "die" or (fault == "die once" and not once.exists()):
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def evaluate(self, round: int, weights: Weights) -> Mapping[str, float]:
        return {"sum": float(weights["w"].sum())}


def build(folder: Path) -> Learner:
    return Pull(folder)
