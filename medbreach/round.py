"""One round of the protocol: what the server sends, what clients train, what the server sees."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from medbreach.case import Case, Sample
from medbreach.components import (
    ClientTask,
    Defense,
    Gradient,
    LocalTraining,
    Planted,
    Server,
    StepGradient,
    Workload,
    is_finite,
    no_others,
    trainable,
)
from medbreach.errors import ConfigError, ContractError, ModelError
from medbreach.measure import available_memory
from medbreach.models.weights import load_weights
from medbreach.protocol import User
from medbreach.randomness import Seeds, lend_global
from medbreach.servers.honest_but_curious import set_state
from medbreach.servers.room import check_room
from medbreach.text import blaming
from medbreach.training import LocalTrainer
from medbreach.types import Batch, Exchange, Guarantee, ImageSpec, Round, Update


def play(
    case: Case,
    sample: Sample,
    defenses: Sequence[Defense],
    seeds: Seeds,
    device: torch.device,
) -> tuple[Exchange, ...]:
    """Play the round; return what the server sees, one exchange an update that it can tell apart.

    Raises:
        Refused: A defense refused what the server sent.
        NotApplicable: The server cannot plant what it would, or a defense does not fit.
        ModelError: The network does not fit the images, or a defense not the network.
    """
    agreed = agreed_network(case, sample, defenses, seeds)
    public = sample.public if case.server.has_external_data else sample.public[:0]
    train = trainer(case, defenses)
    memories: list[dict[str, Any]] = [{} for _ in sample.clients]
    rounds: list[list[Round]] = []
    for query in range(case.server.num_queries):
        made = planted(
            case.server, copy.deepcopy(agreed), sample.spec, public, seeds.stream(f"plant/{query}")
        )
        sent, secret = made
        _check_room(case, sent, len(sample.clients), device)
        training = not case.server.provide_public_buffers
        updates, vetted = [], False
        for k in range(len(sample.clients)):
            received = _received(case.server, made, k)
            if not (vetted and received is sent):
                vet(defenses, received, sample.spec)
            vetted = vetted or received is sent
            task = _task(case, sample, k, received, training, seeds, query, device)
            updates.append(train(replace(task, memory=memories[k])))
        for defense in defenses:
            updates = aggregated(defense, updates, sent)
        sent = sent.to(device, case.dtype).train(training)
        rounds.append([Round(sent, u, training, secret) for u in visible(updates, case.user)])
    return tuple(
        Exchange(
            sample.spec, sample.classes, case.model.loss(), tuple(seen), public, tuple(defenses)
        )
        for seen in zip(*rounds, strict=True)
    )


def _check_room(case: Case, sent: nn.Module, clients: int, device: torch.device) -> None:
    """Check that all rounds over a network fit into memory.

    Each round keeps the network and the updates that are seen; while it is played there are all
    clients' updates, a client's network and gradient, and the mean in double precision.

    Raises:
        NotApplicable: They do not.
    """
    seen = 1 if case.user.secure else clients
    copies = case.server.num_queries * (1 + seen) + clients + 4
    weights = sum(p.numel() for p in sent.parameters())
    check_room(
        f"the network that {case.server.name} sends",
        weights * torch.finfo(case.dtype).bits // 8,
        copies,
        free=available_memory(device),
        remedy="take a smaller network or planted layer, fewer clients, or fewer queries",
    )


def _received(server: Server, made: Planted, client: int) -> nn.Module:
    """Return the network that a client receives.

    Raises:
        ContractError: It is none, or has other parameters or buffers than the planted one.
    """
    received: Any = server.send(made, client)
    if not isinstance(received, nn.Module):
        raise ContractError(f"{server.name} sent a {type(received).__name__}, no network")
    shapes = [
        {name: tensor.shape for name, tensor in network.state_dict().items()}
        for network in (made.model, received)
    ]
    if shapes[0] != shapes[1]:
        raise ContractError(
            f"{server.name} sent client {client} other parameters or buffers than it planted; only "
            "their values may differ"
        )
    return received


def vet(defenses: Sequence[Defense], received: nn.Module, spec: ImageSpec) -> None:
    """Have every defense inspect what a client received.

    Raises:
        Refused: One will not train it.
    """
    for defense in defenses:
        defense.vet(copy.deepcopy(received), spec)


def planted(
    server: Server, network: nn.Module, spec: ImageSpec, public: Tensor, rng: torch.Generator
) -> Planted:
    """Return what a server makes of the honest network.

    Raises:
        NotApplicable: The network has no place for what the server would plant.
        ContractError: The server returns something else.
    """
    made: Any = server.plant(network, spec, public, rng)
    if not (isinstance(made, Planted) and isinstance(made.model, nn.Module)):
        raise ContractError(f"{server.name} returned a {type(made).__name__}, no Planted network")
    return made


def honest_network(case: Case, sample: Sample, seeds: Seeds) -> nn.Module:
    """Return the network before the server touches it."""
    network = case.model(sample.spec, sample.classes, seeds.stream("model"))
    if case.server.pretrained:
        case.model.load_pretrained(network)
    if case.weights is not None:
        load_weights(network, case.weights)
    if case.server.model_state not in ("default", "trained"):
        with lend_global(seeds.stream("state")):
            set_state(network, case.server.model_state)
    return network


def agreed_network(
    case: Case, sample: Sample, defenses: Sequence[Defense], seeds: Seeds
) -> nn.Module:
    """Return the network that the federation agrees on, as its defenses want it.

    Raises:
        ModelError: It does not fit the images, or a defense cannot protect it.
        ContractError: A defense returns no network.
    """
    network: Any = honest_network(case, sample, seeds)
    for k, defense in enumerate(defenses):
        with (
            lend_global(seeds.stream(f"remodel/{k}")),
            blaming(ModelError, f"{defense.name} cannot change the network"),
        ):
            network = defense.remodel(network, sample.spec, sample.classes)
        if not isinstance(network, nn.Module):
            raise ContractError(f"{defense.name} returned a {type(network).__name__}, no network")
    return network  # type: ignore[no-any-return]


def given_by(defenses: Sequence[Defense], work: Workload) -> tuple[Guarantee, ...]:
    """Return what differential privacy each defense gives over a whole training, if it gives any.

    Raises:
        ConfigError: One is asked for a guarantee that its mechanism does not give.
    """
    given = []
    for defense in defenses:
        with blaming(ConfigError, f"{defense.name} cannot tell its guarantee"):
            given.append(defense.guarantee(work))
    return tuple(one for one in given if one is not None)


def trainer(case: Case, defenses: Sequence[Defense]) -> LocalTraining:
    """Return local training with every defense around it, the first one innermost.

    Each step's gradient goes through `Defense.step` of every defense, in order; `Defense.wrap` is
    around the whole.
    """
    local = LocalTrainer(case.user.local_diff_privacy)

    def stepping(task: ClientTask) -> Update:
        gradient = task.gradient
        for defense in defenses:
            gradient = _checked_step(defense, defense.step(gradient))
        return local(replace(task, gradient=gradient))

    return defended(stepping, defenses)


def defended(train: LocalTraining, defenses: Sequence[Defense]) -> LocalTraining:
    """Return local training with `Defense.wrap` of every defense around it, the first innermost."""
    for defense in defenses:
        train = _checked(defense, defense.wrap(train))
    return train


def visible(updates: Sequence[Update], user: User) -> list[Update]:
    """Return what the server sees of the clients' updates: each one, or their exact mean."""
    if user.secure:
        return [_reveal(mean_update(updates), user)]
    return [_reveal(update, user) for update in updates]


