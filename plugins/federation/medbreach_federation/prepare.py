"""From settings to a federation of classifiers that is ready to be played."""

import contextlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from medbreach import Defense, config
from medbreach.encoding import as_read
from medbreach.errors import ConfigError, InputError, RecordError
from medbreach.models.user_network import UserNetwork
from medbreach.round import vet
from medbreach.session import Session, digest, prepare
from medbreach.settings import build as built
from medbreach.storage import LOCK, settings_in, speaking_of, write_whole
from medbreach.tradeoff.training import guarantees
from medbreach.types import Guarantee
from medbreach_federation.classifier import SETTING, ClassifierLearner
from medbreach_federation.defended_rule import DefendedRule
from medbreach_federation.flower_rule import FlowerRule
from medbreach_federation.record import check_rounds, read_state
from medbreach_federation.rule import Rule
from medbreach_federation.setting import USED_BY, Setting

CASE = "case=dermoscopy_melanoma"
WITHOUT_EFFECT = ("attack.", "audit.", "training.", "case.user.", "case.server.")
FIRST_WEIGHTS = ("case.server.pretrained", "case.server.model_state")
OF_THE_CASE = {"clients": "case.data.default_clients", "partition": "case.data.partition"}


@dataclass(frozen=True)
class Federation:
    """A federation that can be played.

    Attributes:
        learner: What clients do.
        folder: Where it is kept.
        identity: What is kept of its settings, and has to be the same to go on.
    """

    learner: ClassifierLearner
    folder: Path
    identity: dict[str, Any]

    @property
    def setting(self) -> Setting:
        """How it trains."""
        return self.learner.setting

    def rule(self) -> Rule:
        """Return what the server does, at its start."""
        setting, learner = self.setting, self.learner
        rule: Rule = FlowerRule(
            "fedavg" if setting.strategy == "fedprox" else setting.strategy,
            setting.strength,
            learner.buffers,
        )
        if any(type(d).aggregate is not Defense.aggregate for d in learner.defenses):
            return DefendedRule(rule, learner.defenses, learner.network)
        return rule

    def guarantees(self) -> tuple[Guarantee, ...]:
        """Return what differential privacy the defenses give over the training."""
        return guarantees(self.learner.defenses, self.setting.training, self.learner.images.dealt)

    def played(self) -> int:
        """Return how many rounds the folder has played.

        Raises:
            RecordError: It is damaged.
        """
        state = read_state(self.folder)
        return 0 if state is None else state.round

    def check(self) -> None:
        """Check that the folder is free, or holds what this federation can go on with.

        Raises:
            RecordError: It holds something else, or more rounds than are asked for.
        """
        there = settings_in(self.folder, SETTING, besides=(LOCK,))
        if there is not None and _to_go_on(there) != _to_go_on(as_read(self.identity)):
            raise RecordError(
                f"{self.folder} holds a federation of other settings: choose another --out"
            )
        check_rounds(self.folder, self.played(), self.setting.rounds)

    def claim(self) -> None:
        """Put the settings into the folder, which no other process may write to meanwhile.

        Raises:
            RecordError: It holds something else, or more rounds, or cannot be written.
        """
        self.check()
        wanted = as_read(self.identity)
        if settings_in(self.folder, SETTING, besides=(LOCK,)) != wanted:
            with speaking_of(self.folder):  # nothing is there, or fewer rounds, or another device
                write_whole(self.folder / SETTING, json.dumps(wanted, indent=1).encode())


def _to_go_on(identity: dict[str, Any]) -> dict[str, Any]:
    """Return what of the settings has to be the same to go on."""
    federation = {k: v for k, v in identity["federation"].items() if k not in ("rounds", "timeout")}
    return {**identity, "federation": federation, "device": ""}


