"""What runs say of each published claim, in sentences."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from medbreach.statistics import wilson
from medbreach.types import Rate
from medbreach_feddetect.calibration import threshold
from medbreach_feddetect.measures.downstream import Downstream
from medbreach_feddetect.measures.of_round import FLAT, FRECHET, KERNEL, yardsticks
from medbreach_feddetect.reproduction.numbers import (
    DRAWN,
    SIMULATED,
    UNSEEN,
    Spread,
    flagged_rounds,
    flagged_runs,
    highest,
    last,
    late_loss,
    others_loss,
    simulated_alarms,
    simulated_release,
)
from medbreach_feddetect.reproduction.setting import (
    CALIBRATED,
    CLIENTS,
    LOSSES,
    MALICIOUS,
    PLAIN,
    RATE,
    RELEASED,
    ROBUST,
    TITLES,
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
        runs: Every run of each arm, by seed.
        worth: What generated images are worth to a classifier, without and with the attack.
        release: Rounds of four normal losses in which the released rule punishes somebody.
        alarms: Simulated benign runs in which the calibrated rule flags anybody, by world.
        above: The calibrated rule's threshold.
        sticks: Distances of images that are not generated.
    """

    setting: Setting
    runs: Mapping[Arm, Sequence["Run"]]
    worth: Mapping[bool, Downstream]
    release: Rate
    alarms: Mapping[str, Rate]
    above: float
    sticks: Mapping[str, Mapping[str, float]]

    @classmethod
    def of(
        cls, setting: Setting, runs: Sequence["Run"], worth: Mapping[bool, Downstream]
    ) -> "Findings":
        """Return what runs show."""
        by_arm: dict[Arm, list[Run]] = {}
        for run in runs:
            by_arm.setdefault(run.arm, []).append(run)
        scale = setting.scale
        return cls(
            setting, by_arm, worth, simulated_release(),
            simulated_alarms(scale.warm_up, scale.rounds),
            threshold(CLIENTS, scale.warm_up, RATE, scale.rounds),
            yardsticks(setting.federation(Arm(False, "bce", PLAIN), 0)),
        )  # fmt: skip

    def spread(self, arm: Arm, value: Callable[["Run"], float]) -> Spread:
        """Return a number's mean over an arm's runs."""
        return Spread.of([value(run) for run in self.runs[arm]])

    def change(self, arm: Arm, against: Arm, value: Callable[["Run"], float]) -> Spread:
        """Return what an arm changes of a number, runs of the same seed compared."""
        pairs = zip(self.runs[arm], self.runs[against], strict=True)
        return Spread.of([value(one) - value(other) for one, other in pairs])


def claims(found: Findings) -> list[tuple[str, list[str]]]:
    """Return each claim as a question, and what speaks to it in sentences."""

    def per_loss(say: Callable[[Findings, Loss], str]) -> list[str]:
        return [f"{TRAINED[loss]}: {say(found, loss)}" for loss in LOSSES]

    return [
        ("Do the generators learn?", per_loss(_learning)),
        ("Does the malicious client's generator loss stand out?", per_loss(_separation)),
        ("Does the attack make generated images worse?", per_loss(_harm)),
        ("Does detection make them better again?", per_loss(_remedy)),
        ("Does training with gradient penalty help?", [_penalty(found)]),
        ("Do robust means help?", list(_robust(found))),
        ("Whom does detection flag?", per_loss(_verdicts)),
        ("How often is somebody flagged when nobody is malicious?", list(_false_alarms(found))),
        ("Are generated images of use to a classifier?", list(_worth(found))),
    ]


def _learning(found: Findings, loss: Loss) -> str:
    arm = Arm(False, loss, PLAIN)
    before = found.spread(arm, lambda run: run.lines[0].evaluation[FRECHET])
    after = found.spread(arm, lambda run: last(run.lines, FRECHET))
    sticks = "; ".join(f"{name} {one[FRECHET]:.3g}" for name, one in found.sticks.items())
    flat = found.sticks[FLAT][FRECHET]
    ending = (
        ""
        if after.mean < min(before.mean, flat)
        else f" They are no nearer to the real images than {FLAT} is: what follows says nothing of "
        "fidelity."
    )
    return (
        f"without attack the Frechet distance goes from {before.words()} before the first round to "
        f"{after.words()}. To read it by: {sticks}.{ending}"
    )