def mean_update(updates: Sequence[Update]) -> Update:
    """Return the exact mean of updates, as a secure aggregation hands it to the server.

    Labels are pooled, counts added, hints are averaged where all give them. Integer buffers
    (BatchNorm's counter) are rounded.
    """
    first = updates[0]
    recipe = first.recipe
    if recipe is not None:
        steps = [u.recipe.labels or () for u in updates if u.recipe is not None]
        recipe = replace(recipe, labels=tuple(y for labels in steps for y in labels))
    labels = [u.labels for u in updates if u.labels is not None]
    buffers = [u.buffers for u in updates if u.buffers is not None]
    counts = [u.count for u in updates if u.count is not None]
    return Update(
        change=_mean([u.change for u in updates]),
        kind=first.kind,
        buffers=_mean(buffers) if buffers else None,
        labels=torch.cat(labels).sort().values if labels else None,
        count=sum(counts) if len(counts) == len(updates) else None,
        recipe=recipe,
        clients=sum(u.clients for u in updates),
        hints=_mean([{name: u.hints[name] for name in _hinted(updates)} for u in updates]),
    )


def _hinted(updates: Sequence[Update]) -> list[str]:
    """Return the names of hints that all updates give, in the same shape."""
    shapes = [{name: hint.shape for name, hint in u.hints.items()} for u in updates]
    return [name for name, shape in shapes[0].items() if all(s.get(name) == shape for s in shapes)]


