"""What was claimed, and whether it shows here, in sentences."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np

from medbreach.tradeoff.predictions import Interval
from medbreach_fedsafe.guarantee import epsilon, why_none
from medbreach_fedsafe.measures import DRAWS, Answers, change, estimate
from medbreach_fedsafe.reproduction.attackers import Attacker, main_attackers
from medbreach_fedsafe.reproduction.published import OVERHEAD, REDUCTION
from medbreach_fedsafe.reproduction.run import Made, Row
from medbreach_fedsafe.reproduction.setting import ADVERSARIAL, ARMS, BOTH, NOISE, PLAIN

DELTA: Final = 1e-5


class Claim(NamedTuple):
    """A claim and what was found.

    Attributes:
        claimed: What the source says, or what it would have to mean.
        shows: ``appears``, ``does not appear``, ``not contradicted`` or ``cannot tell``.
        found: The evidence.
    """

    claimed: str
    shows: str
    found: str


def percent(value: Interval | None, *, signed: bool = False) -> str:
    """Return a share or a change of one with its 95 % interval, in percent or points.

    >>> percent(Interval(0.123, 0.1, 0.2)), percent(Interval(-0.02, -0.1, 0.0), signed=True)
    ('12.3 (10.0 to 20.0)', '-2.0 (-10.0 to +0.0)')
    """
    if value is None:
        return "-"
    sign = "+" if signed else ""
    middle, low, high = (f"{100 * v + 0.0:{sign}.1f}" for v in value)
    return f"{middle} ({low} to {high})"


def main_answers(made: Made, name: str) -> Sequence[Answers]:
    """Return the answers of an arm to the main attack."""
    return made.row(name).answers[_main(made)]


def claims(made: Made) -> list[Claim]:
    """Return what is claimed or asked, and what was found."""
    found = [
        _white_box(made),
        _transferred(made),
        _adaptive(made),
        _comparable(made),
        _fewer(made),
        _reduction(made),
    ]
    if not attack_works(made):
        found = [one._replace(shows="cannot tell") for one in found]
    return [*found, _overhead(made)]


def attack_works(made: Made) -> bool:
    """Return whether the attack fools the plain network more often than random signs do."""
    control = main_attackers(made.setting.eps, made.setting.scale)[-1].name
    chance = estimate(made.row(PLAIN).answers[control])["asr_self"]
    return estimate(main_answers(made, PLAIN))["asr_self"].low > chance.high


def summary(made: Made) -> str:
    """Return what noise does to attacks on oneself and on others, in a sentence."""
    own, on_self = _against(made, NOISE, "asr_self")
    others, on_others = _against(made, NOISE, "asr_others")
    return (
        f"In short: with downlink noise alone, success on the attacked network itself "
        f"(white-box) {_direction(own)} ({on_self}), and success on other clients (transferred) "
        f"{_direction(others)} ({on_others})."
    )


def warnings(made: Made) -> list[str]:
    """Return what keeps the tables from saying much, in sentences."""
    return list(_warnings(made))


def told_epsilon(made: Made, row: Row) -> str:
    """Return an arm's epsilon towards the server, or that it has none."""
    if why_none(row.arm.fedsafe, buffers=row.buffers):
        return "none"
    return f"{epsilon(row.arm.fedsafe, made.setting.scale.rounds, DELTA):,.0f}"


def privacy(made: Made) -> list[str]:
    """Return why there is no epsilon, and what one would be, in sentences."""
    found = [
        "Epsilon, of a client towards the server, over the whole training at delta "
        f"{DELTA:g}. The source's arms have none. Without uplink noise: "
        f"{why_none(made.row(PLAIN).arm.fedsafe, buffers=False)}. With it: "
        f"{why_none(made.row(f'{NOISE}, uplink noise').arm.fedsafe, buffers=False)}."
    ]
    for row in made.rows:
        if row.arm.group == "clipped" and not why_none(row.arm.fedsafe, buffers=row.buffers):
            found.append(
                f"With updates clipped to norm {row.arm.fedsafe.max_update_norm:g} the same noise "
                f"has epsilon {told_epsilon(made, row)} (Gaussian differential privacy, exactly "
                "composed; replacing all of a client's records): a number, and no protection."
            )
    return found


def _main(made: Made) -> str:
    return main_attackers(made.setting.eps, made.setting.scale)[0].name


def _direction(moved: Interval) -> str:
    if moved.high < 0:
        return "falls"
    return "rises" if moved.low > 0 else "does not move by more than chance explains"


def _against(made: Made, name: str, measure: str, other: str = PLAIN) -> tuple[Interval, str]:
    """Return what an arm changes of a measure, and a clause that says so."""
    moved = change(main_answers(made, name), main_answers(made, other))[measure]
    before = estimate(main_answers(made, other))[measure]
    after = estimate(main_answers(made, name))[measure]
    words = (
        f"{100 * before.value:.1f} % to {100 * after.value:.1f} %, a change of "
        f"{percent(moved, signed=True)} points"
    )
    return moved, words


def _white_box(made: Made) -> Claim:
    moved, words = _against(made, NOISE, "asr_self")
    return Claim(
        "Noise protects against white-box attacks (on oneself)",
        "appears" if moved.high < 0 else "does not appear",
        f"The attack success rate on the attacked network itself {_direction(moved)}: {words}.",
    )


def _transferred(made: Made) -> Claim:
    moved, words = _against(made, NOISE, "asr_others")
    return Claim(
        "Noise protects against transferred attacks (on others)",
        "appears" if moved.high < 0 else "does not appear",
        f"The attack success rate on the other clients {_direction(moved)}: {words}. Without "
        "noise all clients hold the same network, so others are fooled as oneself is.",
    )


