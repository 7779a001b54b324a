"""Carrying the reproduction out; the same command goes on where it was."""

import dataclasses
import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from medbreach.errors import ContractError, RecordError
from medbreach.storage import speaking_of, write_whole
from medbreach_federation import Cluster, RoundLine, ray_kept, run_federation
from medbreach_fedsafe import learner as clients
from medbreach_fedsafe.learner import learner_of
from medbreach_fedsafe.measures import Answers
from medbreach_fedsafe.reproduction.attackers import (
    MAIN,
    Attacker,
    Trained,
    grid_attackers,
    main_attackers,
    some_of,
)
from medbreach_fedsafe.reproduction.setting import ARMS, NOISE, POOL_SHARE, UPLINK, Arm, Setting
from medbreach_fedsafe.rule import FedSafeRule
from medbreach_fedsafe.settings import FILE, Setup
from medbreach_fedsafe.shares import Shares, share_out

PAST = 11  # global networks that the server of one of the four arms remembers
PUBLISHED = f"{NOISE}, {UPLINK}"  # the arm that numbers were published of

Tell = Callable[[str], None]


class Row(NamedTuple):
    """One arm, trained and attacked.

    Attributes:
        arm: What was tried.
        answers: Of each seed, by attacker.
        times: Seconds of computing in each round, without the first: all clients' and the server's
            together, and the server's.
        curve: Accuracy of the global network after each round, the mean over seeds.
        buffers: Whether the network sends buffers.
    """

    arm: Arm
    answers: Mapping[str, Sequence[Answers]]
    times: Sequence[tuple[float, float]]
    curve: Sequence[float]
    buffers: bool

    @property
    def main(self) -> Sequence[Answers]:
        """The answers to the attack of the main tables, of each seed."""
        return self.answers[MAIN]

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
        ContractError: A client failed.
    """
    images = checked(setting)
    _, shares = share_out(setting.case, 0, POOL_SHARE)
    if shares.in_two_classes:
        tell(mixed(shares))
    rows, trained = [], {}
    with ray_kept():
        for number, arm in enumerate(setting.arms, start=1):
            tell(f"{number} of {len(setting.arms)}: {arm.name}")
            row, first = _one_arm(setting, arm, folder, device, images, tell)
            rows.append(row)
            if arm.name in ARMS:
                trained[arm.name] = first
    return Made(setting, rows, shares, trained)


def checked(setting: Setting) -> list[str]:
    """Read every image of every role; return each seed's fingerprint of them.

    Raises:
        InputError: The images do not fit with one of the seeds, or one cannot be read.
    """
    seeds = [share_out(setting.case, seed, POOL_SHARE)[1] for seed in range(setting.scale.seeds)]
    for shares, arm in itertools.product(seeds, setting.arms):
        if arm.fedsafe.retraining.share:
            shares.count_of(arm.fedsafe.retraining.share)
    known: dict[int, bytes] = {}
    return [shares.fingerprint(known) for shares in seeds]


def mixed(shares: Shares) -> str:
    """Return a warning of patients with images of several classes."""
    who = shares.in_two_classes
    return (
        f"{len(who)} {shares.collection.patients_are} have images of more than one class, "
        f"{who[0]!r} for one, and clients keep those of one class only: if these are different "
        "people, put what tells them apart, such as the class folder, into --patients' group."
    )


def _one_arm(
    setting: Setting,
    arm: Arm,
    folder: Path,
    device: torch.device,
    images: Sequence[str],
    tell: Tell,
) -> tuple[Row, Trained]:
    attackers = attackers_of(setting, arm)
    answers: dict[str, list[Answers]] = {attacker.name: [] for attacker in attackers}
    times: list[RoundLine] = []
    made: list[tuple[Trained, Sequence[RoundLine]]] = []
    for seed in range(setting.scale.seeds):
        setup = setting.setup(arm, seed, str(device), images[seed])
        trained, lines = _trained(setting, arm, folder / _slug(arm.name) / f"{seed}", setup)
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
        [
            statistics.fmean(line.evaluation["accuracy"] for line in round)
            for round in zip(*(lines for _, lines in made), strict=True)
        ],
        len(made[0][0].learner.trained) < len(made[0][0].learner.first()),
    )
    return row, made[0][0]


def attackers_of(setting: Setting, arm: Arm) -> list[Attacker]:
    """Return who attacks an arm: all of them the four arms, and the first of them the others.

    Beside published numbers goes the arm that they are of, attacked as published.
    """
    main = main_attackers(setting.eps, setting.scale)
    grid = grid_attackers(setting.eps, setting.scale)
    if arm.name in ARMS:
        return list(dict.fromkeys((*main, *grid)))
    as_published = [a for a in grid if a.evasion.space == "normalised"]
    return [main[0], *as_published] if arm.name == PUBLISHED else main[:1]


def _trained(
    setting: Setting, arm: Arm, folder: Path, setup: Setup
) -> tuple[Trained, Sequence[RoundLine]]:
    """Play an arm's federation as far as it is not played yet.

    Raises:
        RecordError: The folder holds another one.
        ContractError: A client failed.
    """
    if (folder / FILE).is_file() and _identity(Setup.read(folder)) != _identity(setup):
        raise RecordError(
            f"{folder} holds a federation of other settings or images: choose another --out"
        )
    with speaking_of(folder):
        setup.write(folder)
    learner, seed = learner_of(setup), setup.seed
    rule = FedSafeRule.beside(learner, seed, PAST if arm.name in ARMS else 1)
    gpus = 1.0 / learner.clients if learner.device.type == "cuda" else 0.0
    lines = run_federation(
        folder, clients.build, rule, setting.scale.rounds, seed=seed, cluster=Cluster(gpus=gpus)
    )
    for line in lines:
        for client, why in line.isolated.items():
            raise ContractError(
                f"client {client} has no part in round {line.round} of {arm.name!r}, seed {seed}, "
                f"since {why}; remove {folder} once it is mended, and run the command again"
            )
    if len(lines) != setting.scale.rounds + 1:
        raise RecordError(
            f"{folder} holds {len(lines) - 1} rounds, not {setting.scale.rounds}: choose another "
            "--out"
        )
    test = some_of(learner.shares.test, setting.scale.images)
    return Trained(folder, learner, rule, setting.scale.rounds, seed, test), lines


def _identity(setup: Setup) -> Setup:
    """Return a setup without what may change when a federation goes on."""
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
