"""What runs say of each published claim, in sentences."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from medbreach_feddetect.measures.of_round import FLAT, FRECHET, KERNEL, SHOWN
from medbreach_feddetect.reproduction.detection import false_alarms, power, verdicts
from medbreach_feddetect.reproduction.findings import TRAINED, Findings
from medbreach_feddetect.reproduction.numbers import (
    highest,
    last,
    late_loss,
    lead,
    others_loss,
)
from medbreach_feddetect.reproduction.setting import (
    CLIENTS,
    LOSSES,
    MALICIOUS,
    PLAIN,
    ROBUST,
    TITLES,
    Arm,
    Loss,
)

if TYPE_CHECKING:
    from medbreach_feddetect.reproduction.run import Run


def claims(found: Findings) -> list[tuple[str, list[str]]]:
    """Return each claim as a question, and what speaks to it in sentences."""

    def per_loss(say: Callable[[Findings, Loss], str]) -> list[str]:
        return [f"{TRAINED[loss]}: {say(found, loss)}" for loss in LOSSES]

    found_all = [
        ("Do the generators learn?", per_loss(_learning)),
        ("Does the malicious client's generator loss stand out?", per_loss(_separation)),
        ("Do generated images show the trigger?", per_loss(_trigger)),
        ("Does the attack make generated images worse?", per_loss(_harm)),
        ("Does detection make them better again?", per_loss(_remedy)),
        ("Does training with gradient penalty help?", [_penalty(found)]),
        ("Do robust means help?", list(_robust(found))),
        ("Whom does detection flag?", per_loss(verdicts)),
        ("How often is somebody flagged when nobody is malicious?", list(false_alarms(found))),
        ("What can the calibrated rule find?", list(power(found))),
        ("Are generated images of use to a classifier?", list(_worth(found))),
    ]
    if found.failed:
        found_all.append(("Which runs do not count?", list(_failures(found))))
    return found_all


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
    without, attack = Arm(False, loss, PLAIN), Arm(True, loss, PLAIN)
    top = [highest(run.lines, warm_up) for run in found.runs[attack]]
    before = [highest(run.lines, warm_up) for run in found.runs[without]]
    own = found.spread(attack, lambda run: late_loss(run.lines, warm_up, MALICIOUS))
    rest = found.spread(attack, lambda run: others_loss(run.lines, warm_up))
    changed = found.change(attack, without, lambda run: lead(run.lines, warm_up))
    everybody = found.change(attack, without, lambda run: others_loss(run.lines, warm_up))
    ending = {
        1: "The attack makes it stand out.",
        -1: "The attack makes it lower than the others', the opposite of the claim.",
        0: "That the attack makes it stand out is not shown by these runs.",
    }[changed.sign]
    return (
        f"after the warm-up the malicious client's mean generator loss is {own.words()}, the "
        f"others' {rest.words()}. It is the highest of {CLIENTS} in {sum(top)} of {len(top)} "
        f"runs with the attack and in {sum(before)} of {len(before)} without (chance: 1 in "
        f"{CLIENTS}). The attack changes its lead over the others by {changed.words(signed=True)} "
        f"and the others' loss by {everybody.words(signed=True)}, runs of the same seed compared. "
        f"{ending}"
    )


def _trigger(found: Findings, loss: Loss) -> str:
    def corner(run: "Run") -> float:
        return last(run.lines, SHOWN)

    attack = Arm(True, loss, PLAIN)
    changed = found.change(attack, Arm(False, loss, PLAIN), corner)
    ending = {
        1: "The backdoor gets into what everybody generates.",
        -1: "The corner moves away from the trigger.",
        0: "That they show it is not shown by these runs.",
    }[changed.sign]
    parts = []
    for rule, title in found.detections(attack):
        taken = found.change(Arm(True, loss, rule), attack, corner)
        effect = {1: "it shows more", -1: "it shows less", 0: "no effect is shown"}[taken.sign]
        parts.append(f"{title} by {taken.words(signed=True)}, {effect}")
    return (
        f"the attack moves the mean corner of generated images by {changed.words(signed=True)} of "
        f"the way from the real ones' to the trigger. {ending} Detection changes that, "
        f"{'; '.join(parts)}."
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
    attack, without = Arm(True, loss, PLAIN), Arm(False, loss, PLAIN)
    _, harmed = _distances(found, attack, without)
    parts = []
    for rule, title in found.detections(attack):
        words, signs = _distances(found, Arm(True, loss, rule), attack)
        ending = {1: "it makes them worse", -1: "it makes them better", 0: "no effect is shown"}
        left, _ = _distances(found, Arm(True, loss, rule), without)
        parts.append(
            f"{title}, under attack, {words}: {ending[_agreed(signs)]} (against no attack, {left})"
        )
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
    """Return the sign that all distances have; 0 if they have not the same."""
    return signs[0] if len(set(signs)) == 1 else 0


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


def _worth(found: Findings) -> Iterator[str]:
    if not found.worth:
        yield "Not tried: the images have no labels, or the federations do not count."
    patients = found.held.patients_are
    for attack, one in found.worth.items():
        real, augmented = one.of_real, one.of_augmented
        words = "With the attack" if attack else "Without attack"
        yield (
            f"{words}, a classifier's accuracy on other patients is {real.value:.1%} "
            f"({real.low:.1%} to {real.high:.1%}) with real images only and {augmented.value:.1%} "
            f"({augmented.low:.1%} to {augmented.high:.1%}) with as many generated ones beside "
            f"them: a change of {one.gain.value:+.1%} ({one.gain.low:+.1%} to "
            f"{one.gain.high:+.1%}). One conditional federation; intervals are over {patients} and "
            "leave out how federations differ, so that the two do not compare."
        )


def _failures(found: Findings) -> Iterator[str]:
    for run in found.failed:
        yield f"{run.arm.title}, seed {run.seed}: {run.failure}."
