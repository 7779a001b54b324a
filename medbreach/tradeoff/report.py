"""Writing a trade-off's tables and page."""

from collections.abc import Iterator, Mapping

import torch

from medbreach.encoding import encode
from medbreach.plan import UNDEFENDED
from medbreach.protocol import User
from medbreach.report.summary import summarise
from medbreach.settings import plain
from medbreach.storage import speaking_of, write_whole
from medbreach.tradeoff import tables
from medbreach.tradeoff.line import Line
from medbreach.tradeoff.points import Point, points
from medbreach.tradeoff.predictions import Predictions
from medbreach.tradeoff.run import Tradeoff
from medbreach.tradeoff.training import Training


def points_of(made: Tradeoff) -> list[Point]:
    """Return a point for each stack, in the order of the plan.

    Raises:
        RecordError: Something that was kept is damaged.
    """
    conclusion = summarise(made.run_record()).conclusion
    return points(_lines(made), made.predictions(), conclusion, UNDEFENDED)


def write(made: Tradeoff) -> str:
    """Write text, CSV, JSON and page into the folder; return the text.

    Raises:
        RecordError: Something that was kept is damaged.
    """
    lines, found, predictions = _lines(made), points_of(made), made.predictions()
    title, about = _title(made), _about(made, predictions)
    text = tables.as_text(title, about, found)
    setting = encode(plain(made.identity))
    with speaking_of(made.folder):
        write_whole(made.folder / "tradeoff.txt", text.encode())
        write_whole(made.folder / "tradeoff.csv", tables.as_csv(found).encode())
        write_whole(made.folder / "tradeoff.json", tables.as_json(found, lines, setting).encode())
        page = tables.as_html(title, about, found, lines)
        write_whole(made.folder / "tradeoff.html", page.encode())
    return text


def _lines(made: Tradeoff) -> list[Line]:
    order = {stack: k for k, stack in enumerate(made.session.plan.stacks)}
    return sorted(made.lines().values(), key=lambda line: (order[line.stack], line.seed))


def _title(made: Tradeoff) -> str:
    return f"What defenses buy and cost: {made.session.plan.case.name}"


def _about(made: Tradeoff, found: Mapping[tuple[str, int], Predictions]) -> list[str]:
    plan, training, sample = made.session.plan, made.training, made.session.sample
    seeds = len(made.trained_seeds)
    clients = plan.case.federation.default_clients
    return [
        f"{clients} clients train {plan.case.model.name} for {training.rounds} rounds of "
        f"{training.local_epochs} local epoch{'s' * (training.local_epochs != 1)} (batches of "
        f"{training.batch_size}, learning rate {training.learning_rate:g}), {seeds} "
        f"seed{'s' * (seeds != 1)}. The network is tested on the public's labelled images: "
        "patients who took no part in the training.",
        f"Attacks read a round of {len(sample.truth.labels)} records as the case describes it, at "
        "the network's first weights; the audit's own report lies beside this one in audit/.",
        *_guess(found),
        *_unlike(plan.case.user, training),
    ]


def _guess(predictions: Mapping[tuple[str, int], Predictions]) -> Iterator[str]:
    """Yield how good a network would be that says the most frequent class always."""
    shares = [
        float(torch.bincount(said.labels).max()) / len(said.labels)
        for (stack, _), said in predictions.items()
        if stack == UNDEFENDED
    ]
    if shares:
        yield (
            f"Saying the most frequent class always is {sum(shares) / len(shares):.1%} accurate, "
            "with an AUC of 50 %."
        )


def _unlike(user: User, training: Training) -> Iterator[str]:
    """Yield where the audited round is not a round of the training, on which strengths depend."""
    recipe = user.recipe
    if recipe is None:
        yield (
            "The audited round sends a gradient, the training changes of weights: noise and "
            "clipping of one strength do not mean the same in both. case/user=local_updates audits "
            "changes of weights."
        )
    elif recipe.lr != training.learning_rate:
        yield (
            f"The audited round trains at the rate {recipe.lr:g}, the training at "
            f"{training.learning_rate:g}: noise of one strength does not mean the same in both."
        )
