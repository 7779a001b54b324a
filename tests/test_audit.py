"""From attempts to verdicts: what each kind of outcome makes of an audit."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from medbreach.attacks.blind_guess import BlindGuess
from medbreach.attacks.random_public_image import RandomPublicImage
from medbreach.audit import audit, check
from medbreach.case import Case, draw
from medbreach.components import Attack, Defense
from medbreach.conclusion import conclude, share_leaked
from medbreach.datasets.dermoscopy import Dermoscopy
from medbreach.errors import ConfigError, DataError, ModelError, NotApplicable, Refused
from medbreach.models.small_cnn import SmallCNN
from medbreach.plan import Levels, Options, Plan
from medbreach.protocol import User
from medbreach.randomness import Seeds
from medbreach.statistics import tail, wilson
from medbreach.types import Exchange, Finding, Reconstruction, Role, Verdict
from medbreach.verdicts import judge

CPU = torch.device("cpu")
OPTIONS = Options(decoys=40, public=100, null_draws=200, metrics=("psnr",))


@dataclass(frozen=True)
class Scripted(Attack):
    """An attack that does what a test tells it to.

    Attributes:
        act: Given the exchange, returns claims.
    """

    name: ClassVar[str] = "scripted"
    source: ClassVar[str] = "tests"

    act: Callable[[Exchange], torch.Tensor]

    def run(self, exchange, rng):
        return Reconstruction(self.act(exchange))


def plan_of(act, *, stacks=None, options=OPTIONS, records=4):
    case = Case("tried", Dermoscopy(), SmallCNN(width=4), user=User(num_data_points=records))
    attacks = {
        "scripted": Scripted(act),
        "blind_guess": BlindGuess(),
        "random_public_image": RandomPublicImage(),
    }
    return Plan(case, attacks, stacks or {"none": ()}, (), options)


def telepathy(collection, *, batch):
    """Claims that no attack could make: the truth of a batch of that size, else public images."""
    case = plan_of(None).case
    cases = {1: case.solvable(), 4: case}
    samples = {n: draw(c, collection, Seeds(0), 40, 100) for n, c in cases.items()}

    def act(exchange):
        count = exchange.update.count
        return samples[count].truth.images if count in batch else exchange.public[:count]

    return act


def verdicts(plan, collection):
    findings = [o.finding for o in audit(plan, collection, CPU)]
    return {f"{f.attack} {f.role}": f for f in findings}, conclude(findings)


def test_identified_records_are_a_leak(patches):
    found, conclusion = verdicts(plan_of(telepathy(patches, batch={1, 4})), patches)
    attack = found["scripted attack"]
    assert attack.verdict is Verdict.LEAK
    assert attack.identified == (True,) * 4
    assert attack.p_value < 1e-5
    assert conclusion.verdict is Verdict.LEAK
    assert "scripted identified 4 of 4 private records among at least " in conclusion.sentence
    assert share_leaked(conclusion) == 1.0


def test_nothing_found_by_an_attack_that_solves_its_control_is_no_leak(patches):
    found, conclusion = verdicts(plan_of(telepathy(patches, batch={1})), patches)
    assert found["scripted solvable control"].verdict is Verdict.SOLVED
    assert found["scripted attack"].verdict is Verdict.NO_LEAK
    assert conclusion.verdict is Verdict.NO_LEAK
    assert "0 of 4 private records (95 % interval 0% to 49%)" in conclusion.sentence
    (caution,) = conclusion.reasons
    assert "identifies up to 49% of all records is not ruled out" in caution


def test_nothing_found_by_an_attack_that_fails_its_control_says_nothing(patches):
    found, conclusion = verdicts(plan_of(telepathy(patches, batch=set())), patches)
    assert found["scripted solvable control"].verdict is Verdict.INCONCLUSIVE
    assert found["scripted attack"].verdict is Verdict.INCONCLUSIVE
    assert conclusion.verdict is Verdict.INCONCLUSIVE
    (reason,) = conclusion.reasons
    assert reason.startswith("scripted: no more than chance was identified, but the attack failed")


def test_a_leak_counts_even_if_the_control_failed(patches):
    _, conclusion = verdicts(plan_of(telepathy(patches, batch={4})), patches)
    assert conclusion.verdict is Verdict.LEAK


def raises(error):
    def act(exchange):
        raise error

    return act


@pytest.mark.parametrize(
    ("act", "verdict", "note"),
    [
        (raises(NotApplicable("needs more")), Verdict.NOT_APPLICABLE, "needs more"),
        (raises(Refused("no")), Verdict.FAILED, "scripted refused, which only a defense may"),
        (raises(RuntimeError("boom\nbang")), Verdict.FAILED, "RuntimeError: boom bang"),
        (lambda e: torch.zeros(2, 3, 8, 8), Verdict.FAILED, "shape (3, 8, 8), not (3, 32, 32)"),
        (lambda e: torch.full((1, 3, 32, 32), torch.nan), Verdict.FAILED, "not finite"),
    ],
)
def test_an_attack_that_comes_to_nothing_is_said_and_nothing_is_concluded(
    patches, act, verdict, note
):
    found, conclusion = verdicts(plan_of(act), patches)
    assert found["scripted attack"].verdict is verdict
    assert note in found["scripted attack"].note
    assert found["blind_guess blind control"].verdict is Verdict.NO_LEAK
    assert conclusion.verdict is Verdict.INCONCLUSIVE
    assert sum(note in reason for reason in conclusion.reasons) == 1


class Refusing(Defense):
    """Refuse everything."""

    name: ClassVar[str] = "refusing"
    source: ClassVar[str] = "tests"

    def vet(self, model, spec):
        raise Refused("it looks planted")


def test_a_refusing_client_leaks_nothing(patches):
    plan = plan_of(telepathy(patches, batch={1, 4}), stacks={"refusing": (Refusing(),)})
    found, conclusion = verdicts(plan, patches)
    assert found["scripted attack"].verdict is Verdict.REFUSED
    assert conclusion.verdict is Verdict.NO_LEAK
    assert "the client refused" in conclusion.sentence


def test_stacks_and_seeds_are_all_tried_at_a_level_shared_among_them(patches):
    options = replace(OPTIONS, seeds=(0, 5))
    stacks = {"none": (), "refusing": (Refusing(),)}
    plan = plan_of(telepathy(patches, batch={1}), stacks=stacks, options=options)
    found = [o.finding for o in audit(plan, patches, CPU)]
    tried = [(f.defenses, f.seed) for f in found if f.role is Role.ATTACK]
    assert sorted(tried) == [((), 0), ((), 5), (("refusing",), 0), (("refusing",), 5)]
    assert {f.level for f in found if f.role is Role.ATTACK} == {0.05 / 2 / (2 * 2)}
    assert len({o.id for o in plan.attempts()}) == len(list(plan.attempts()))


def test_what_is_done_is_not_done_again(patches):
    plan = plan_of(telepathy(patches, batch={1, 4}))
    first = {o.attempt.id: o.finding for o in audit(plan, patches, CPU)}
    some = dict(list(first.items())[:2])
    again = {o.attempt.id: o.finding for o in audit(plan, patches, CPU, done=some)}
    assert set(again) == set(first) - set(some)
    assert all(again[k].identified == first[k].identified for k in again)


def test_an_audit_leaves_the_global_generator_alone(patches, untouched_randomness):
    list(audit(plan_of(telepathy(patches, batch={1})), patches, CPU))


def test_input_is_checked_before_anything_runs(patches):
    check(plan_of(raises(AssertionError)), patches)
    with pytest.raises(DataError, match=r"case\.user\.num_data_points is 500"):
        check(plan_of(raises(AssertionError), records=500), patches)


def finding(**changes):
    base = Finding(
        case="c", server="s", attack="a", defenses=(), seed=0, role=Role.ATTACK,
        verdict=Verdict.NO_LEAK, records=4, claims=4, identified=(False,) * 4, decoys=99,
        pools=((4, 99),),
        p_value=1.0, level=0.05,
    )  # fmt: skip
    return replace(base, **changes)


SOLVED = finding(role=Role.SOLVABLE, verdict=Verdict.SOLVED)
BLIND = finding(role=Role.BLIND, attack="blind_guess", null=wilson(8, 800))


def test_scoring_in_doubt_makes_everything_inconclusive():
    blind = replace(BLIND, null=wilson(80, 800))
    verdict, note = judge(blind, [])
    assert verdict is Verdict.INCONCLUSIVE
    assert "10.0% over many draws, where chance is at most 1.0%" in note
    broken = replace(blind, verdict=verdict, note=note)
    leak = finding(identified=(True,) * 4, p_value=1e-7)
    assert judge(leak, [broken])[0] is Verdict.INCONCLUSIVE
    assert judge(leak, [])[0] is Verdict.LEAK
    assert conclude([SOLVED, broken, leak]).verdict is Verdict.INCONCLUSIVE


def test_a_blind_guess_that_identifies_everybody_is_not_overlooked():
    lucky = replace(BLIND, identified=(True,) * 4, p_value=2.7e-7)
    verdict, note = judge(lucky, [])
    assert verdict is Verdict.INCONCLUSIVE
    assert "identify 4 of 4 records" in note


def test_without_a_blind_control_nothing_found_says_nothing():
    assert judge(finding(), [SOLVED]) == (
        Verdict.INCONCLUSIVE, "no blind control could be run beside it"
    )  # fmt: skip
    assert conclude([SOLVED, finding()]).verdict is Verdict.INCONCLUSIVE
    assert conclude([SOLVED, BLIND, finding()]).verdict is Verdict.NO_LEAK


def test_too_few_decoys_cannot_show_that_nothing_leaks():
    """One record among ten: even if it is identified, luck does so once in eleven times."""
    small = finding(
        records=1, identified=(True,), decoys=10, pools=((1, 10),), p_value=1 / 11, claims=1
    )
    verdict, note = judge(small, [SOLVED, BLIND])
    assert verdict is Verdict.INCONCLUSIVE
    assert "even a perfect reconstruction could not be told from luck" in note
    assert conclude([SOLVED, BLIND, small]).verdict is Verdict.INCONCLUSIVE
    control = replace(small, role=Role.SOLVABLE)
    assert judge(control, []) == (
        Verdict.INCONCLUSIVE,
        "with 10 decoys, solving it cannot be told from luck; it takes 19",
    )


def test_seeds_may_leak_together_that_do_not_alone():
    weak = [
        finding(seed=s, identified=(True, False, False, False), p_value=0.039, level=0.05 / 6)
        for s in range(3)
    ]
    conclusion = conclude(weak)
    assert conclusion.verdict is Verdict.LEAK
    assert conclusion.cells[0].p_value < 0.001
    assert "3 of 12" in conclusion.sentence


def test_seeds_that_leak_together_count_even_if_the_control_failed():
    failed = replace(SOLVED, verdict=Verdict.INCONCLUSIVE, note="it does not solve it")
    lone = [
        finding(
            seed=s, records=1, identified=(True,), pools=((1, 99),), p_value=0.01,
            level=0.0025, verdict=Verdict.INCONCLUSIVE,
        )
        for s in range(10)
    ]  # fmt: skip
    assert conclude([failed, BLIND, *lone]).verdict is Verdict.LEAK


def test_an_unfinished_audit_shares_alpha_as_the_finished_one_will():
    ids = [f"attack--{name}--none--seed0" for name in "abcde"]
    one = finding(identified=(True, False, False, False), p_value=0.039, level=0.01)
    assert conclude([one], ids).verdict is Verdict.INCONCLUSIVE


def test_all_attacks_and_seeds_together_err_with_alpha_at_most():
    pools = ((4, 24),)
    for seeds in (1, 2, 5, 20):
        levels = Levels.sharing(0.05, 1, seeds)
        false_alarms = min(1.0, seeds * reached(pools, levels.single))
        if seeds > 1:
            false_alarms += reached(pools * seeds, levels.pooled)
        assert false_alarms <= 0.05


def reached(pools, level):
    """The probability that a p-value is at or below a level, by luck."""
    records = sum(r for r, _ in pools)
    return max((p for k in range(records + 1) if (p := tail(k, pools)) <= level), default=0.0)


def test_attacks_cannot_spoil_what_others_see(patches):
    def spoil(exchange):
        claims = exchange.public[: exchange.update.count].clone()
        exchange.public.mul_(0)
        for tensor in exchange.update.change.values():
            tensor.mul_(0)
        return claims

    seen = []

    def look(exchange):
        seen.append((exchange.public.abs().sum(), exchange.update.change["0.weight"].abs().sum()))
        return exchange.public[: exchange.update.count]

    plan = plan_of(spoil)
    plan = replace(plan, attacks={"spoiler": Scripted(spoil), "scripted": Scripted(look)})
    list(audit(plan, patches, CPU))
    assert all(public > 0 and change > 0 for public, change in seen)
    assert len(seen) == 2


def test_two_attempts_of_one_name_are_refused(patches):
    plan = plan_of(raises(AssertionError))
    attack = Scripted(raises(AssertionError))
    with pytest.raises(ConfigError, match="rename one"):
        replace(plan, attacks={"a b": attack, "a_b": attack})


def test_an_unfinished_audit_is_no_clean_bill():
    ids = [f"attack--a--none--seed{s}" for s in range(3)]
    conclusion = conclude([finding()], ids)
    assert conclusion.verdict is Verdict.INCONCLUSIVE
    assert conclusion.sentence.startswith("Unfinished: 2 attempts")


def test_controls_alone_conclude_nothing():
    assert conclude([finding(role=Role.BLIND)]).verdict is Verdict.INCONCLUSIVE


def test_a_network_that_does_not_fit_is_said(patches):
    plan = plan_of(raises(AssertionError))

    class Huge(SmallCNN):
        name: ClassVar[str] = "huge"

        def build(self, spec, classes):
            return torch.nn.Conv2d(3, 4, 64)

    with pytest.raises(ModelError, match="huge cannot take images of 3 x 32 x 32"):
        check(replace(plan, case=replace(plan.case, model=Huge())), patches)
