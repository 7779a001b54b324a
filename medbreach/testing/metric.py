"""What every metric keeps."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from medbreach.components import Metric
from medbreach.errors import NotApplicable
from medbreach.testing.declaration import check_declaration
from medbreach.testing.examples import FORMS, Form, tiny_sample
from medbreach.testing.guard import repeatable, require, running

RECORDS = 4


def check_metric(
    metric: type[Metric], settings: Mapping[str, Any] | None = None, forms: Iterable[Form] = FORMS
) -> None:
    """Check that a metric keeps the contract.

    Each record has a score of its own, a number, for a black claim too; a record's copy scores
    better than other images.

    Args:
        metric: Its class.
        settings: Its settings.
        forms: Sizes and channels of the images to try; it must apply to one of them.

    Raises:
        AssertionError: It does not; the sentence says how.
    """
    made = check_declaration(metric, settings)
    for attribute in ("unit", "better"):
        require(
            bool(getattr(made, attribute, "")),
            f'{made.name} has no {attribute}: {attribute}: ClassVar[...] = "..."',
        )
    require(made.better in ("higher", "lower"), f'{made.name}: better is "higher" or "lower"')
    reasons = [_check_form(made, form) for form in forms]
    require(
        "" in reasons,
        f"{made.name} applies to none of the images that it was tried on: {'; '.join(reasons)}",
    )


def _check_form(metric: Metric, form: Form) -> str:
    """Check a metric on one form of images; return why it does not apply, or ``""``."""
    who = f"{metric.name} on {form}"
    sample = tiny_sample(*form)
    spec, truth, others = sample.spec, sample.public[:RECORDS], sample.decoys[:RECORDS]
    try:
        scores = repeatable(
            who, lambda: metric(others, truth, spec), claim=others, truth=truth, spec=spec
        )
    except NotApplicable as reason:
        return f"{form}: {reason}"
    require(bool(scores.isfinite().all()), f"{who}: only an exact copy may score infinity")
    with running(who):
        copies = metric(truth.clone(), truth, spec)
        alone = torch.cat(
            [metric(others[i : i + 1], truth[i : i + 1], spec) for i in range(RECORDS)]
        )
        none = metric(others[:0], truth[:0], spec)
        metric(torch.full_like(truth, spec.bounds[0]), truth, spec)
    require(
        _all_better(metric, copies, scores),
        f"{who} says {metric.better} is better, but an exact copy scores {copies.tolist()} and "
        f"another image {scores.tolist()}",
    )
    require(
        torch.allclose(alone, scores, rtol=1e-4, atol=1e-6),
        f"{who}: a record's score depends on the other records",
    )
    require(len(none) == 0, f"{who}: no records, no scores")
    return ""


def _all_better(metric: Metric, copies: Tensor, scores: Tensor) -> bool:
    better = copies > scores if metric.better == "higher" else copies < scores
    return bool(better.all())
