"""What was claimed, and whether it shows here, in sentences."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from medbreach.tradeoff.predictions import Interval
from medbreach_fedsafe.guarantee import epsilon, why_none
from medbreach_fedsafe.measures import (
    DRAWS,
    Answers,
    advantage,
    change,
    commonest,
    estimate,
    rates,
    strongest,
)
from medbreach_fedsafe.reproduction.attackers import CONTROL, FGSM, MAIN, Attacker, main_attackers
from medbreach_fedsafe.reproduction.published import OVERHEAD, REDUCTION
from medbreach_fedsafe.reproduction.run import Made, Row, mixed
from medbreach_fedsafe.reproduction.setting import ADVERSARIAL, ARMS, BOTH, NOISE, PLAIN

DELTA: Final = 1e-5
NEAR: Final = 0.02  # so much about the published overhead counts as it; ours
MANY: Final = 10  # trainings, of which a bootstrap knows the spread
COMPARED: Final = {"asr_self": "on oneself", "asr_others": "on others", "accuracy": "accuracy"}


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


def claims(made: Made) -> list[Claim]:
    """Return what is claimed or asked, and what was found."""
    both = (NOISE, PLAIN)
    found = [
        _judged(made, _white_box(made), both),
        _judged(made, _transferred(made), both),
        _judged(made, _adaptive(made), both),
        _judged(made, _comparable(made), (NOISE, ADVERSARIAL)),
        _judged(made, _fewer(made), (_sparing(made).arm.name, ADVERSARIAL)),
        _judged(made, _reduction(made), ARMS),
    ]
    return [*found, _overhead(made)]


def attack_works(made: Made) -> bool:
    """Return whether the attack fools the plain network more often than random signs do."""
    chance = estimate(made.row(PLAIN).answers[CONTROL])["asr_self"]
    return estimate(made.row(PLAIN).main)["asr_self"].low > chance.high


def usable(seeds: Sequence[Answers]) -> bool:
    """Return whether networks do clearly better than saying the commonest class always.

    The interval of their accuracy must lie above that, and each training's accuracy too: one that
    ended with a network that always says the same is fooled by nothing, and draws the mean down.
    """
    each = (float(rates(one)["accuracy"][0]) > commonest(one) for one in seeds)
    return advantage(seeds).low > 0 and all(each)


def summary(made: Made) -> str:
    """Return what noise does to attacks on oneself and on others, in a sentence."""
    why = _why_silent(made, (NOISE, PLAIN))
    if why:
        return f"In short: nothing can be told of noise here, since {why}."
    own, on_self = _against(made, NOISE, "asr_self")
    others, on_others = _against(made, NOISE, "asr_others")
    return (
        f"In short: with downlink noise alone, success on the attacked network itself (white-box, "
        f"the strongest attacker) {_direction(made, own)} ({on_self}), and success on other "
        f"clients (transferred) {_direction(made, others)} ({on_others}){_luck(made)}."
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
                "composed; replacing all of a client's records; their number and the time that it "
                "computes are taken as public): a number, and no protection."
            )
    return found


def _why_silent(made: Made, names: Sequence[str]) -> str:
    """Return why arms say nothing of robustness; empty if they do."""
    if not attack_works(made):
        return "the attack fools the plain network not clearly more often than random signs do"
    dull = [name for name in names if not usable(made.row(name).main)]
    if dull:
        return (
            f"the networks of {' and of '.join(repr(name) for name in dull)} are not clearly "
            "better than saying the commonest class always"
        )
    return ""


def _judged(made: Made, claim: Claim, names: Sequence[str]) -> Claim:
    """Return a claim; that nothing can be told if an arm it rests on says nothing."""
    why = _why_silent(made, names)
    if not why:
        return claim
    return Claim(claim.claimed, "cannot tell", f"Nothing can be told, since {why}. {claim.found}")


def _luck(made: Made) -> str:
    """Return what intervals leave out."""
    if made.setting.scale.seeds > 1:
        return ""
    return "; luck in training, of which there is one of each arm, is not in these intervals"


def _direction(made: Made, moved: Interval) -> str:
    if moved.high < 0:
        return "falls"
    chance = "patients" if made.setting.scale.seeds == 1 else "patients and trainings"
    return (
        "rises" if moved.low > 0 else f"does not move by more than the choice of {chance} explains"
    )


def _of(made: Made, name: str, measure: str) -> list[Answers]:
    """Return an arm's answers: on oneself to the strongest attacker, otherwise to the main one."""
    row = made.row(name)
    if measure != "asr_self":
        return list(row.main)
    there = [row.answers[a.name] for a in _attackers(made) if a.white_box]
    return [strongest(attacks) for attacks in zip(*there, strict=True)]


