"""The audit: every attempt of a plan, scored against the truth, with its controls."""

import contextlib
import copy
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from medbreach.case import Case, Sample, draw, honest_network, play
from medbreach.collection import Collection
from medbreach.components import Attack
from medbreach.errors import (
    ContractError,
    InputError,
    ModelError,
    NotApplicable,
    RecordError,
    Refused,
)
from medbreach.measure import measured
from medbreach.parts import Part, finished
from medbreach.plan import UNDEFENDED, Attempt, Plan
from medbreach.progress import Watch, current, watched_by
from medbreach.randomness import Seeds
from medbreach.scoring import Score, Scorer
from medbreach.statistics import binomial_tail, tail
from medbreach.types import Exchange, Finding, Reconstruction, Role, Verdict

log = logging.getLogger(__name__)

BROKEN_SCORING = 1e-3  # the blind controls' p-value under which the scoring itself is doubted


class Outcome(NamedTuple):
    """What an attempt leaves behind.

    Attributes:
        attempt: What was tried.
        finding: What it showed.
        sample: The images that it was tried on; None if it came to nothing before.
        claims: What the attack claimed; None if it claimed nothing.
    """

    attempt: Attempt
    finding: Finding
    sample: Sample | None
    claims: Reconstruction | None


WatchFor = Callable[[Attempt], AbstractContextManager[Watch]]


@contextlib.contextmanager
def _nobody(attempt: Attempt) -> Iterator[Watch]:
    del attempt
    yield Watch()


@dataclass
class _Bench:
    """One seed's images and exchanges, kept while attempts share them."""

    plan: Plan
    collection: Collection
    device: torch.device
    _samples: dict[tuple[str, int], Sample] = field(default_factory=dict)
    _scorers: dict[int, Scorer] = field(default_factory=dict)
    _played: dict[tuple[str, int, str], tuple[Exchange, ...]] = field(default_factory=dict)

    def sample(self, case: Case, seed: int) -> Sample:
        key = (repr(case), seed)
        if key not in self._samples:
            options = self.plan.options
            drawn = draw(case, self.collection, Seeds(seed), options.decoys, options.public)
            self._samples = {k: s for k, s in self._samples.items() if k[1] == seed}
            self._samples[key] = drawn
        return self._samples[key]

    def scorer(self, sample: Sample) -> Scorer:
        if id(sample) not in self._scorers:
            share = self.plan.options.whitening
            self._scorers = {id(sample): Scorer.fit(sample, self.plan.metrics, share)}
        return self._scorers[id(sample)]

    def exchanges(self, case: Case, seed: int, stack: str) -> tuple[Exchange, ...]:
        key = (repr(case), seed, stack)
        if key not in self._played:
            defenses = self.plan.stacks.get(stack, ())
            sample = self.sample(case, seed)
            self._played = {key: play(case, sample, defenses, Seeds(seed), self.device)}
        return self._played[key]


def check(plan: Plan, collection: Collection) -> Sample:
    """Try everything that can be wrong with the input; return the first seed's images.

    Raises:
        InputError: Something is; the message names it.
        NotApplicable: The server cannot plant what it would.
    """
    options = plan.options
    first, *others = options.seed_numbers
    sample = draw(plan.case, collection, Seeds(first), options.decoys, options.public)
    for seed in others:
        draw(plan.case, collection, Seeds(seed), options.decoys, options.public)
    network = honest_network(plan.case, sample, Seeds(first))
    _try_loss(plan.case, network, sample)
    public = sample.public if plan.case.server.has_external_data else sample.public[:0]
    plan.case.server.plant(network, sample.spec, public, Seeds(0).stream("check"))
    return sample


