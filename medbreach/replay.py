"""What the server of a federation saw in a round that was kept."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch

from medbreach.case import Case, Sample
from medbreach.components import Defense
from medbreach.errors import DataError, ModelError
from medbreach.randomness import Seeds
from medbreach.round import agreed_network, visible
from medbreach.types import Exchange, Round, Update


def replay(
    case: Case,
    sample: Sample,
    defenses: Sequence[Defense],
    seeds: Seeds,
    device: torch.device,
) -> tuple[Exchange, ...]:
    """Return what the server saw of a captured round, as `medbreach.round.play` does.

    Of several clients it sees each update, or their exact mean, as the case's user says. It is the
    network of the round, with the weights that the first of the clients was sent.

    Raises:
        DataError: The capture is damaged.
        ModelError: Its weights do not fit the network.
    """
    del seeds
    captured = case.captured
    assert captured is not None
    agreed = agreed_network(case, sample, defenses, Seeds(captured.seed))
    public = sample.public if case.server.has_external_data else sample.public[:0]
    updates = [captured.update(client) for client in sample.clients]
    rounds = []
    for k, update in enumerate(visible(updates, case.user)):
        network = copy.deepcopy(agreed)
        try:
            network.load_state_dict({**network.state_dict(), **captured.sent(sample.clients[k])})
        except RuntimeError as error:
            raise ModelError(f"the network of {captured.folder} is another: {error}") from error
        trained = [name for name, p in network.named_parameters() if p.requires_grad]
        if list(update.change) != trained:
            raise DataError(f"{captured.folder} is damaged: it was not this network that trained")
        there = network.to(device, case.dtype).train(True)
        rounds.append(Round(there, _on(update, device, case.dtype), training=True))
    return tuple(
        Exchange(sample.spec, sample.classes, case.model.loss(), (seen,), public, tuple(defenses))
        for seen in rounds
    )


def _on(update: Update, device: torch.device, dtype: torch.dtype) -> Update:
    """Return an update on the device, in the precision of its case."""
    return replace(update, change={n: t.to(device, dtype) for n, t in update.change.items()})