def _adaptive(made: Made) -> Claim:
    told, holds = [], True
    for attacker in _strong(made):
        noisy, plain = (made.row(name).answers[attacker.name] for name in (NOISE, PLAIN))
        moved = change(noisy, plain)["asr_others"]
        holds = holds and moved.high < 0
        left = estimate(noisy)["asr_others"].value
        told.append(f"{attacker.name} {100 * left:.1f} % ({percent(moved, signed=True)})")
    return Claim(
        "It still does against stronger attackers, and those who know the noise",
        "appears" if holds else "does not appear",
        "Others fooled under noise, and the change in points against the same attacker without "
        f"noise: {'; '.join(told)}.",
    )


def _strong(made: Made) -> list[Attacker]:
    """Return the attackers of others beside the plain one; APGD is for oneself, signs for none."""
    every = main_attackers(made.setting.eps, made.setting.scale)[1:]
    return [a for a in every if a.evasion.method not in ("apgd", "random")]


def _comparable(made: Made) -> Claim:
    parts, worse = [], False
    for measure, words in (("asr_self", "on oneself"), ("asr_others", "on others")):
        moved, told = _against(made, NOISE, measure, ADVERSARIAL)
        worse = worse or moved.low > 0
        parts.append(f"{words} {told}")
    accuracy, told = _against(made, NOISE, "accuracy", ADVERSARIAL)
    del accuracy
    return Claim(
        "Noise is as robust as conventional adversarial training",
        "does not appear" if worse else "not contradicted",
        f"From adversarial training to noise: {'; '.join(parts)}; accuracy {told}.",
    )


def _fewer(made: Made) -> Claim:
    setting, few = made.setting, made.setting.scale.shares[0]
    sparing = next(r for r in made.rows if r.arm.fedsafe == setting.fedsafe(BOTH, share=few))
    main, parts, worse = _main(made), [], False
    for measure, words in (("asr_self", "on oneself"), ("asr_others", "on others")):
        moved = change(sparing.answers[main], main_answers(made, ADVERSARIAL))[measure]
        worse = worse or moved.low > 0
        parts.append(f"{words} {percent(moved, signed=True)} points")
    return Claim(
        "With noise, adversarial training needs fewer images",
        "does not appear" if worse else "not contradicted",
        f"Noise and p = {few:g} against no noise and p = 1: {'; '.join(parts)}. An interval around "
        "0 cannot tell fewer images from images that do nothing: see the table over p.",
    )


def _reduction(made: Made) -> Claim:
    falls, told = [], []
    for name in (NOISE, BOTH, ADVERSARIAL):
        for measure, words in (("asr_self", "oneself"), ("asr_others", "others")):
            moved, _ = _against(made, name, measure)
            told.append(f"{name}, on {words} {percent(moved, signed=True)}")
            if name != ADVERSARIAL:
                falls.append(moved.value)
    return Claim(
        f"With noise the attack success rate falls by up to {REDUCTION:.0%}",
        "appears" if min(falls) <= -REDUCTION else "does not appear",
        f"Against plain, in points: {'; '.join(told)}. The last two are without noise: what "
        "retraining does alone. The source does not say on whom, against what baseline, nor "
        "whether points or percent are meant.",
    )


def _overhead(made: Made) -> Claim:
    ratios = {name: ratio(made.row(name), made.row(PLAIN)) for name in ARMS[1:]}
    told = ", ".join(
        f"{name} {100 * r.value - 100:+.0f} % ({100 * r.low - 100:+.0f} to "
        f"{100 * r.high - 100:+.0f})"
        for name, r in ratios.items()
    )
    low, high = OVERHEAD
    return Claim(
        f"A round costs {100 * low:.0f} to {100 * high:.0f} % more",
        "appears" if ratios[BOTH].low - 1 <= high else "does not appear",
        f"Computing time of a round, all clients and the server together, against plain: {told}. "
        f"Noise alone takes the server {1000 * made.row(NOISE).server:.1f} ms; what is more of it "
        "is chance in measuring. Sending and Flower's own work are left out.",
    )


def ratio(row: Row, plain: Row) -> Interval:
    """Return how many times longer an arm's rounds take, with an interval over rounds."""
    rng = np.random.default_rng(0)
    times = [np.array([whole for whole, _ in one.times]) for one in (row, plain)]
    drawn = [np.median(rng.choice(t, (DRAWS, len(t))), axis=1) for t in times]
    low, high = np.quantile(drawn[0] / drawn[1], [0.025, 0.975])
    if row is plain:
        low = high = 1.0
    return Interval(row.seconds / plain.seconds, float(low), float(high))


def _warnings(made: Made) -> Iterator[str]:
    main = estimate(main_answers(made, PLAIN))
    test = made.trained[PLAIN].test
    most = float(test.labels.bincount().max() / len(test))
    every = [(row.arm.name, estimate(row.answers[_main(made)])["accuracy"]) for row in made.rows]
    dull = [f"{name} ({100 * a.value:.1f} %)" for name, a in every if a.low <= most]
    if dull:
        yield (
            f"Not clearly better than saying the commonest class always ({100 * most:.1f} %): "
            f"{'; '.join(dull)}. A network that always says the same is fooled by nothing, so low "
            "success rates of these arms are no robustness."
        )
    if not attack_works(made):
        yield (
            f"The attack fools the plain network in {percent(main['asr_self'])} % of its images, "
            "not clearly more than random signs do, so these tables say nothing of defenses."
        )
    if made.setting.scale.seeds == 1:
        yield "One training of each arm: intervals are over patients, not over trainings."
    note = made.shares.collection.note
    if note:
        yield f"{note[:1].upper()}{note[1:]}."