def _separation(found: Findings, loss: Loss) -> str:
    warm_up = found.setting.scale.warm_up
    benign, attack = Arm(False, loss, PLAIN), Arm(True, loss, PLAIN)
    runs = found.runs[attack]
    top = wilson(sum(highest(run.lines, warm_up) for run in runs), len(runs))
    before = sum(highest(run.lines, warm_up) for run in found.runs[benign])
    own = found.spread(attack, lambda run: late_loss(run.lines, warm_up, MALICIOUS))
    rest = found.spread(attack, lambda run: others_loss(run.lines, warm_up))
    changed = found.change(attack, benign, lambda run: late_loss(run.lines, warm_up, MALICIOUS))
    ending = {
        1: "The attack raises it.",
        -1: "The attack lowers it, the opposite of the claim.",
        0: "That the attack raises it is not shown by these runs.",
    }[changed.sign]
    return (
        f"after the warm-up the malicious client's mean generator loss is {own.words()}, the "
        f"others' {rest.words()}. It is the highest of {CLIENTS} in {top.count} of {top.total} "
        f"runs with the attack and in {before} of {top.total} without (chance: 1 in {CLIENTS}). "
        f"The attack changes it by {changed.words(signed=True)}, runs of the same seed compared. "
        f"{ending}"
    )


def _harm(found: Findings, loss: Loss) -> str:
    benign, attack = Arm(False, loss, PLAIN), Arm(True, loss, PLAIN)
    words, signs = _distances(found, attack, benign)
    ending = {
        1: "They become worse.",
        -1: "They do not become worse, but nearer to the real ones.",
        0: "That they become worse is not shown by these runs.",
    }[_agreed(signs)]
    return f"with the attack {words}. {ending}"


def _remedy(found: Findings, loss: Loss) -> str:
    attack = Arm(True, loss, PLAIN)
    _, harmed = _distances(found, attack, Arm(False, loss, PLAIN))
    parts = []
    for rule, title in ((RELEASED, "as released"), (CALIBRATED, "calibrated")):
        words, signs = _distances(found, Arm(True, loss, rule), attack)
        ending = {1: "it makes them worse", -1: "it makes them better", 0: "no effect is shown"}
        parts.append(f"{title}, under attack, {words}: {ending[_agreed(signs)]}")
    more = "" if _agreed(harmed) > 0 else " No harm of the attack was shown that could be undone."
    return "; ".join(parts) + f".{more}"


def _distances(found: Findings, arm: Arm, against: Arm) -> tuple[str, list[int]]:
    frechet = found.change(arm, against, lambda run: last(run.lines, FRECHET))
    kernel = found.change(arm, against, lambda run: last(run.lines, KERNEL))
    return (
        f"the Frechet distance changes by {frechet.words(signed=True)} and the kernel distance by "
        f"{kernel.words(signed=True)}",
        [frechet.sign, kernel.sign],
    )


def _agreed(signs: Sequence[int]) -> int:
    """Return the sign that at least one distance has and none contradicts."""
    return (max(signs) > 0) * (min(signs) >= 0) - (min(signs) < 0) * (max(signs) <= 0)


def _penalty(found: Findings) -> str:
    words, signs = _distances(found, Arm(True, "wgan_gp", PLAIN), Arm(True, "bce", PLAIN))
    ending = {1: "It makes them worse here", -1: "It helps here", 0: "No effect is shown"}
    return (
        f"Under attack, with it {words}. {ending[_agreed(signs)]}. It is another loss with another "
        "optimiser, so that a difference need not be due to the attack."
    )


