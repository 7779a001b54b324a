"""The audit: every attempt of a plan, scored against the truth, with its controls."""

import contextlib
import copy
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from medbreach.case import Case, Sample, draw
from medbreach.collection import Collection
from medbreach.components import Attack, Defense, Workload
from medbreach.errors import (
    ContractError,
    DataError,
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
from medbreach.replay import replay
from medbreach.round import agreed_network, given_by, honest_network, planted, play
from medbreach.scoring import Score, Scorer
from medbreach.statistics import tail
from medbreach.text import blaming, in_a_line
from medbreach.types import Exchange, Finding, Guarantee, Reconstruction, Role, Verdict
from medbreach.verdicts import judge

log = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """What an attempt leaves behind.

    Attributes:
        attempt: What was tried.
        finding: What it showed.
        sample: The images that it was tried on; None if it came to nothing.
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
            played = replay if case.captured else play
            self._played = {key: played(case, sample, defenses, Seeds(seed), self.device)}
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
    seeds = len(options.seed_numbers)
    if tail(seeds * len(sample.truth.labels), sample.pools * seeds) > plan.levels.pooled:
        raise DataError(
            f"with {len(sample.truth.labels)} records and {len(sample.decoys)} decoys even a "
            "perfect reconstruction could not be told from luck: give more images, or raise "
            "case.user.num_data_points, audit.decoys or audit.seeds"
        )
    network = honest_network(plan.case, sample, Seeds(first))
    _try_loss(plan.case, network, sample)
    for stack in plan.stacks.values():
        guarantees(plan.case, stack)
        agreed_network(plan.case, sample, stack, Seeds(first))
    public = sample.public if plan.case.server.has_external_data else sample.public[:0]
    with blaming(ModelError, f"{plan.case.server.name} cannot change the network"):
        planted(plan.case.server, network, sample.spec, public, Seeds(0).stream("check"))
    return sample


def _try_loss(case: Case, network: nn.Module, sample: Sample) -> None:
    """Compute the loss and its gradient once, for two images of the last class.

    Raises:
        ModelError: That fails, or gives no finite number.
    """
    images = sample.spec.normalise(sample.public[:2])
    labels = torch.full((len(images),), sample.classes - 1)
    failure = f"the loss of {case.model.name} cannot be computed for {sample.classes} classes"
    with blaming(ModelError, failure):
        loss = case.model.loss()(network.eval()(images), labels)
        weights = [p for p in network.parameters() if p.requires_grad]
        torch.autograd.grad(loss, weights, allow_unused=True)
        value = float(loss.detach())
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
    blank = Finding(
        case=plan.case.name,
        server=plan.case.server.name,
        attack=attempt.attack,
        defenses=() if attempt.stack == UNDEFENDED else tuple(attempt.stack.split("+")),
        seed=attempt.seed,
        role=attempt.role,
        verdict=Verdict.FAILED,
        level=plan.levels.single,
        device=str(bench.device),
        guarantees=guarantees(plan.case, plan.stacks.get(attempt.stack, ())),
    )
    try:
        scored, sample, claims = _tried(bench, attempt, blank)
    except Exception as error:  # noqa: BLE001 - one broken component must not end the audit
        verdict, note = _why_not(error, attempt)
        return Outcome(attempt, replace(blank, verdict=verdict, note=note), None, None)
    verdict, note = judge(scored, earlier)
    return Outcome(attempt, replace(scored, verdict=verdict, note=note), sample, claims)


def guarantees(case: Case, stack: Sequence[Defense]) -> tuple[Guarantee, ...]:
    """Return what differential privacy defenses give over a whole training of such rounds.

    A server that asks several times about the same records learns from each answer.

    Raises:
        ConfigError: A defense is asked for a guarantee that its mechanism does not give.
    """
    user, recipe = case.user, case.user.recipe
    work = Workload(
        steps=case.server.num_queries * (1 if recipe is None else recipe.steps),
        records_per_step=user.num_data_points if recipe is None else recipe.records_per_step,
        records=user.num_data_points,
        updates=case.server.num_queries,
    )
    return given_by(stack, work)


def _tried(
    bench: _Bench, attempt: Attempt, blank: Finding
) -> tuple[Finding, Sample, Reconstruction]:
    """Play the attempt's round, attack it, and score the claims."""
    plan, attack = bench.plan, bench.plan.attacks[attempt.attack]
    case = plan.case if attempt.role is not Role.SOLVABLE else _control_case(attack, plan.case)
    sample = bench.sample(case, attempt.seed)
    exchanges = bench.exchanges(case, attempt.seed, attempt.stack)
    scorer = bench.scorer(sample)  # fitted before the attack runs
    with measured(bench.device) as cost:
        try:
            claims = _run(attack, exchanges, Seeds(attempt.seed))
        except Refused as error:
            raise ContractError(f"{attack.name} refused, which only a defense may") from error
    scored = _scored(blank, scorer, claims, plan, attempt)
    scored = replace(scored, seconds=cost.seconds, peak_memory_mb=cost.peak_memory_mb)
    return scored, sample, claims


def _why_not(error: Exception, attempt: Attempt) -> tuple[Verdict, str]:
    """Return the verdict on an attempt that came to nothing, and the reason.

    Raises:
        InputError: The input is unusable, for all attempts.
    """
    if isinstance(error, NotApplicable):
        return Verdict.NOT_APPLICABLE, str(error)
    if isinstance(error, Refused):
        return Verdict.REFUSED, str(error)
    if isinstance(error, ContractError):
        return Verdict.FAILED, str(error)
    if isinstance(error, InputError):
        if attempt.role is not Role.SOLVABLE or isinstance(error, RecordError):
            raise error
        return Verdict.NOT_APPLICABLE, f"its control cannot be set up: {error}"
    log.debug("%s failed", attempt.id, exc_info=error)
    return Verdict.FAILED, in_a_line(error)


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
    """Return the exchange with nothing in it that an attack could spoil for others."""
    return replace(exchange, rounds=copy.deepcopy(exchange.rounds), public=exchange.public.clone())


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    there = [p for p in parts if p is not None]
    return torch.cat(there) if len(there) == len(parts) else None


def _scored(
    blank: Finding, scorer: Scorer, claims: Reconstruction, plan: Plan, attempt: Attempt
) -> Finding:
    score: Score = scorer.score(claims)
    found, sample = score.identification, scorer.sample
    null = None
    if attempt.role is Role.BLIND:
        pool = sample.public if attempt.attack == "random_public_image" else claims.images
        null = scorer.null(pool, plan.options.null_draws, Seeds(attempt.seed))
    return replace(
        blank,
        records=len(sample.truth.labels),
        claims=len(claims.images),
        identified=found.identified,
        matched=found.matched,
        similarity=found.similarity,
        nearest_decoy=found.nearest_decoy,
        decoy_index=found.decoy_index,
        threshold=found.threshold,
        decoys=min(pool.decoys for pool in sample.pools),
        pools=sample.pools,
        p_value=tail(sum(found.identified), sample.pools),
        level=plan.levels.single if attempt.role is Role.ATTACK else plan.options.alpha,
        scores=score.scores,
        baselines=score.baselines,
        identified_by=score.identified_by,
        null=null,
        clients=sample.owners,
        note="; ".join(f"{name} failed: {why}" for name, why in score.problems.items()),
    )
