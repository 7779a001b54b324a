"""Carrying the reproduction out; the same command goes on where it was."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch

from medbreach.errors import ContractError, DataError
from medbreach.report.phrasing import csv_of
from medbreach.report.templates import style_sheet
from medbreach.settings import plain
from medbreach.storage import claim, speaking_of, write_whole
from medbreach_feddetect.calibration import threshold_from_runs
from medbreach_feddetect.holdings import hold
from medbreach_feddetect.learner import GanLearner, build, write_setting
from medbreach_feddetect.measures.downstream import Downstream, downstream
from medbreach_feddetect.measures.extractors import extractor
from medbreach_feddetect.reproduction.findings import Findings
from medbreach_feddetect.reproduction.numbers import judged, losses_of
from medbreach_feddetect.reproduction.page import as_csv, as_html, as_text
from medbreach_feddetect.reproduction.setting import (
    ARMS,
    ATTACKED,
    BENIGN,
    COMPARED,
    OWN,
    OWN_RUNS,
    PLAIN,
    RATE,
    Arm,
    Setting,
)
from medbreach_feddetect.rules import FedDetect
from medbreach_feddetect.setting import GanFederation
from medbreach_federation import Cluster, RoundLine, Rule, ray_kept, run_federation

Tell = Callable[[str], None]
FEDERATIONS: Final = "federations"
SETTING: Final = "setting.json"


class Run(NamedTuple):
    """A federation that was played.

    Attributes:
        arm: What kind of run.
        seed: Its seed.
        lines: Its rounds, from 0.
        folder: Where it is kept.
        same_as_mean: Whether it is the plain mean's run, since the rule flags nobody in it.
        failure: Why it does not count; empty if it does.
    """

    arm: Arm
    seed: int
    lines: Sequence[RoundLine]
    folder: Path
    same_as_mean: bool = False
    failure: str = ""


def reproduce(setting: Setting, folder: Path, tell: Tell) -> str:
    """Play every federation that a folder lacks, write the tables, return them as text.

    A federation that a client drops out of does not count: the tables say why, and go on.

    Args:
        setting: What to reproduce, and on what.
        folder: Where everything is kept.
        tell: Is told how far it is.

    Raises:
        InputError: The images do not fit, or the folder holds something else.
    """
    extractor(setting.measuring)
    hold(setting.federation(ARMS[0], 0))
    claim(folder, SETTING, plain(setting.identity), "a reproduction")
    with ray_kept():
        runs = list(_runs(setting, folder, tell))
        worth = _worth(setting, folder, tell)
    findings = Findings.of(setting, runs, worth)
    text = as_text(findings)
    with speaking_of(folder):
        write_whole(folder / "table.txt", text.encode())
        write_whole(folder / "table.csv", as_csv(findings).encode())
        write_whole(folder / "rounds.csv", rounds_as_csv(runs).encode())
        write_whole(folder / "table.html", as_html(findings, style_sheet()).encode())
    return text


def replayed(rule: FedDetect, lines: Sequence[RoundLine]) -> list[RoundLine] | None:
    """Return a plain mean's run as it is under a rule that flags nobody in it; None if one does."""
    found = []
    for line in judged(rule, lines):
        if any(told.get("flagged") for told in line.clients.values()):
            return None
        found.append(line)
    return found


def rounds_as_csv(runs: Sequence[Run]) -> str:
    """Return every client's numbers of every round as CSV."""
    names = ("generator_loss_last", "generator_loss", "discriminator_loss", "weight", "suspect",
             "flagged", "excess", "lead")  # fmt: skip
    rows = [
        (run.arm.name, run.seed, line.round, k, *(numbers.get(name, "") for name in names))
        for run in runs
        for line in run.lines
        for k, numbers in sorted(line.clients.items())
    ]
    return csv_of([("arm", "seed", "round", "client", *names), *rows])