def _robust(found: Findings) -> Iterator[str]:
    for rule in ROBUST:
        words, signs = _distances(found, Arm(True, "bce", rule), Arm(True, "bce", PLAIN))
        ending = {1: "It makes them worse", -1: "It makes them better", 0: "No effect is shown"}
        title = TITLES[rule]
        yield f"{title[0].upper()}{title[1:]}, under attack: {words}. {ending[_agreed(signs)]}."
    yield (
        "Krum takes 2 f + 3 clients to withstand f malicious ones, so of four it withstands none; "
        "it is run with f = 0. Of four values the trimmed mean is the median."
    )


def _verdicts(found: Findings, loss: Loss) -> str:
    warm_up = found.setting.scale.warm_up
    parts = []
    for rule, title in ((RELEASED, "as released"), (CALIBRATED, "calibrated")):
        runs = found.runs[Arm(True, loss, rule)]
        lines = [run.lines for run in runs]
        right = flagged_rounds(lines, warm_up, lambda k: k == MALICIOUS)
        wrong = flagged_rounds(lines, warm_up, lambda k: k != MALICIOUS)
        weight = Spread.of([run.lines[-1].clients[MALICIOUS]["weight"] for run in runs])
        parts.append(
            f"{title}, the malicious client is flagged in {share(right)} of rounds and a benign "
            f"one in {share(wrong)}; the malicious client's weight ends at {weight.words()} "
            f"(from {1 / CLIENTS:g})"
        )
    return "; ".join(parts) + "."


def _false_alarms(found: Findings) -> Iterator[str]:
    warm_up = found.setting.scale.warm_up
    for rule, title in ((RELEASED, "As released"), (CALIBRATED, "Calibrated")):
        lines = [run.lines for loss in LOSSES for run in found.runs[Arm(False, loss, rule)]]
        rounds, runs = flagged_rounds(lines, warm_up), flagged_runs(lines)
        least = [min(told["weight"] for told in one[-1].clients.values()) for one in lines]
        yield (
            f"{title}: in {rounds.count} of {rounds.total} rounds after the warm-up, "
            f"{share(rounds)}, and at all in {runs.count} of {runs.total} runs without "
            f"attack, {share(runs)}. The lowest weight that a benign client ends with is "
            f"{min(least):.2g} (from {1 / CLIENTS:g})."
        )
    yield (
        f"As released, four losses drawn from one normal distribution get one client punished in "
        f"{share(found.release)} of {DRAWN} simulated rounds."
    )
    unseen = [found.alarms[name] for name in UNSEEN]
    every = list(found.alarms.values())
    yield (
        f"Calibrated, it is made to flag anybody in at most {RATE:.0%} of benign runs (threshold "
        f"{found.above:.2f}). In {SIMULATED} simulated runs of each of {len(every)} worlds without "
        f"attack it flags somebody in {_range(every)}; in the {len(unseen)} worlds that the "
        f"threshold was not made from, in {_range(unseen)}."
    )


def _range(rates: Sequence[Rate]) -> str:
    shares = [rate.count / rate.total for rate in rates]
    return f"{min(shares):.1%} to {max(shares):.1%}"


def _worth(found: Findings) -> Iterator[str]:
    if not found.worth:
        yield "Not tried: the images have no labels."
    for attack, one in found.worth.items():
        real, augmented = one.of_real, one.of_augmented
        words = "With the attack" if attack else "Without attack"
        yield (
            f"{words}, a classifier's accuracy on other patients is {real.value:.1%} "
            f"({real.low:.1%} to {real.high:.1%}) with real images only and {augmented.value:.1%} "
            f"({augmented.low:.1%} to {augmented.high:.1%}) with as many generated ones beside "
            f"them: a change of {one.gain.value:+.1%} ({one.gain.low:+.1%} to "
            f"{one.gain.high:+.1%}). One conditional federation; intervals over patients."
        )


def share(rate: Rate) -> str:
    """Return a share and its interval in percent."""
    part = rate.count / max(1, rate.total)
    return f"{part:.0%} ({rate.low:.0%} to {rate.high:.0%})"