def _attackers(made: Made) -> list[Attacker]:
    return main_attackers(made.setting.eps, made.setting.scale)


def _against(made: Made, name: str, measure: str, other: str = PLAIN) -> tuple[Interval, str]:
    """Return what an arm changes of a measure, and a clause that says so."""
    after, before = _of(made, name, measure), _of(made, other, measure)
    moved = change(after, before)[measure]
    words = (
        f"{100 * estimate(before)[measure].value:.1f} % to "
        f"{100 * estimate(after)[measure].value:.1f} %, a change of "
        f"{percent(moved, signed=True)} points"
    )
    return moved, words


def _white_box(made: Made) -> Claim:
    moved, words = _against(made, NOISE, "asr_self")
    return Claim(
        "Noise protects against white-box attacks (on oneself)",
        "appears" if moved.high < 0 else "does not appear",
        "The success rate on the attacked network itself, by whichever white-box attacker "
        f"succeeds, {_direction(made, moved)}: {words}.",
    )


def _transferred(made: Made) -> Claim:
    moved, words = _against(made, NOISE, "asr_others")
    return Claim(
        "Noise protects against transferred attacks (on others)",
        "appears" if moved.high < 0 else "does not appear",
        f"The success rate of {MAIN} on the other clients {_direction(made, moved)}: {words}. "
        "Without noise all clients hold the same network, so others are fooled as oneself is.",
    )


def _adaptive(made: Made) -> Claim:
    told, holds = [], True
    for attacker in _attackers(made)[1:]:
        if attacker.evasion.method == "random" or "asr_others" not in attacker.measures:
            continue
        noisy, plain = (made.row(name).answers[attacker.name] for name in (NOISE, PLAIN))
        moved = change(noisy, plain)["asr_others"]
        holds = holds and moved.high < 0
        left = estimate(noisy)["asr_others"].value
        told.append(f"{attacker.name} {100 * left:.1f} % ({percent(moved, signed=True)})")
    return Claim(
        "It still does against other attackers, and those who know the noise",
        "appears" if holds else "does not appear",
        "Others fooled under noise, and the change in points against the same attacker without "
        f"noise: {'; '.join(told)}.",
    )


def _compared(moved: Mapping[str, Interval]) -> str:
    """Return the verdict on being no worse than something: more fooled, or less often right."""
    worse = any(moved[name].low > 0 for name in ("asr_self", "asr_others"))
    return "does not appear" if worse or moved["accuracy"].high < 0 else "not contradicted"


def _comparable(made: Made) -> Claim:
    found = {name: _against(made, NOISE, name, ADVERSARIAL) for name in COMPARED}
    return Claim(
        "Noise is as robust as conventional adversarial training",
        _compared({name: moved for name, (moved, _) in found.items()}),
        "From adversarial training to noise: "
        f"{'; '.join(f'{COMPARED[name]} {told}' for name, (_, told) in found.items())}.",
    )


def _sparing(made: Made) -> Row:
    """Return the arm with noise and the least share of the pool."""
    few = made.setting.fedsafe(BOTH, share=made.setting.scale.shares[0])
    return next(row for row in made.rows if row.arm.fedsafe == few)


def _fewer(made: Made) -> Claim:
    sparing = _sparing(made)
    moved = change(sparing.main, made.row(ADVERSARIAL).main)
    parts = [f"{COMPARED[name]} {percent(moved[name], signed=True)} points" for name in COMPARED]
    return Claim(
        "With noise, adversarial training needs fewer images",
        _compared(moved),
        f"Noise and p = {sparing.arm.fedsafe.retraining.share:g} against no noise and p = 1, under "
        f"{MAIN}: {'; '.join(parts)}. An interval around 0 cannot tell fewer images from images "
        "that do nothing: see the table over p.",
    )


