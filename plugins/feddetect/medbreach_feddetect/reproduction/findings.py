"""Everything that a reproduction found."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from medbreach.types import Rate
from medbreach_feddetect.calibration import threshold
from medbreach_feddetect.holdings import Holdings, hold
from medbreach_feddetect.measures.downstream import Downstream
from medbreach_feddetect.measures.of_round import yardsticks
from medbreach_feddetect.reproduction.numbers import (
    Flags,
    Spread,
    flagged_rounds,
    flagged_runs,
    judged,
    simulated_alarms,
    simulated_power,
    simulated_release,
)
from medbreach_feddetect.reproduction.setting import (
    ARMS,
    BENIGN,
    CALIBRATED,
    CLIENTS,
    DETECTIONS,
    LOSSES,
    PLAIN,
    RATE,
    RELEASED,
    Arm,
    Loss,
    Setting,
)

if TYPE_CHECKING:
    from medbreach_feddetect.reproduction.run import Run

TRAINED: Final[Mapping[str, str]] = {
    "bce": "Without gradient penalty",
    "wgan_gp": "With gradient penalty",
}


@dataclass(frozen=True)
class Findings:
    """Everything that was found.

    Attributes:
        setting: What was reproduced.
        runs: Every run of each arm that counts, by seed.
        failed: Every run that does not.
        worth: What generated images are worth to a classifier, without and with the attack.
        replayed: By loss and rule, the rounds and the runs in which somebody would be flagged on
            the losses of the plain mean's runs without attack; none where there is one such run.
        release: Rounds of four normal losses in which the released rule punishes somebody.
        alarms: Simulated benign runs in which the calibrated rule flags anybody, by world.
        power: Simulated runs in which the calibrated rule flags a client whose loss is higher by so
            many standard deviations of benign clients.
        above: The calibrated rule's threshold.
        sticks: Distances of images that are not generated.
    """

    setting: Setting
    runs: Mapping[Arm, Sequence["Run"]]
    failed: Sequence["Run"]
    worth: Mapping[bool, Downstream]
    replayed: Mapping[Loss, Mapping[str, tuple[Flags, Rate]]]
    release: Rate
    alarms: Mapping[str, Rate]
    power: Mapping[int, Rate]
    above: float
    sticks: Mapping[str, Mapping[str, float]]

    @property
    def held(self) -> Holdings:
        """Who has which images in the first run."""
        return hold(self.setting.federation(BENIGN, 0))

    @classmethod
    def of(
        cls, setting: Setting, runs: Sequence["Run"], worth: Mapping[bool, Downstream]
    ) -> "Findings":
        """Return what runs show."""
        by_arm = {arm: [r for r in runs if r.arm == arm and not r.failure] for arm in ARMS}
        failed = [run for run in runs if run.failure]
        scale = setting.scale
        return cls(
            setting, by_arm, failed, worth,
            {loss: _replayed(setting, loss, by_arm[Arm(False, loss, PLAIN)]) for loss in LOSSES},
            simulated_release(),
            simulated_alarms(scale.warm_up, scale.rounds),
            simulated_power(scale.warm_up, scale.rounds),
            threshold(CLIENTS, scale.warm_up, RATE, scale.rounds),
            yardsticks(setting.federation(BENIGN, 0)),
        )  # fmt: skip

    def detections(self, arm: Arm) -> list[tuple[str, str]]:
        """Return the rules that flag clients and have runs beside an arm's, and their names."""
        return [
            (rule, title)
            for rule, title in DETECTIONS.items()
            if self.runs.get(arm._replace(rule=rule))
        ]

    def spread(self, arm: Arm, value: Callable[["Run"], float]) -> Spread:
        """Return a number's mean over an arm's runs."""
        return Spread.of([value(run) for run in self.runs[arm]])

    def change(self, arm: Arm, against: Arm, value: Callable[["Run"], float]) -> Spread:
        """Return what an arm changes of a number, runs of the same seed compared."""
        others = {run.seed: run for run in self.runs[against]}
        pairs = [(run, others[run.seed]) for run in self.runs[arm] if run.seed in others]
        return Spread.of([value(one) - value(other) for one, other in pairs])


def _replayed(setting: Setting, loss: Loss, runs: Sequence["Run"]) -> dict[str, tuple[Flags, Rate]]:
    """Return in how many rounds and runs rules would flag somebody on a plain mean's losses."""
    found = {}
    for rule in (RELEASED, CALIBRATED) if len(runs) > 1 else ():
        told = [list(judged(setting.detection(rule, loss), run.lines)) for run in runs]
        found[rule] = (flagged_rounds(told, setting.scale.warm_up), flagged_runs(told))
    return found


def share(rate: Rate) -> str:
    """Return a share and its interval in percent."""
    part = rate.count / max(1, rate.total)
    return f"{part:.0%} ({rate.low:.0%} to {rate.high:.0%})"
