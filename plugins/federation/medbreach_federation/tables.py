"""What a federation came to, as text."""

import textwrap
from collections.abc import Sequence
from typing import Final

from medbreach.report.phrasing import in_columns
from medbreach_federation.prepare import Federation
from medbreach_federation.record import WEIGHTS, RoundLine

WIDTH: Final = 110
ROWS: Final = 12


def as_text(made: Federation, lines: Sequence[RoundLine]) -> str:
    """Return a table of rounds, and what is to be known of them."""
    setting, plan = made.setting, made.learner.session.plan
    stack = "+".join(d.name for d in made.learner.defenses) or "no defense"
    about = (
        f"{made.learner.clients} clients train {plan.case.model.name} with {stack} by "
        f"{setting.strategy}, {setting.fraction:.0%} of them a round, {setting.local_epochs} local "
        f"epochs of batches of {setting.batch_size} at {setting.learning_rate:g}. The network is "
        "tested on the public's labelled images: patients who took no part."
    )
    names = list(lines[0].evaluation)
    rows = [
        [
            str(line.round),
            *(f"{line.evaluation[name]:.3f}" for name in names),
            str(len(line.clients)),
            str(len(line.isolated)),
            f"{line.seconds:.1f}",
        ]
        for line in _spread(lines)
    ]
    told = [
        f"Round {line.round} went on without client {client}: {why}."
        for line in lines
        for client, why in line.isolated.items()
    ]
    given = [
        f"{g.how} Over the training: epsilon {g.epsilon:.3g} at delta {g.delta:g} "
        f"({g.unit}, {g.adjacency})."
        for g in made.guarantees()
    ]
    paragraphs = [
        f"Federation: {plan.case.name}",
        textwrap.fill(about, WIDTH),
        in_columns([["round", *names, "clients", "left out", "seconds"], *rows]),
        *(textwrap.fill(words, WIDTH) for words in (*told, *given)),
        f"weights: {made.folder / WEIGHTS}",
    ]
    return "\n\n".join(paragraphs)


def _spread(lines: Sequence[RoundLine]) -> list[RoundLine]:
    """Return so many lines as fit, spread over all, the first and the last among them."""
    if len(lines) <= ROWS:
        return list(lines)
    return [lines[round(k * (len(lines) - 1) / (ROWS - 1))] for k in range(ROWS)]