def _mean(tensors: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    means = {}
    for name, first in tensors[0].items():
        total = first.double()
        for other in tensors[1:]:  # one after the other: together they may not fit into memory
            total = total + other[name]
        means[name] = _as(first, total / len(tensors))
    return means


def _as(like: Tensor, mean: Tensor) -> Tensor:
    return (mean if like.is_floating_point() else mean.round()).to(like.dtype)


def _reveal(update: Update, user: User) -> Update:
    return replace(
        update,
        buffers=update.buffers if user.provide_buffers else None,
        labels=update.labels if user.provide_labels else None,
        count=update.count if user.provide_num_data_points else None,
        recipe=update.recipe if user.provide_local_hyperparams else None,
    )


def _task(
    case: Case,
    sample: Sample,
    k: int,
    received: nn.Module,
    training: bool,
    seeds: Seeds,
    query: int,
    device: torch.device,
) -> ClientTask:
    batch = sample.batches[k]
    return ClientTask(
        model=copy.deepcopy(received).to(device, case.dtype),
        batch=Batch(
            batch.images.to(device, case.dtype, copy=True), batch.labels.clone().to(device)
        ),
        spec=sample.spec,
        classes=sample.classes,
        loss=case.model.loss(),
        recipe=case.user.recipe,
        training=training,
        rng=seeds.stream(f"client/{sample.clients[k]}/{query}"),
        others=_elsewhere(
            sample.others[k] if k < len(sample.others) else no_others, case.dtype, device
        ),
    )


def _elsewhere(
    others: Callable[[int], Batch], dtype: torch.dtype, device: torch.device
) -> Callable[[int], Batch]:
    """Return a client's further records where and how it computes."""

    def there(most: int) -> Batch:
        batch = others(most)
        return Batch(batch.images.to(device, dtype), batch.labels.to(device))

    return there


def _checked_step(defense: Defense, gradient: StepGradient) -> StepGradient:
    """Return a step's gradient that refuses a defense's if it does not fit the network."""

    def checked(task: ClientTask, batch: Batch) -> Gradient:
        found = gradient(task, batch)
        wanted = {name: p.shape for name, p in trainable(task.model).items()}
        if {name: g.shape for name, g in found.items()} != wanted:
            raise ContractError(
                f"{defense.name} returned a gradient of other names or shapes than the network"
            )
        return found

    return checked


def _checked(defense: Defense, train: LocalTraining) -> LocalTraining:
    """Return local training that refuses a defense's update if it is not one."""

    def checked(task: ClientTask) -> Update:
        return _sound(defense, train(task), task.model)

    return checked


def aggregated(defense: Defense, updates: Sequence[Update], model: nn.Module) -> list[Update]:
    """Return what a defense makes of the clients' updates.

    Raises:
        ContractError: It leaves none, or one that does not fit the model or is not finite.
    """
    kept = [_sound(defense, update, model) for update in defense.aggregate(updates)]
    if not kept:
        raise ContractError(f"{defense.name} left no update to aggregate")
    return kept


def _sound(defense: Defense, update: object, model: nn.Module) -> Update:
    """Return what a defense made of an update, if it is one and fits the model.

    Raises:
        ContractError: It does not, or is not finite.
    """
    if not isinstance(update, Update):
        raise ContractError(f"{defense.name} returned a {type(update).__name__}, no Update")
    shapes = [(n, p.shape) for n, p in model.named_parameters() if p.requires_grad]
    if [(n, g.shape) for n, g in update.change.items()] != shapes:
        raise ContractError(
            f"{defense.name} returned an update of other shapes than the model, or in another order"
        )
    if not all(map(is_finite, update.change.values())):
        raise ContractError(f"{defense.name} returned an update that is not finite")
    return update
