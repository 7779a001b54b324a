"""The checks, one function each; `CHECKS` is all that are run."""

import math
from collections.abc import Callable
from typing import Final

from medbreach_dp_lint.accounting import Linted
from medbreach_dp_lint.checks import claims, clipping, filters, noise, sampling
from medbreach_dp_lint.checks.finding import Finding

__all__ = ["CHECKS", "Finding", "findings"]

CHECKS: Final[tuple[Callable[[Linted], Finding | None], ...]] = (
    *clipping.CHECKS,
    *noise.CHECKS,
    *filters.CHECKS,
    *sampling.CHECKS,
    *claims.CHECKS,
)
_ORDER: Final = ("error", "warning", "note")


def findings(case: Linted) -> list[Finding]:
    """Return what is to be said about a configuration, errors first."""
    found = [made for check in CHECKS if (made := check(case)) is not None]
    if case.effective.training == math.inf and all(f.severity != "error" for f in found):
        found.append(_unaccountable(case))
    return sorted(found, key=lambda finding: _ORDER.index(finding.severity))


def _unaccountable(case: Linted) -> Finding:
    return Finding(
        "no-guarantee",
        "error",
        f"No finite epsilon can be counted: {case.effective.by}.",
        "Check the sizes of the clipping norm and of the noise.",
    )