def _try_loss(case: Case, network: nn.Module, sample: Sample) -> None:
    """Compute the loss once, for two images of the last class.

    Raises:
        ModelError: That fails, or gives no finite number.
    """
    images = sample.spec.normalise(sample.public[:2])
    labels = torch.full((len(images),), sample.classes - 1)
    try:
        with torch.no_grad():
            value = float(case.model.loss()(network.eval()(images), labels))
    except Exception as error:
        raise ModelError(
            f"the loss of {case.model.name} cannot be computed for {sample.classes} classes: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        ) from error
    if not math.isfinite(value):
        raise ModelError(f"the loss of {case.model.name} is {value} before any training")


def audit(
    plan: Plan,
    collection: Collection,
    device: torch.device,
    done: Mapping[str, Finding] | None = None,
    watch_for: WatchFor = _nobody,
) -> Iterator[Outcome]:
    """Yield the outcome of every attempt that is not done yet, as soon as it is there.

    Args:
        plan: What to do.
        collection: The case's images.
        device: Where to compute.
        done: Findings of an earlier run of the same plan, by attempt id.
        watch_for: Returns whoever follows an attempt.

    Raises:
        InputError: The input turns out to be unusable.
    """
    bench = _Bench(plan, collection, device)
    known = dict(done or {})
    for attempt in plan.attempts():
        if attempt.id in known:
            continue
        with watch_for(attempt) as watch, watched_by(watch):
            outcome = _attempt(bench, attempt, known.values())
        known[attempt.id] = outcome.finding
        yield outcome


def _attempt(bench: _Bench, attempt: Attempt, earlier: Iterable[Finding]) -> Outcome:
    plan = bench.plan
    attack = plan.attacks[attempt.attack]
    blank = Finding(
        case=plan.case.name,
        server=plan.case.server.name,
        attack=attempt.attack,
        defenses=() if attempt.stack == UNDEFENDED else tuple(attempt.stack.split("+")),
        seed=attempt.seed,
        role=attempt.role,
        verdict=Verdict.FAILED,
        level=plan.level,
        device=str(bench.device),
    )
    sample = None
    try:
        case = plan.case if attempt.role is not Role.SOLVABLE else _control_case(attack, plan.case)
        sample = bench.sample(case, attempt.seed)
        exchanges = bench.exchanges(case, attempt.seed, attempt.stack)
        with measured(bench.device) as cost:
            claims = _run(attack, exchanges, Seeds(attempt.seed))
        scored = _scored(blank, bench.scorer(sample), claims, plan, attempt)
    except NotApplicable as reason:
        blank = replace(blank, verdict=Verdict.NOT_APPLICABLE, note=str(reason))
        return Outcome(attempt, blank, sample, None)
    except Refused as reason:
        blank = replace(blank, verdict=Verdict.REFUSED, note=str(reason))
        return Outcome(attempt, blank, sample, None)
    except ContractError as fault:
        return Outcome(attempt, replace(blank, note=str(fault)), sample, None)
    except InputError as error:
        if attempt.role is not Role.SOLVABLE or isinstance(error, RecordError):
            raise
        note = f"its control cannot be set up: {error}"
        blank = replace(blank, verdict=Verdict.NOT_APPLICABLE, note=note)
        return Outcome(attempt, blank, sample, None)
    except Exception as error:  # one broken component must not end the audit
        log.debug("%s failed", attempt.id, exc_info=True)
        note = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return Outcome(attempt, replace(blank, note=note), sample, None)
    scored = replace(scored, seconds=cost.seconds, peak_memory_mb=cost.peak_memory_mb)
    verdict, note = judge(scored, earlier)
    return Outcome(attempt, replace(scored, verdict=verdict, note=note), sample, claims)


def _control_case(attack: Attack, case: Case) -> Case:
    control = attack.control(case)
    if control is None:
        raise NotApplicable("it has no control")
    return control


def _run(attack: Attack, exchanges: tuple[Exchange, ...], seeds: Seeds) -> Reconstruction:
    """Attack each exchange that the server can tell apart; return all claims together."""
    whole = current()
    parts = finished(whole)
    for k, exchange in list(enumerate(exchanges))[len(parts) :]:
        with watched_by(Part(whole, k, len(exchanges), parts)):
            parts.append(attack(_own_copy(exchange), seeds.stream(f"attack/{k}")))
    return Reconstruction(
        torch.cat([p.images for p in parts]),
        _joined([p.labels for p in parts]),
        _joined([p.confidence for p in parts]),
    )


def _own_copy(exchange: Exchange) -> Exchange:
    """Return the exchange with networks that an attack may spoil."""
    rounds = tuple(replace(r, model=copy.deepcopy(r.model)) for r in exchange.rounds)
    return replace(exchange, rounds=rounds)


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    there = [p for p in parts if p is not None]
    return torch.cat(there) if len(there) == len(parts) else None


def _scored(
    blank: Finding, scorer: Scorer, claims: Reconstruction, plan: Plan, attempt: Attempt
) -> Finding:
    score: Score = scorer.score(claims)
    found, sample = score.identification, scorer.sample
    decoys, records = len(sample.decoys), len(sample.truth.labels)
    null = None
    if attempt.role is Role.BLIND:
        kind = "mean" if attempt.attack == "blind_guess" else "random"
        null = scorer.null(kind, plan.options.null_draws, Seeds(attempt.seed))
    return replace(
        blank,
        records=records,
        claims=len(claims.images),
        identified=found.identified,
        matched=found.matched,
        similarity=found.similarity,
        nearest_decoy=found.nearest_decoy,
        decoy_index=found.decoy_index,
        decoys=decoys,
        p_value=tail(sum(found.identified), records, decoys),
        level=plan.level if attempt.role is Role.ATTACK else plan.options.alpha,
        scores=score.scores,
        baselines=score.baselines,
        identified_by=score.identified_by,
        null=null,
        clients=sample.owners,
    )


def judge(finding: Finding, earlier: Iterable[Finding]) -> tuple[Verdict, str]:
    """Return the verdict on a scored finding and the reason, given the controls before it."""
    assert finding.p_value is not None
    earlier = list(earlier)
    if finding.role is Role.BLIND:
        return _judge_blind(finding)
    if finding.role is Role.SOLVABLE:
        if all(finding.identified):
            return Verdict.SOLVED, ""
        return Verdict.INCONCLUSIVE, "the attack does not solve even a case made easy for it"
    broken = next((f for f in earlier if f.role is Role.BLIND and _is_doubtful(f)), None)
    if broken is not None:
        return Verdict.INCONCLUSIVE, f"the scoring is in doubt: {broken.note}"
    if finding.p_value <= finding.level:
        return Verdict.LEAK, ""
    control = next(
        (f for f in earlier if f.role is Role.SOLVABLE and f.attack == finding.attack), None
    )
    if control is None or control.verdict is not Verdict.SOLVED:
        reason = "no control was run" if control is None else control.note
        return (
            Verdict.INCONCLUSIVE,
            f"no more than chance was identified, but the attack failed its control: {reason}",
        )
    return Verdict.NO_LEAK, ""


def _judge_blind(finding: Finding) -> tuple[Verdict, str]:
    if _is_doubtful(finding):
        assert finding.null is not None
        share = finding.null.count / finding.null.total
        return Verdict.INCONCLUSIVE, (
            f"blind claims identify {share:.1%} of records, "
            f"more than the {1 / (finding.decoys + 1):.1%} of chance"
        )
    return Verdict.NO_LEAK, ""


def _is_doubtful(finding: Finding) -> bool:
    null = finding.null
    if null is None or finding.decoys == 0:
        return False
    return binomial_tail(null.count, null.total, 1 / (finding.decoys + 1)) < BROKEN_SCORING