def _reduction(made: Made) -> Claim:
    falls, told = [], []
    for name, other in ((NOISE, PLAIN), (BOTH, ADVERSARIAL)):
        for measure in ("asr_self", "asr_others"):
            moved, _ = _against(made, name, measure, other)
            told.append(
                f"{name} against {other}, {COMPARED[measure]} {percent(moved, signed=True)}"
            )
            falls.append(moved)
    return Claim(
        f"With noise the attack success rate falls by up to {REDUCTION:.0%}",
        reduction_shows(falls),
        f"What noise does, without and with retraining, in points: {'; '.join(told)}. The source "
        "does not say on whom, against what baseline, nor whether points or percent are meant.",
    )


def reduction_shows(falls: Sequence[Interval]) -> str:
    """Return the verdict on changes, of which one should be a fall as great as the published one.

    >>> reduction_shows([Interval(-0.1, -0.2, 0.0)])
    'does not appear'
    """
    if any(moved.high <= -REDUCTION for moved in falls):
        return "appears"
    return "cannot tell" if any(moved.low <= -REDUCTION for moved in falls) else "does not appear"


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
        overhead_shows(ratios[BOTH]),
        f"Computing time of a round, all clients and the server together, against plain: {told}. "
        f"Noise alone takes the server {1000 * made.row(NOISE).server:.1f} ms; what is more of it "
        "is chance in measuring. Sending and Flower's own work are left out.",
    )


def overhead_shows(times: Interval) -> str:
    """Return the verdict on how many times longer a round takes.

    >>> overhead_shows(Interval(1.05, 1.03, 1.06)), overhead_shows(Interval(2.0, 1.9, 2.1))
    ('appears', 'does not appear')
    """
    least, most = 1 + OVERHEAD[0] - NEAR, 1 + OVERHEAD[1] + NEAR
    if least <= times.low and times.high <= most:
        return "appears"
    return "cannot tell" if times.low <= most and times.high >= least else "does not appear"


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
    main, fgsm = (estimate(made.row(PLAIN).answers[name])["asr_self"] for name in (MAIN, FGSM))
    dull = [row for row in made.rows if not usable(row.main)]
    if dull:
        most = statistics.fmean(map(commonest, dull[0].main))
        told = (f"{r.arm.name} ({100 * estimate(r.main)['accuracy'].value:.1f} %)" for r in dull)
        yield (
            f"Not clearly better than saying the commonest class always ({100 * most:.1f} %), or "
            f"not in each training: {'; '.join(told)}. A network that always says the same is "
            "fooled by nothing, so low success rates of these arms are no robustness."
        )
    if not attack_works(made):
        yield (
            f"The attack fools the plain network in {percent(main)} % of its images, "
            "not clearly more than random signs do, so these tables say nothing of defenses."
        )
    if main.value <= fgsm.value < 1:
        yield (
            f"On the plain network one step (FGSM, {100 * fgsm.value:.1f} %) fools no less than "
            f"{MAIN} ({100 * main.value:.1f} %): the attack of the main tables is too weak here, "
            "and what looks like robustness may be its failure."
        )
    yield _over_trainings(made.setting.scale.seeds)
    note = made.shares.collection.note
    if note:
        yield f"{note[:1].upper()}{note[1:]}."
    if made.shares.in_two_classes:
        yield mixed(made.shares)


def _over_trainings(seeds: int) -> str:
    """Return what the intervals say of trainings."""
    if seeds == 1:
        return (
            "One training of each arm: intervals are over patients, not over trainings, and two "
            "trainings of the same arm can differ by more than they span."
        )
    return (
        f"{seeds} trainings of each arm: intervals draw patients and trainings anew, but of so few "
        "trainings the spread is known badly, and the intervals are rather too narrow."
        if seeds < MANY
        else f"{seeds} trainings of each arm: intervals draw patients and trainings anew."
    )