def prepare_federation(
    settings: Sequence[str],
    device: torch.device,
    folder: Path | None = None,
    *,
    cases: Path | None = None,
    network: UserNetwork | None = None,
) -> Federation:
    """Return a federation, everything checked and nothing written.

    Args:
        settings: ``key=value`` each, ``federation.key=value`` among them.
        device: Where clients compute.
        folder: Where to keep everything; None for one that is named after the case.
        cases: The user's own config tree, searched first.
        network: The user's own network.

    Raises:
        InputError: Something does not fit.
    """
    chosen, federation = _sorted(settings)
    with _in_their_words(settings):
        resolved = config.load(chosen, cases)
        if len(resolved["stacks"]) != 1:
            raise ConfigError(
                "a federation has one stack of defenses: write defense=[a+b], or run one for each"
            )
        session = prepare(resolved, device, network)
        setting = built(Setting, federation, "federation")
        _check_used(federation, setting.strategy)
        return _checked(session, setting, resolved, device, folder, network)


def _checked(
    session: Session,
    setting: Setting,
    resolved: dict[str, Any],
    device: torch.device,
    folder: Path | None,
    network: UserNetwork | None,
) -> Federation:
    """Return a federation whose clients have patients, and enough of them take part."""
    place = folder or Path("runs") / f"federation-{session.plan.case.name}"
    identity = {
        "settings": resolved,
        "federation": asdict(setting),
        "device": str(device),
        "user_network": network and [str(network.path), network.factory],
        "user_network_sha256": network and network.digest,
        "weights_sha256": digest(session.plan.case.weights),
    }
    made = Federation(ClassifierLearner(session, setting, place), place, identity)
    vet(made.learner.defenses, made.learner.network, made.learner.images.sample.spec)
    made.guarantees()
    made.rule().check(made.learner.clients, setting.fraction)
    return made


def _sorted(settings: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Return an audit's settings, and those of the federation by key.

    Raises:
        ConfigError: One has no effect, or is given twice.
    """
    chosen, own = ["case.user.num_data_points=1"], dict[str, Any]()
    if not any(text.partition("=")[0] == "case" for text in settings):
        chosen.append(CASE)
    given: dict[str, str] = {}
    for text in settings:
        key, _, written = text.partition("=")
        section, _, name = key.partition(".")
        if not _has_effect(key):
            raise ConfigError(f"{key} has no effect on a federation: leave it out")
        meant = OF_THE_CASE.get(name, key) if section == "federation" else key
        if meant in given and "federation" in (section, given[meant].partition(".")[0]):
            also = "" if given[meant] == key else f": {given[meant]} is the same setting"
            raise ConfigError(f"{key} is given twice{also}")
        given[meant] = key
        if section != "federation":
            chosen.append(text)
        elif name in OF_THE_CASE:
            chosen.append(f"{meant}={written}")
        else:
            own[name] = config.value_of(f"case.{name}={written}")
    return chosen, own


def _has_effect(key: str) -> bool:
    """Return whether an audit's setting means something where whole rounds are trained."""
    path = f"{key.replace('/', '.')}."
    return key in FIRST_WEIGHTS or not path.startswith(WITHOUT_EFFECT)


def _check_used(written: Collection[str], strategy: str) -> None:
    """Check that the strategy uses the settings that were written.

    Raises:
        ConfigError: It does not use one.
    """
    for name in written:
        users = USED_BY.get(name, (strategy,))
        if strategy not in users:
            raise ConfigError(
                f"federation.{name} has no effect with federation.strategy={strategy}: leave it "
                f"out, or take {' or '.join(users)}"
            )


@contextlib.contextmanager
def _in_their_words(settings: Sequence[str]) -> Iterator[None]:
    """Name ``federation.clients`` and ``.partition`` in errors, where they were written so.

    Raises:
        InputError: As it was, in these words.
    """
    keys = {text.partition("=")[0] for text in settings}
    try:
        yield
    except InputError as error:
        text = str(error)
        for name, key in OF_THE_CASE.items():
            if f"federation.{name}" in keys:
                part, _, last = key.rpartition(".")
                text = text.replace(f"{part}: {last}", key).replace(key, f"federation.{name}")
        if text == str(error):
            raise
        raise type(error)(text) from error