def _runs(setting: Setting, folder: Path, tell: Tell) -> Iterator[Run]:
    """Yield every run, the plain mean's first, and last those with a threshold from benign ones."""
    means: dict[tuple[Arm, int], Run] = {}
    for seed in range(max(map(setting.seeds_of, ARMS))):
        for arm in sorted(ARMS, key=lambda arm: arm.rule != PLAIN):
            if arm.rule == OWN or seed >= setting.seeds_of(arm):
                continue
            mean = means.get((arm._replace(rule=PLAIN), seed))
            run = _run(setting, arm, seed, folder, mean, tell, setting.rule(arm.rule, arm.loss))
            if arm.rule == PLAIN and not run.failure:
                means[arm, seed] = run
            yield run
    benign = [np.array(losses_of(run.lines)) for (arm, _), run in means.items() if arm == BENIGN]
    if len(benign) < OWN_RUNS:
        return
    lead = threshold_from_runs(benign, setting.scale.warm_up, RATE, COMPARED[BENIGN.loss])
    arm = ATTACKED._replace(rule=OWN)
    for seed in range(setting.seeds_of(arm)):
        rule = setting.rule(OWN, arm.loss, lead)
        yield _run(setting, arm, seed, folder, means.get((ATTACKED, seed)), tell, rule)


def _run(
    setting: Setting, arm: Arm, seed: int, folder: Path, mean: Run | None, tell: Tell, rule: Rule
) -> Run:
    """Return a run; if its rule flags nobody in the plain mean's, that one."""
    words = f"{arm.title}, seed {seed}"
    if mean is not None and isinstance(rule, FedDetect):
        same = replayed(copy.deepcopy(rule), mean.lines)
        if same is not None:
            tell(f"{words}: flags nobody, so it is the run without detection")
            return Run(arm, seed, same, mean.folder, same_as_mean=True)
    given = getattr(rule, "lead", None)  # more benign runs give another threshold
    name = f"{arm.name}-{seed}" if given is None else f"{arm.name}-{given:.6f}-{seed}"
    place = folder / FEDERATIONS / name
    lines, failure = _tried(setting.federation(arm, seed), rule, place, words, tell)
    return Run(arm, seed, lines, place, failure=failure)


def _tried(
    federation: GanFederation, rule: Rule, place: Path, words: str, tell: Tell
) -> tuple[Sequence[RoundLine], str]:
    """Return a federation's rounds, and why they do not count; empty if they do."""
    lines: Sequence[RoundLine] = ()
    try:
        lines = _play(federation, rule, place, words, tell)
        failure = _dropped(lines)
    except ContractError as error:
        failure = str(error)
    if failure:
        tell(f"{words} does not count: {failure}")
    return lines, failure


def _dropped(lines: Sequence[RoundLine]) -> str:
    """Return which client dropped out of a run, and why; empty if none did."""
    for line in lines:
        for client, why in line.isolated.items():
            return f"client {client} dropped out in round {line.round}: {why}"
    return ""


def _play(
    federation: GanFederation, rule: Rule, place: Path, words: str, tell: Tell
) -> list[RoundLine]:
    write_setting(place, federation)
    new: list[float] = []
    gpus = 1 / federation.clients if federation.device != "cpu" else 0.0
    lines = run_federation(
        place, build, rule, federation.rounds, seed=federation.seed,
        tell=lambda line: new.append(line.seconds), cluster=Cluster(gpus=gpus),
    )  # fmt: skip
    if new:
        tell(f"{words}: {federation.rounds} rounds, {math.fsum(new):.0f} s")
    return lines


def _worth(setting: Setting, folder: Path, tell: Tell) -> dict[bool, Downstream]:
    """Return what a conditional generator is worth to a classifier, without and with the attack."""
    found = {}
    for attack in (False, True):
        federation = setting.conditional(attack, 0)
        if federation is None:
            return {}
        name = f"{'attack' if attack else 'benign'}-conditional-0"
        words = f"{'attack' if attack else 'no attack'}, conditional, seed 0"
        place = folder / FEDERATIONS / name
        _, failure = _tried(federation, setting.rule(PLAIN), place, words, tell)
        if failure:
            continue
        weights = torch.load(place / "federation.pt", map_location="cpu", weights_only=True)
        learner = GanLearner(federation)
        epochs, seeds = setting.scale.classifier_epochs, range(setting.seeds)
        try:
            found[attack] = downstream(learner, weights["weights"], epochs, seeds)
        except DataError as error:
            tell(f"{words} is not tried on a classifier: {error}")
    return found
