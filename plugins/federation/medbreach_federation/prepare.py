"""From settings to a federation of classifiers that is ready to be played."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from medbreach import Defense, config
from medbreach.encoding import encode
from medbreach.errors import ConfigError, RecordError
from medbreach.models.user_network import UserNetwork
from medbreach.round import vet
from medbreach.session import digest, prepare
from medbreach.settings import build as built
from medbreach.settings import plain
from medbreach.storage import claimed, speaking_of, write_whole
from medbreach.tradeoff.training import guarantees
from medbreach.types import Guarantee
from medbreach_federation.classifier import SETTING, ClassifierLearner
from medbreach_federation.defended_rule import DefendedRule
from medbreach_federation.flower_rule import FlowerRule
from medbreach_federation.rule import Rule
from medbreach_federation.setting import Setting

CASE = "case=dermoscopy_melanoma"
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

    def open(self) -> None:
        """Make the folder, or go on with what it holds.

        Raises:
            RecordError: It holds something else.
        """
        wanted = json.loads(json.dumps(encode(plain(self.identity))))
        there = claimed(self.folder, SETTING, wanted)
        if _to_go_on(there) != _to_go_on(wanted):
            raise RecordError(
                f"{self.folder} holds a federation of other settings: choose another --out"
            )
        if there != wanted:  # more rounds, or another device
            with speaking_of(self.folder):
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
    resolved = config.load(chosen, cases)
    if len(resolved["stacks"]) != 1:
        raise ConfigError(
            "a federation has one stack of defenses: write defense=[a+b], or run one for each"
        )
    session = prepare(resolved, device, network)
    setting = built(Setting, federation, "federation")
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
    for text in settings:
        key, _, written = text.partition("=")
        section, _, name = key.partition(".")
        if section in ("attack", "audit", "training") or key.startswith("case.user."):
            raise ConfigError(f"{key} has no effect on a federation: leave it out")
        if section != "federation":
            chosen.append(text)
        elif name in OF_THE_CASE:
            chosen.append(f"{OF_THE_CASE[name]}={written}")
        elif name in own:
            raise ConfigError(f"{key} is given twice")
        else:
            own[name] = config.value_of(f"case.{name}={written}")
    return chosen, own
