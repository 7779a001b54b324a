"""Who attacks which network of a federation that was trained, and what the networks answer."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from medbreach import Seeds
from medbreach.storage import arrays_to_bytes, read_arrays, write_whole
from medbreach_fedsafe.evasion import Evasion, predicted
from medbreach_fedsafe.learner import ClassifierLearner
from medbreach_fedsafe.measures import Answers
from medbreach_fedsafe.noise import with_noise
from medbreach_fedsafe.reproduction.setting import Scale, pgd
from medbreach_fedsafe.rule import FedSafeRule
from medbreach_fedsafe.shares import Labelled

OWN: Final = "own"
GLOBAL: Final = "global"
AVERAGED: Final = "averaged"
Space = Literal["pixels", "normalised"]
METHODS: Final[tuple[Literal["pgd", "fgsm"], ...]] = ("pgd", "fgsm")
NONE: Final = -1  # a source that is no client, in files


class Attacker(NamedTuple):
    """Who makes adversarial images, and how.

    Attributes:
        name: What it is called.
        evasion: How it makes them.
        knows: ``own``: each client's own network; ``averaged``: the same, and the gradient is
            averaged over noise like that between two clients (EOT); ``global``: the mean before
            noise, which only the server has.
        past: Start from what this many past global networks add up to.
        draws: Draws of the noise, of ``averaged``.
    """

    name: str
    evasion: Evasion
    knows: str = OWN
    past: int = 0
    draws: int = 0


def main_attackers(eps: float, scale: Scale) -> list[Attacker]:
    """Return the attackers of the main table, the plain white-box one first."""
    main = pgd(eps)
    longer = dataclasses.replace(main, method="apgd", step=2 * eps, iterations=20)
    return [
        Attacker("PGD on the own network", main),
        Attacker("FGSM on the own network", dataclasses.replace(main, method="fgsm")),
        Attacker("APGD on the own network, 20 steps", longer),
        Attacker("the last 5 global networks first", main, past=5),
        Attacker("the last 10 global networks first", main, past=10),
        Attacker("averaged over weight noise (EOT)", main, AVERAGED, draws=scale.draws),
        Attacker("PGD on the global network", main, GLOBAL),
        Attacker("signs at random (control)", dataclasses.replace(main, method="random")),
    ]


def grid_attackers(scale: Scale) -> list[Attacker]:
    """Return PGD and FGSM over the grids of both spaces."""
    return list(_grid(scale))


def _grid(scale: Scale) -> Iterator[Attacker]:
    spaces: dict[Space, tuple[float, ...]] = {
        "pixels": scale.pixels, "normalised": scale.normalised
    }  # fmt: skip
    for method in METHODS:
        for space, grid in spaces.items():
            for eps in grid:
                evasion = dataclasses.replace(pgd(eps), method=method, space=space)
                yield Attacker(f"{method}, {space}, {eps:g}", evasion)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A federation that was trained.

    Attributes:
        folder: Where it is kept.
        learner: Its clients.
        rule: Its server.
        rounds: Rounds that were played.
        seed: Its seed.
        test: The images for evaluation.
    """

    folder: Path
    learner: ClassifierLearner
    rule: FedSafeRule
    rounds: int
    seed: int
    test: Labelled

    def held(self) -> list[nn.Module]:
        """Return each client's network: what it is sent after the last round."""
        return [
            self.learner.network(self.rule.send(k, self.rounds + 1, self.rule.past[-1]))
            for k in range(self.learner.clients)
        ]

    def answers(self, attackers: Sequence[Attacker]) -> dict[str, Answers]:
        """Return the networks' answers to each attacker's images; what is kept is not repeated."""
        missing = [a for a in attackers if not self._file(a).is_file()]
        held = self.held() if missing else []
        for attacker in missing:
            self._keep(attacker, self._attacked(attacker, held))
        return {attacker.name: self._kept(attacker) for attacker in attackers}

    def images(self, attacker: Attacker, source: int, network: Sequence[nn.Module]) -> Tensor:
        """Return an attacker's images, made on one client's network, or on another's."""
        spec = self.learner.shares.spec
        rng = Seeds(self.seed).stream(f"attack/{attacker.name}/{source}")
        past = [self.learner.network(w) for w in list(self.rule.past)[-attacker.past :]]
        return attacker.evasion(
            network, self.test.images, self.test.labels, spec, rng, past if attacker.past else ()
        )

    def seen(self, attacker: Attacker, held: Sequence[nn.Module]) -> list[list[nn.Module]]:
        """Return the networks that each source attacks."""
        if attacker.knows == GLOBAL:
            return [[self.learner.network(self.rule.past[-1])]]
        if attacker.knows == OWN:
            return [[network] for network in held]
        return [self._around(network, k, attacker.draws) for k, network in enumerate(held)]

    def _around(self, network: nn.Module, client: int, draws: int) -> list[nn.Module]:
        """Return networks that another client may hold, as far as one client can know.

        The mean is its own network less noise of deviation sigma, another's the mean and noise
        again: together a deviation of sqrt(2) sigma around its own.
        """
        settings = self.learner.settings
        if not settings.downlink or settings.sigma == 0:
            return [network]
        rng = Seeds(self.seed).stream(f"around/{client}")
        weights = {name: t.cpu() for name, t in network.state_dict().items()}
        sigma = math.sqrt(2) * settings.sigma
        trained = self.learner.trained
        return [
            self.learner.network(with_noise(weights, sigma, trained, rng)) for _ in range(draws)
        ]

    def _attacked(self, attacker: Attacker, held: Sequence[nn.Module]) -> Answers:
        spec, images = self.learner.shares.spec, self.test.images
        clean = np.stack([predicted([one], images, spec).numpy() for one in held])
        answers = []
        for source, networks in enumerate(self.seen(attacker, held)):
            made = self.images(attacker, source, networks)
            answers.append(np.stack([predicted([one], made, spec).numpy() for one in held]))
        sources = (None,) if attacker.knows == GLOBAL else tuple(range(len(held)))
        return Answers(
            self.test.labels.numpy(), self.test.patients.numpy(), clean, np.stack(answers), sources
        )

    def _file(self, attacker: Attacker) -> Path:
        name = "".join(c if c.isalnum() or c == "." else "-" for c in attacker.name)
        return self.folder / "answers" / f"{name}.npz"

    def _keep(self, attacker: Attacker, found: Answers) -> None:
        sources = np.array([NONE if s is None else s for s in found.sources])
        content = arrays_to_bytes(
            labels=found.labels, patients=found.patients, clean=found.clean,
            attacked=found.attacked, sources=sources,
        )  # fmt: skip
        write_whole(self._file(attacker), content)

    def _kept(self, attacker: Attacker) -> Answers:
        """Return answers from a file.

        Raises:
            RecordError: It is damaged.
        """
        names = ("labels", "patients", "clean", "attacked", "sources")
        arrays = read_arrays(self._file(attacker), *names)
        sources = tuple(None if s == NONE else int(s) for s in arrays.pop("sources"))
        return Answers(**arrays, sources=sources)


def some_of(test: Labelled, most: int) -> Labelled:
    """Return at most so many images, one of each patient in turn."""
    turns: dict[int, int] = {}
    order = []
    for k, patient in enumerate(test.patients.tolist()):
        turns[patient] = turns.get(patient, -1) + 1
        order.append((turns[patient], k))
    rows = torch.tensor(sorted(k for _, k in sorted(order)[:most]))
    return Labelled(test.images[rows], test.labels[rows], test.patients[rows])
