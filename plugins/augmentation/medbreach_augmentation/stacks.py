"""What augmentation cannot be stacked with."""

from collections.abc import Sequence

from medbreach import Defense


def counts_records_inside(defense: Defense, stack: Sequence[Defense]) -> bool:
    """Return whether a defense further inside bounds what each record adds to a step.

    Augmentation around it would hand it several images of one record, each with a bound of its own.
    """
    inside = stack[: next(k for k, other in enumerate(stack) if other is defense)]
    return any(
        type(other).step is not Defense.step and type(other).guarantee is not Defense.guarantee
        for other in inside
    )
