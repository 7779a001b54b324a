"""What an audit will do, before it does anything."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from medbreach.case import Case
from medbreach.components import Attack, Defense, Metric
from medbreach.errors import ConfigError
from medbreach.text import blaming, file_name
from medbreach.types import Role

BLIND = ("blind_guess", "random_public_image")
UNDEFENDED = "none"
ADAPTIVE = " (adaptive)"
"""Ends the name of an attack that knows the defenses, beside the one that does not."""
MOST_SEEDS = 1000


@dataclass(frozen=True)
class Options:
    """How an audit is run and judged.

    Attributes:
        seeds: Number of seeds (0, 1, ...), or the seeds themselves.
        decoys: Decoys of each class of the records, as far as the data set has them.
        public: Public images that an attacker may hold, at most; memory limits them too.
        alpha: Probability at most of calling harmless updates a leak, over the whole audit.
        whitening: Share of the public images' variance on the whitened principal axes.
        null_draws: Draws of the blind controls' null distribution.
        metrics: Scores that describe each claim.
        checkpoint_seconds: Least time between two checkpoints of a long attack.
    """

    seeds: int | tuple[int, ...] = 1
    decoys: int = 99
    public: int = 1000
    alpha: float = 0.05
    whitening: float = 0.99
    null_draws: int = 200
    metrics: tuple[str, ...] = ("psnr", "ssim", "mse", "mse_normalised", "lpips")
    checkpoint_seconds: float = 15.0

    def __post_init__(self) -> None:
        count = self.seeds if isinstance(self.seeds, int) else len(self.seeds)
        if not 1 <= count <= MOST_SEEDS:
            raise ValueError(f"seeds must be 1 to {MOST_SEEDS} seeds, got {count}")
        if self.decoys < 1:
            raise ValueError(f"decoys must be at least 1, got {self.decoys}")
        if self.public < 2:
            raise ValueError(f"public must be at least 2, got {self.public}")
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha must lie between 0 and 1, got {self.alpha}")
        if not 0 < self.whitening <= 1:
            raise ValueError(f"whitening must lie above 0 and at most at 1, got {self.whitening}")
        if self.null_draws < 1:
            raise ValueError(f"null_draws must be at least 1, got {self.null_draws}")

    @property
    def seed_numbers(self) -> tuple[int, ...]:
        """The seeds themselves."""
        if isinstance(self.seeds, int):
            return tuple(range(self.seeds))
        return tuple(dict.fromkeys(self.seeds))


@dataclass(frozen=True)
class Attempt:
    """One attack on one round.

    Attributes:
        attack: Name of the attack's settings.
        stack: Name of the stack of defenses.
        seed: Seed of the attempt.
        role: Whether it is an attack or one of the controls beside it.
    """

    attack: str
    stack: str
    seed: int
    role: Role

    @property
    def id(self) -> str:
        """Name of the attempt, fit for a file name and unique in its run."""
        words = (self.role.split()[0], self.attack, self.stack, f"seed{self.seed}")
        return "--".join(map(file_name, words))


class Levels(NamedTuple):
    """P-values at or below which findings are a leak; all together they err with alpha at most.

    Attributes:
        single: For one attack on one stack of defenses with one seed.
        pooled: For all of its seeds together.
    """

    single: float
    pooled: float

    @classmethod
    def sharing(cls, alpha: float, cells: int, seeds: int) -> "Levels":
        """Share alpha among cells (an attack on a stack each), half to seeds and half to all.

        >>> Levels.sharing(0.05, 1, 1)
        Levels(single=0.05, pooled=0.05)
        >>> Levels.sharing(0.05, 1, 5)
        Levels(single=0.005, pooled=0.025)
        """
        own = alpha / max(1, cells)
        return cls(own, own) if seeds <= 1 else cls(own / (2 * seeds), own / 2)

    @classmethod
    def of(cls, alpha: float, attempts: Iterable[str]) -> "Levels":
        """Return the levels of a run from the ids of its attempts."""
        parts = [a.rsplit("--", 1) for a in attempts if a.startswith(f"{Role.ATTACK}--")]
        return cls.sharing(alpha, len({cell for cell, _ in parts}), len({s for _, s in parts}))


def conflict_in(stack: Sequence[Defense]) -> str:
    """Return why a stack's defenses contradict each other, or ``""``.

    Raises:
        ConfigError: A defense cannot tell.
    """
    for defense in stack:
        with blaming(ConfigError, f"{defense.name} cannot tell what it conflicts with"):
            conflict = defense.conflict(stack)
        if conflict:
            return conflict
    return ""


@dataclass(frozen=True)
class Plan:
    """Every attack x stack of defenses x seed of a case, and the controls beside them.

    Attributes:
        case: The federated setting.
        attacks: Attacks by the name of their settings, the blind ones included.
        stacks: Stacks of defenses by name, innermost first; ``none`` is empty.
        metrics: Scores that describe each claim.
        options: How the audit is run and judged.
    """

    case: Case
    attacks: Mapping[str, Attack]
    stacks: Mapping[str, tuple[Defense, ...]]
    metrics: tuple[Metric, ...]
    options: Options = Options()

    def __post_init__(self) -> None:
        ids = [attempt.id for attempt in self.attempts()]
        twice = next((one for one, count in Counter(ids).items() if count > 1), None)
        if twice is not None:
            raise ConfigError(f"two attempts would both be recorded as {twice}: rename one")
        for name, stack in self.stacks.items():
            conflict = conflict_in(stack)
            if conflict:
                raise ConfigError(f"defense={name}: {conflict}")

    @property
    def tested(self) -> tuple[str, ...]:
        """Names of the attacks that are not controls."""
        return tuple(name for name, attack in self.attacks.items() if not attack.blind)

    @property
    def cells(self) -> tuple[tuple[str, str], ...]:
        """Every attack on every stack of defenses, but for attacks with nothing to adapt to."""
        return tuple(
            (name, stack)
            for stack, members in self.stacks.items()
            for name in self.tested
            if not is_adaptive(name) or any(d.can_be_adapted_to for d in members)
        )

    @property
    def levels(self) -> "Levels":
        """What p-value is a leak."""
        seeds = len(self.options.seed_numbers)
        return Levels.sharing(self.options.alpha, len(self.cells), seeds)

    def attempts(self) -> Iterator[Attempt]:
        """Yield every attempt; controls come before what they control."""
        first = self.options.seed_numbers[0]
        for name in self.tested:
            if not is_adaptive(name):
                yield Attempt(name, UNDEFENDED, first, Role.SOLVABLE)
        for seed in self.options.seed_numbers:
            for name, attack in self.attacks.items():
                if attack.blind:
                    yield Attempt(name, UNDEFENDED, seed, Role.BLIND)
            for name, stack in self.cells:
                yield Attempt(name, stack, seed, Role.ATTACK)


def is_adaptive(attack: str) -> bool:
    """Return whether an attack's name is that of one that knows the defenses."""
    return attack.endswith(ADAPTIVE)


def with_adaptive(attacks: Mapping[str, Attack]) -> dict[str, Attack]:
    """Return attacks by name, those that adapt to defenses twice: once as if they knew nothing."""
    found: dict[str, Attack] = {}
    for name, attack in attacks.items():
        if getattr(attack, "adaptive", False):
            found[name] = replace(attack, adaptive=False)  # type: ignore[type-var]
            found[f"{name}{ADAPTIVE}"] = attack
        else:
            found[name] = attack
    return found
