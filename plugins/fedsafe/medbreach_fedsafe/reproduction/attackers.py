"""Who attacks which network of a federation that was trained, and what the networks answer."""

import dataclasses
import hashlib
import json
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
from medbreach_fedsafe.measures import MEASURES, Answers
from medbreach_fedsafe.noise import with_noise
from medbreach_fedsafe.reproduction.setting import Scale, pgd, published_pgd
from medbreach_fedsafe.rule import FedSafeRule
from medbreach_fedsafe.shares import Labelled

OWN: Final = "own"
GLOBAL: Final = "global"
AVERAGED: Final = "averaged"
MAIN: Final = "PGD on the own network"
FGSM: Final = "FGSM on the own network"
CONTROL: Final = "signs at random (control)"
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
        past: Start from what this many global networks before the last one add up to.
        draws: Draws of the noise, of ``averaged``.
    """

    name: str
    evasion: Evasion
    knows: str = OWN
    past: int = 0
    draws: int = 0

    @property
    def measures(self) -> tuple[str, ...]:
        """What is told of it: of APGD, which returns a random start where it fails, self alone."""
        return ("asr_self",) if self.evasion.method == "apgd" else MEASURES[1:]

    @property
    def white_box(self) -> bool:
        """Whether it attacks the network that it is judged on, with its gradient."""
        return self.knows != GLOBAL and self.evasion.method != "random"

    def key(self, images: int) -> str:
        """Return what is different wherever its answers on so many images may be."""
        settings = (dataclasses.asdict(self.evasion), self.knows, self.past, self.draws, images)
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]


def main_attackers(eps: float, scale: Scale) -> list[Attacker]:
    """Return the attackers of the main table, the plain white-box one first.

    All but FGSM and the control go as many steps as the first.
    """
    main = pgd(eps)
    return [
        Attacker(MAIN, main),
        Attacker(FGSM, dataclasses.replace(main, method="fgsm")),
        Attacker("BIM on the own network", dataclasses.replace(main, method="bim")),
        Attacker("APGD on the own network", dataclasses.replace(main, method="apgd", step=2 * eps)),
        Attacker("PGD, 5 earlier global networks first", main, past=5),
        Attacker("PGD, 10 earlier global networks first", main, past=10),
        Attacker("PGD averaged over weight noise (EOT)", main, AVERAGED, draws=scale.draws),
        Attacker("PGD on the global network", main, GLOBAL),
        Attacker(CONTROL, dataclasses.replace(main, method="random")),
    ]


def grid_attackers(eps: float, scale: Scale) -> list[Attacker]:
    """Return PGD and FGSM over the grids of both spaces, as published in the normalised one.

    One that is in the main table is that one.
    """
    known = {a.evasion: a for a in main_attackers(eps, scale)[:2]}
    return [known.get(one.evasion, one) for one in _grid(scale)]


def _grid(scale: Scale) -> Iterator[Attacker]:
    for method in METHODS:
        for attack in (*map(pgd, scale.pixels), *map(published_pgd, scale.normalised)):
            evasion = dataclasses.replace(attack, method=method)
            yield Attacker(f"{method}, {evasion.space}, {evasion.eps:g}", evasion)


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
        earlier = list(self.rule.past)[:-1]
        past = [self.learner.network(w) for w in earlier[-attacker.past :]] if attacker.past else []
        return attacker.evasion(network, self.test.images, self.test.labels, spec, rng, past)

    def seen(self, attacker: Attacker, held: Sequence[nn.Module]) -> list[list[nn.Module]]:
        """Return the networks that each source attacks; one source where all hold the same."""
        if attacker.knows == GLOBAL:
            return [[self.learner.network(self.rule.past[-1])]]
        sources = held if self.learner.settings.downlink else held[:1]
        if attacker.knows == OWN:
            return [[network] for network in sources]
        return [self._around(network, k, attacker.draws) for k, network in enumerate(sources)]

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
        sources = (None,) if attacker.knows == GLOBAL else tuple(range(len(answers)))
        return Answers(
            self.test.labels.numpy(), self.test.patients.numpy(), clean, np.stack(answers), sources
        )

    def _file(self, attacker: Attacker) -> Path:
        name = "".join(c if c.isalnum() or c == "." else "-" for c in attacker.name)
        return self.folder / "answers" / f"{name}-{attacker.key(len(self.test))}.npz"

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
