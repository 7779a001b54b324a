"""Findings of all seeds together, as figures and comparisons show them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from medbreach.conclusion import Conclusion
from medbreach.report import phrasing
from medbreach.statistics import chance, wilson
from medbreach.types import Finding, Rate, Role, Verdict


class Group(NamedTuple):
    """Every seed of one attack, or control, on one stack of defenses, as far as it was scored.

    Attributes:
        role: Whether it is an attack or a control.
        attack: Name of the attack's settings.
        defenses: Names of the defenses.
        verdict: What the seeds say together; for controls, what the last of them says.
        findings: The scored findings; never empty.
    """

    role: Role
    attack: str
    defenses: tuple[str, ...]
    verdict: Verdict
    findings: tuple[Finding, ...]

    @property
    def title(self) -> str:
        """What to call it."""
        behind = f" behind {', '.join(self.defenses)}" if self.defenses else ""
        return f"{self.attack}{behind}"

    @property
    def identified(self) -> Rate:
        """Identified records of all private records."""
        return wilson(
            sum(sum(f.identified) for f in self.findings), sum(f.records for f in self.findings)
        )

    @property
    def null(self) -> Rate | None:
        """False identifications over the many draws of a blind control; None without draws."""
        rates = [f.null for f in self.findings if f.null is not None]
        return wilson(sum(r.count for r in rates), sum(r.total for r in rates)) if rates else None

    @property
    def chance(self) -> float:
        """Probability that luck identifies a record."""
        return chance(min(f.decoys for f in self.findings))

    def scores(self, metric: str) -> list[float]:
        """Return the scores of all matched records."""
        return [
            score
            for finding in self.findings
            for score in finding.scores.get(metric, ())
            if score is not None
        ]

    def identified_by(self, likeness: str) -> Rate | None:
        """Return how many records another likeness would identify; None where it was left out."""
        known = [f for f in self.findings if likeness in f.identified_by]
        if not known:
            return None
        return wilson(sum(f.identified_by[likeness] for f in known), sum(f.records for f in known))


def grouped(findings: Iterable[Finding], conclusion: Conclusion) -> list[Group]:
    """Return the scored findings by role, attack and defenses: attacks first, then controls."""
    verdicts: Mapping[tuple[str, tuple[str, ...]], Verdict] = {
        (cell.attack, cell.defenses): cell.verdict for cell in conclusion.cells
    }
    members: dict[tuple[Role, str, tuple[str, ...]], list[Finding]] = {}
    for finding in findings:
        if finding.p_value is not None:
            members.setdefault((finding.role, finding.attack, finding.defenses), []).append(finding)
    order = list(Role)
    return [
        Group(
            role,
            attack,
            defenses,
            verdicts[attack, defenses] if role is Role.ATTACK else found[-1].verdict,
            tuple(found),
        )
        for (role, attack, defenses), found in sorted(
            members.items(), key=lambda item: order.index(item[0][0])
        )
    ]


def median_scores(finding: Finding) -> dict[str, float | None]:
    """Return the median of each score over the matched records; None if there is none."""
    found: dict[str, float | None] = {}
    for name, scores in finding.scores.items():
        there = [s for s in scores if s is not None]
        found[name] = phrasing.middle(name, there) if there else None
    return found


def with_role(groups: Iterable[Group], *roles: Role) -> list[Group]:
    """Return the groups that have one of these roles."""
    return [group for group in groups if group.role in roles]


def metrics_of(groups: Iterable[Group]) -> list[str]:
    """Return the names of all scores that were computed, in order."""
    return list(dict.fromkeys(name for g in groups for f in g.findings for name in f.scores))


def baseline(groups: Sequence[Group], metric: str, image: str) -> float | None:
    """Return the median over findings of the score of an image that shows nothing of a record."""
    found = [
        f.baselines[metric][image]
        for group in groups
        for f in group.findings
        if image in f.baselines.get(metric, {})
    ]
    return phrasing.middle(metric, found) if found else None
