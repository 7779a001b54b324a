"""The rule by which the DKFZ notebooks count a record as reconstructed.

It chooses by the private record itself, and accepts whatever has a mean squared error below 0.1 on
intensities from 0 to 1. It is kept to compare with, beside what a black image and the mean public
image score under it.
"""

from typing import Final, NamedTuple

from jaxtyping import Float
from torch import Tensor

from medbreach.types import ImageSpec

ACCEPTED: Final = 0.1


class RuleScore(NamedTuple):
    """What the rule says.

    Attributes:
        claims: Records that a claim is accepted for.
        black: Records that a black image would be accepted for.
        mean: Records that the mean public image would be accepted for.
    """

    claims: int
    black: int
    mean: int


def rule_score(
    claims: Float[Tensor, "claims channels *space"],
    truth: Float[Tensor, "records channels *space"],
    public: Float[Tensor, "public channels *space"],
    spec: ImageSpec,
) -> RuleScore:
    """Score claims by the rule: each claim goes to the record that it is nearest to."""
    records = _unit(truth, spec)
    accepted = set()
    for claim in claims:
        errors = (records - _unit(claim[None], spec)).square().mean(1)
        nearest = int(errors.argmin())
        if float(errors[nearest]) < ACCEPTED:
            accepted.add(nearest)
    mean = _unit(public.mean(0, keepdim=True), spec)
    return RuleScore(
        claims=len(accepted),
        black=int((records.square().mean(1) < ACCEPTED).sum()),
        mean=int(((records - mean).square().mean(1) < ACCEPTED).sum()),
    )


def _unit(images: Tensor, spec: ImageSpec) -> Float[Tensor, "n voxels"]:
    return ((images - spec.bounds[0]) / spec.range).flatten(1)
