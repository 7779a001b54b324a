"""Carrying the reproduction out; the same command goes on where it was."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from medbreach.errors import RecordError
from medbreach.storage import speaking_of, write_whole
from medbreach_federation import Cluster, RoundLine, run_federation
from medbreach_fedsafe import learner as clients
from medbreach_fedsafe.learner import learner_of
from medbreach_fedsafe.measures import Answers
from medbreach_fedsafe.reproduction.attackers import (
    Attacker,
    Trained,
    grid_attackers,
    main_attackers,
    some_of,
)
from medbreach_fedsafe.reproduction.setting import ARMS, Arm, Setting
from medbreach_fedsafe.rule import FedSafeRule
from medbreach_fedsafe.settings import FILE, Setup
from medbreach_fedsafe.shares import Shares, share_out

PAST = 11  # global networks that the server remembers

Tell = Callable[[str], None]


class Row(NamedTuple):
    """One arm, trained and attacked.

    Attributes:
        arm: What was tried.
        answers: Of each seed, by attacker.
        times: Seconds of computing in each round, without the first: all clients' and the server's
            together, and the server's.
        curve: Accuracy of the global network after each round, of the first seed.
        buffers: Whether the network sends buffers.
    """

    arm: Arm
    answers: Mapping[str, Sequence[Answers]]
    times: Sequence[tuple[float, float]]
    curve: Sequence[float]
    buffers: bool

    @property
    def seconds(self) -> float:
        """Computing time of a round: the median."""
        return statistics.median(whole for whole, _ in self.times)

    @property
    def server(self) -> float:
        """The server's part of it: the median."""
        return statistics.median(server for _, server in self.times)


class Made(NamedTuple):
    """Everything that was computed.

    Attributes:
        setting: What was reproduced.
        rows: Every arm.
        shares: The images of the first seed.
        trained: The first seed's federation of each of the four arms, by name.
    """

    setting: Setting
    rows: Sequence[Row]
    shares: Shares
    trained: Mapping[str, Trained]

    def row(self, name: str) -> Row:
        """Return an arm by its name."""
        return next(row for row in self.rows if row.arm.name == name)

    def like(self, arm: Arm) -> Row:
        """Return the row of the arm that does the same."""
        return next(row for row in self.rows if row.arm.fedsafe == arm.fedsafe)


def compute(setting: Setting, folder: Path, device: torch.device, tell: Tell) -> Made:
    """Train and attack everything that a folder lacks.

    Args:
        setting: What to reproduce, and on what.
        folder: Where everything is kept.
        device: Where to compute.
        tell: Is told how far it is.

    Raises:
        InputError: The images do not fit, or the folder holds something else.
    """
    _, shares = share_out(setting.case, 0, 0.5)
    rows, trained = [], {}
    for number, arm in enumerate(setting.arms, start=1):
        tell(f"{number} of {len(setting.arms)}: {arm.name}")
        row, first = _one_arm(setting, arm, folder, device, tell)
        rows.append(row)
        if arm.name in ARMS:
            trained[arm.name] = first
    return Made(setting, rows, shares, trained)


def _one_arm(
    setting: Setting, arm: Arm, folder: Path, device: torch.device, tell: Tell
) -> tuple[Row, Trained]:
    attackers = attackers_of(setting, arm)
    answers: dict[str, list[Answers]] = {attacker.name: [] for attacker in attackers}
    times: list[RoundLine] = []
    made: list[tuple[Trained, Sequence[RoundLine]]] = []
    for seed in range(setting.scale.seeds):
        trained, lines = _trained(setting, arm, folder / _slug(arm.name) / f"{seed}", seed, device)
        told = f"  trained, seed {seed}: accuracy {lines[-1].evaluation['accuracy']:.1%}"
        tell(f"{told}, {sum(line.seconds for line in lines):.0f} s")
        for name, one in trained.answers(attackers).items():
            answers[name].append(one)
        times += lines[2:] or lines[1:]
        made.append((trained, lines))
    row = Row(
        arm,
        answers,
        [(_clients(line) + _server(line), _server(line)) for line in times],
        [line.evaluation["accuracy"] for line in made[0][1]],
        len(made[0][0].learner.trained) < len(made[0][0].learner.first()),
    )
    return row, made[0][0]


def attackers_of(setting: Setting, arm: Arm) -> list[Attacker]:
    """Return who attacks an arm: all of them the four arms, and the first of them the others."""
    main = main_attackers(setting.eps, setting.scale)
    return [*main, *grid_attackers(setting.scale)] if arm.name in ARMS else main[:1]


def _trained(
    setting: Setting, arm: Arm, folder: Path, seed: int, device: torch.device
) -> tuple[Trained, Sequence[RoundLine]]:
    """Play an arm's federation as far as it is not played yet.

    Raises:
        RecordError: The folder holds another one.
    """
    setup = setting.setup(arm, seed, str(device))
    if (folder / FILE).is_file() and _others(Setup.read(folder)) != _others(setup):
        raise RecordError(f"{folder} holds a federation of other settings: choose another --out")
    with speaking_of(folder):
        setup.write(folder)
    learner = learner_of(setup)
    rule = FedSafeRule.beside(learner, seed, PAST)
    gpus = 1.0 / learner.clients if device.type == "cuda" else 0.0
    lines = run_federation(
        folder, clients.build, rule, setting.scale.rounds, seed=seed, cluster=Cluster(gpus=gpus)
    )
    if len(lines) != setting.scale.rounds + 1:
        raise RecordError(
            f"{folder} holds {len(lines) - 1} rounds, not {setting.scale.rounds}: choose another "
            "--out"
        )
    test = some_of(learner.shares.test, setting.scale.images)
    return Trained(folder, learner, rule, setting.scale.rounds, seed, test), lines


def _others(setup: Setup) -> Setup:
    """Return a setup without what may change from one session to the next."""
    return dataclasses.replace(setup, device="cpu")


def _clients(line: RoundLine) -> float:
    return sum(measures["seconds"] for measures in line.clients.values())


def _server(line: RoundLine) -> float:
    return line.measures["server_seconds"]


def _slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() or c == "." else " " for c in name).split())


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Write the tables."""
    with speaking_of(folder):
        for name, text in files.items():
            write_whole(folder / name, text.encode())
