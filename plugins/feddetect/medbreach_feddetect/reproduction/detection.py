"""What runs say of whom detection flags, in sentences."""

from collections.abc import Iterator, Sequence

import numpy as np

from medbreach.statistics import wilson
from medbreach.types import Rate
from medbreach_feddetect.calibration import highest_lead, threshold_from_runs
from medbreach_feddetect.reproduction.findings import TRAINED, Findings, share
from medbreach_feddetect.reproduction.numbers import (
    UNSEEN,
    Spread,
    benign,
    flagged_rounds,
    flagged_runs,
    flagged_verdicts,
    losses_of,
    malicious,
)
from medbreach_feddetect.reproduction.setting import (
    CLIENTS,
    COMPARED,
    DETECTIONS,
    LOSSES,
    MALICIOUS,
    OWN_RUNS,
    PLAIN,
    RATE,
    Arm,
    Loss,
)


def verdicts(found: Findings, loss: Loss) -> str:
    """Return how often detection flags whom under attack."""
    warm_up = found.setting.scale.warm_up
    parts = []
    for rule, title in found.detections(Arm(True, loss, PLAIN)):
        runs = found.runs[Arm(True, loss, rule)]
        lines = [run.lines for run in runs]
        right = flagged_verdicts(lines, warm_up, malicious)
        wrong = flagged_verdicts(lines, warm_up, benign)
        weight = Spread.of([run.lines[-1].clients[MALICIOUS]["weight"] for run in runs])
        parts.append(
            f"{title}, of the verdicts on the malicious client {right.words()} flag it (true "
            f"positives), of those on benign clients {wrong.words()} flag one (false positives); "
            f"the malicious client's weight ends at {weight.words()} (from {1 / CLIENTS:g})"
        )
    return "; ".join(parts) + "."


def false_alarms(found: Findings) -> Iterator[str]:
    """Return how often detection flags anybody without attack, and in simulated runs."""
    warm_up = found.setting.scale.warm_up
    for loss in LOSSES:
        for rule, title in found.detections(Arm(False, loss, PLAIN)):
            lines = [run.lines for run in found.runs[Arm(False, loss, rule)]]
            rounds, runs = flagged_rounds(lines, warm_up), flagged_runs(lines)
            least = [min(told["weight"] for told in one[-1].clients.values()) for one in lines]
            yield (
                f"{TRAINED[loss]}, {title}: in {rounds.words()} rounds after the warm-up, and "
                f"at all in {runs.count} of {runs.total} runs without attack, {share(runs)}. The "
                f"lowest weight that a benign client ends with is {min(least):.2g} (from "
                f"{1 / CLIENTS:g})."
            )
    yield from filter(None, (_replayed(found, loss) for loss in LOSSES))
    yield (
        f"As released, four losses drawn from one normal distribution get one client punished in "
        f"{share(found.release)} of {found.release.total} simulated rounds."
    )
    unseen = [found.alarms[name] for name in UNSEEN]
    every = list(found.alarms.values())
    yield (
        f"Calibrated, it is made to flag anybody in at most {RATE:.0%} of benign runs (threshold "
        f"{found.above:.2f}). In {every[0].total} simulated runs of each of {len(every)} worlds "
        f"without attack it flags somebody in {_range(every)}; in the {len(unseen)} worlds that "
        f"the threshold was not made from, in {_range(unseen)}. These are no blind test: the "
        "worlds that it was made from were chosen after milder ones had been tried."
    )


def _replayed(found: Findings, loss: Loss) -> str:
    """Return whom rules would flag on all benign runs' losses; empty where these are too few."""
    if not found.replayed[loss]:
        return ""
    parts = [
        f"{DETECTIONS[rule]}, somebody would be flagged in {rounds.words()} rounds after the "
        f"warm-up, and at all in {runs.count} of {runs.total} runs, {share(runs)}"
        for rule, (rounds, runs) in found.replayed[loss].items()
    ]
    return (
        f"{TRAINED[loss]}, on the losses of all {len(found.runs[Arm(False, loss, PLAIN)])} benign "
        f"federations, as the plain mean played them: {'; '.join(parts)}. That is exact up to a "
        "run's first flag."
    )


def power(found: Findings) -> Iterator[str]:
    """Return what the calibrated rule can find, also with a threshold from these benign runs."""
    rates = ", ".join(f"{one.count / one.total:.0%} at {k}" for k, one in found.power.items())
    total = next(iter(found.power.values())).total
    yield (
        f"In {total} simulated runs whose benign clients differ by normal numbers for the whole "
        "run, it flags a client that an attack raises by so many of their standard deviations in: "
        f"{rates}."
    )
    yield from filter(None, (_own_runs(found, loss) for loss in LOSSES))


def _own_runs(found: Findings, loss: Loss) -> str:
    """Return what a threshold from these benign runs finds; empty if they are too few."""
    warm_up, scale = found.setting.scale.warm_up, COMPARED[loss]
    calm, attacked = (
        [np.array(losses_of(run.lines)) for run in found.runs[Arm(attack, loss, PLAIN)]]
        for attack in (False, True)
    )
    if len(calm) < OWN_RUNS or not attacked:
        return ""
    above = threshold_from_runs(calm, warm_up, RATE, scale)
    hits = sum(highest_lead(run, warm_up, scale)[MALICIOUS] > above for run in attacked)
    flagged = wilson(hits, len(attacked))
    alarms = 0
    for k, run in enumerate(calm):
        others = threshold_from_runs(calm[:k] + calm[k + 1 :], warm_up, RATE, scale)
        alarms += max(highest_lead(run, warm_up, scale)) > others
    rate = wilson(alarms, len(calm))
    return (
        f"{TRAINED[loss]}, with a threshold from these {len(calm)} benign federations "
        f"({above:.2f}) the malicious client would be flagged in {flagged.count} of "
        f"{flagged.total} attacked ones, {share(flagged)}; left out in turn, a benign one raises "
        f"an alarm in {rate.count} of {rate.total}, {share(rate)}. Losses are the plain mean's."
    )


def _range(rates: Sequence[Rate]) -> str:
    shares = [rate.count / rate.total for rate in rates]
    return f"{min(shares):.1%} to {max(shares):.1%}"
