"""Keeping rounds of a federation, to audit them afterwards."""

from collections.abc import Collection
from pathlib import Path

from medbreach import captured
from medbreach.errors import ConfigError
from medbreach_federation.prepare import Federation
from medbreach_federation.strategy import Played


def rounds_in(text: str | None, rounds: int) -> frozenset[int]:
    """Return the numbers of the rounds that ``--capture`` names.

    >>> sorted(rounds_in("1,3", 3)), len(rounds_in("all", 5)), len(rounds_in(None, 5))
    ([1, 3], 5, 0)

    Raises:
        ConfigError: One is no round of the federation.
    """
    if text is None:
        return frozenset()
    if text == "all":
        return frozenset(range(1, rounds + 1))
    found = set()
    for word in text.split(","):
        if not (word.strip().isdecimal() and 1 <= int(word) <= rounds):
            raise ConfigError(
                f"--capture {text}: {word.strip() or 'nothing'} is no round of 1 to {rounds}; "
                "write numbers with commas, or all"
            )
        found.add(int(word))
    return frozenset(found)


def check_capture(made: Federation, rounds: Collection[int]) -> None:
    """Check that the rounds to capture are still to be played, or were captured.

    Raises:
        ConfigError: One was played without.
        RecordError: The folder is damaged.
    """
    played = range(1, made.played() + 1)
    missed = [k for k in sorted(rounds) if k in played and not _place(made, k).is_dir()]
    if missed:
        raise ConfigError(
            f"--capture names rounds that {made.folder} has played without keeping them "
            f"({', '.join(map(str, missed))}): name later ones, or choose another --out"
        )


def capture(made: Federation, played: Played) -> None:
    """Keep a round: what each client was sent and returned, and who trained on which images.

    Raises:
        RecordError: It cannot be written.
    """
    learner, setting = made.learner, made.setting
    images, entries = learner.images, learner.images.collection.entries
    of_clients = {}
    for client in played.results:
        own = [images.dealt.clients[client][k] for k in learner.order(client, played.round)]
        of_clients[str(client)] = {
            "entries": own,
            "labels": [images.dealt.labels[i] or 0 for i in own],
            "patients": len({entries[i].patient for i in own}),
        }
    network = learner.network
    facts = {
        "case": made.identity["settings"]["case"],
        "stack": next(iter(made.identity["settings"]["stacks"].values())),
        "seed": setting.seed,
        "round": played.round,
        "recipe": {
            "local_epochs": setting.local_epochs,
            "batch_size": setting.batch_size,
            "learning_rate": setting.learning_rate,
            "optimizer": setting.optimizer,
        },
        "images": captured.fingerprint(images.collection),
        "clients": of_clients,
        "trained": [name for name, p in network.named_parameters() if p.requires_grad],
    }
    returned = {client: result.weights for client, result in played.results.items()}
    captured.keep(_place(made, played.round), facts, played.sent, returned)


def _place(made: Federation, number: int) -> Path:
    return made.folder / "captured" / f"round-{number}"
