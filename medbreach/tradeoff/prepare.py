"""From settings to a trade-off that is ready to be carried out."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from medbreach import config
from medbreach.assembly import refuse_inert
from medbreach.errors import ConfigError, ModelError
from medbreach.models.user_network import UserNetwork
from medbreach.population import deal
from medbreach.randomness import Seeds
from medbreach.session import Session, digest, prepare
from medbreach.settings import build
from medbreach.tradeoff.images import check_everybody_has_some
from medbreach.tradeoff.run import Tradeoff
from medbreach.tradeoff.training import Training, guarantees

CASE = "case=dermoscopy_melanoma"

Stacks = Mapping[str, Sequence[Mapping[str, Any]]]


def prepare_tradeoff(
    settings: Sequence[str],
    device: torch.device,
    folder: Path | None = None,
    *,
    cases: Path | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
    stacks: Stacks | None = None,
    network: UserNetwork | None = None,
) -> Tradeoff:
    """Return a trade-off, everything checked and nothing written.

    Args:
        settings: ``key=value`` each, as on the command line.
        device: Where to compute.
        folder: Where to keep everything; None for one that is named after the case.
        cases: The user's own config tree, searched first.
        grid: Values to repeat stacks for, by ``DEFENSE.KEY``.
        stacks: Settings of each stack's defenses, each with its ``name`` and a ``label``, instead
            of those that ``defense=`` chooses.
        network: The user's own network.

    Raises:
        InputError: Something does not fit.
    """
    if not any(text.partition("=")[0] == "case" for text in settings):
        settings = (CASE, *settings)
    chosen, trained = config.load_tradeoff(settings, cases)
    if stacks is not None:
        chosen["stacks"] = {
            name: [dict(one) for one in members] for name, members in stacks.items()
        }
    chosen["stacks"] = expand(chosen["stacks"], grid or {})
    training = build(Training, trained, "training")
    session = prepare(chosen, device, network)
    _check(session, training)
    refuse_inert([s for s in settings if not s.startswith("training")], session.plan, chosen)
    identity = {
        "settings": chosen,
        "training": training,
        "user_network": network and [network.digest, network.factory],
        "weights": digest(session.plan.case.weights),
    }
    place = folder or Path("runs") / f"tradeoff-{session.plan.case.name}"
    return Tradeoff(session, training, place, identity)


def _check(session: Session, training: Training) -> None:
    """Check what a trade-off wants beside an audit.

    Raises:
        ModelError: The network does not tell the probability of each class.
        ConfigError: There are fewer seeds than trainings, or a defense is asked for a guarantee
            that its mechanism does not give.
    """
    if training.seeds is not None and training.seeds > len(session.plan.options.seed_numbers):
        raise ConfigError(
            f"training.seeds is {training.seeds}, but audit.seeds gives "
            f"{len(session.plan.options.seed_numbers)}: raise audit.seeds or lower training.seeds"
        )
    case, sample = session.plan.case, session.sample
    network = case.model(sample.spec, sample.classes, Seeds(0).stream("check"))
    with torch.no_grad():
        outputs = network(torch.zeros(2, *sample.spec.shape))
    if outputs.shape != (2, sample.classes):
        raise ModelError(
            f"{case.model.name} returns outputs of shape {tuple(outputs.shape)} for 2 images: "
            f"accuracy takes (2, {sample.classes}), one output a class"
        )
    for seed in session.plan.options.seed_numbers:
        dealt = deal(session.collection, case.federation, Seeds(seed))
        check_everybody_has_some(dealt)
        for stack in session.plan.stacks.values():
            guarantees(stack, training, dealt)


def expand(stacks: Stacks, grid: Mapping[str, Sequence[Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return stacks with each one repeated for every value of a grid.

    Args:
        stacks: Settings of each stack's defenses, with their ``label``.
        grid: Values by ``label.key``.

    Raises:
        ConfigError: No stack has such a defense, or there are no values, or none of a setting.
    """
    found = {name: [dict(member) for member in members] for name, members in stacks.items()}
    labels = {member["label"] for members in stacks.values() for member in members}
    for place, values in grid.items():
        label, _, key = place.partition(".")
        if label not in labels:
            raise ConfigError(
                f"--grid {place}: {label} is not among the defenses: add it to defense=[...]"
            )
        if key in ("name", "label"):
            raise ConfigError(f"--grid {place}: {key} is no setting of the defense")
        if not values:
            raise ConfigError(f"--grid {place}: write at least one value")
        found = dict(
            item
            for name, members in found.items()
            for item in _spread(name, members, label, key, values)
        )
    return found


def _spread(
    name: str, members: list[dict[str, Any]], label: str, key: str, values: Sequence[Any]
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield a stack once for each value, or as it is if it has no such defense."""
    if not any(member["label"].split(" ")[0] == label for member in members):
        yield name, members
        return
    for value in values:
        changed = [
            {**m, key: value, "label": f"{m['label']} {key}={value}"}
            if m["label"].split(" ")[0] == label
            else m
            for m in members
        ]
        yield "+".join(str(m["label"]).replace("+", "") for m in changed), changed
