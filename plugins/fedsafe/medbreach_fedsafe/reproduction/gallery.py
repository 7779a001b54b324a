"""Pictures of adversarial images."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from medbreach.report.pictures import Picture, liveliest, pictures_of, side_for
from medbreach_fedsafe.evasion import predicted
from medbreach_fedsafe.reproduction.attackers import Trained, main_attackers
from medbreach_fedsafe.reproduction.run import Made
from medbreach_fedsafe.reproduction.setting import EXAMPLES
from medbreach_fedsafe.shares import Labelled


class Shown(NamedTuple):
    """One image, what was made of it, and what the network says.

    Attributes:
        words: Its class, and what the network says of both.
        clean: The image.
        attacked: The adversarial one.
        difference: Their difference from grey, amplified.
    """

    words: str
    clean: Sequence[Picture]
    attacked: Sequence[Picture]
    difference: Sequence[Picture]


def shown(made: Made, name: str) -> list[Shown]:
    """Return images of different patients that a network has right, and what becomes of them."""
    whole = made.trained[name]
    network = whole.held()[0]
    trained = dataclasses.replace(whole, test=_few(whole, network))
    if not len(trained.test):
        return []
    attacker = main_attackers(made.setting.eps, made.setting.scale)[0]
    spec, test = trained.learner.shares.spec, trained.test
    attacked = trained.images(attacker, 0, [network])
    before, after = (predicted([network], x, spec) for x in (test.images, attacked))
    side = side_for(3 * len(test), spec)
    classes = trained.learner.shares.classes
    found = []
    for k, clean in enumerate(test.images):
        said = [classes[int(c[k])] for c in (test.labels, before, after)]
        difference = amplified(clean, attacked[k], attacker.evasion.eps, spec.bounds)
        places = liveliest(clean)
        shots = [pictures_of(x, spec, side, places) for x in (clean, attacked[k], difference)]
        found.append(Shown(f"{said[0]}; the network says {said[1]}, then {said[2]}", *shots))
    return found


def amplified(clean: Tensor, attacked: Tensor, eps: float, bounds: tuple[float, float]) -> Tensor:
    """Return the difference around the middle of the bounds; the ball spans them."""
    low, high = bounds
    return ((low + high) / 2 + (attacked - clean) * 0.5 / eps).clamp(low, high)


def _few(trained: Trained, network: nn.Module) -> Labelled:
    """Return one image of each of some patients, of those that are right, classes in turn."""
    test, spec = trained.test, trained.learner.shares.spec
    right = predicted([network], test.images, spec) == test.labels
    first: dict[int, int] = {}
    for k in right.nonzero().flatten().tolist():
        first.setdefault(int(test.patients[k]), k)
    labels = test.labels.tolist()
    queues = {c: [k for k in first.values() if labels[k] == c] for c in sorted(set(labels))}
    rows: list[int] = []
    while len(rows) < EXAMPLES and any(queues.values()):
        rows += [queue.pop(0) for queue in queues.values() if queue]
    chosen = torch.tensor(rows[:EXAMPLES], dtype=torch.long)
    return Labelled(test.images[chosen], test.labels[chosen], test.patients[chosen])
