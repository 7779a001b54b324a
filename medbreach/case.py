"""A case: who has which records, which network, how it is trained, and what is revealed."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from medbreach.collection import Affine, Collection
from medbreach.components import ClientTask, Dataset, Defense, LocalTraining, Model, Server
from medbreach.errors import ConfigError, ContractError
from medbreach.models.small_cnn import SmallCNN
from medbreach.models.weights import load_weights
from medbreach.population import (
    Deal,
    Federation,
    deal,
    draw_decoys,
    draw_records,
    limit_public,
    with_normalisation,
)
from medbreach.protocol import User
from medbreach.randomness import Seeds, lend_global
from medbreach.servers.honest_but_curious import HonestServer, set_state
from medbreach.statistics import Pool
from medbreach.training import LocalTrainer
from medbreach.types import Batch, Exchange, ImageSpec, Round, Update


@dataclass(frozen=True)
class Case:
    """One federated setting to audit.

    Attributes:
        name: Name of the case.
        dataset: Where the records come from.
        model: The network that the federation trains.
        server: Who runs the server.
        user: Which clients take part, how they train, and what they reveal.
        federation: How the patients are dealt over clients.
        dtype: ``float`` or ``double``: the precision that clients compute in.
        weights: State-dict file that the first round starts from; None for the model's own.
    """

    name: str
    dataset: Dataset
    model: Model
    server: Server = HonestServer()
    user: User = User()
    federation: Federation = Federation()
    dtype: torch.dtype = torch.float32
    weights: str | None = None

    def solvable(self, model: Model | None = None) -> "Case":
        """Return this case made as easy as it gets for an attacker.

        One record of one client, its gradient, everything revealed, an honest server, no noise, and
        a small network; patients dealt at random, so that every client has some.
        """
        user = User(num_data_points=1, provide_labels=True, provide_buffers=True)
        return replace(
            self,
            name=f"{self.name} (solvable)",
            user=user,
            server=HonestServer(),
            federation=replace(self.federation, partition="random"),
            model=model or SmallCNN(),
            weights=None,
        )


@dataclass(frozen=True)
class Sample:
    """The images of one attempt. Only scoring sees the truth and the decoys.

    Attributes:
        spec: What is known about the images, with the federation's normalisation.
        classes: Number of classes.
        batches: Each participating client's records.
        clients: Each participating client's number.
        groups: Class of each record, 0 for all where classes are made up.
        decoys: Look-alikes of the records.
        decoy_groups: Class of each look-alike, in the same numbers.
        public: Images of other people.
        affines: Position of each record, clients in order.
    """

    spec: ImageSpec
    classes: int
    batches: tuple[Batch, ...]
    clients: tuple[int, ...]
    groups: Int[Tensor, " records"]
    decoys: Float[Tensor, "decoys channels *space"]
    decoy_groups: Int[Tensor, " decoys"]
    public: Float[Tensor, "public channels *space"]
    affines: tuple[Affine | None, ...]

    @property
    def truth(self) -> Batch:
        """All records of the round, clients in order."""
        return Batch(
            torch.cat([b.images for b in self.batches]), torch.cat([b.labels for b in self.batches])
        )

    @property
    def rivals(self) -> Bool[Tensor, "records decoys"]:
        """Which look-alikes are of each record's class: those that it is told apart from."""
        return self.groups[:, None] == self.decoy_groups[None, :]

    @property
    def pools(self) -> tuple[Pool, ...]:
        """Records and look-alikes of each class."""
        return tuple(
            Pool(int((self.groups == group).sum()), int((self.decoy_groups == group).sum()))
            for group in sorted(set(self.groups.tolist()))
        )

    @property
    def owners(self) -> tuple[int, ...]:
        """The client of each record."""
        sizes = zip(self.clients, self.batches, strict=True)
        return tuple(client for client, batch in sizes for _ in batch.labels)


def draw(case: Case, collection: Collection, seeds: Seeds, decoys: int, public: int) -> Sample:
    """Draw the records, look-alikes and public images of one attempt.

    Neither the attack nor the defense nor the server has a say in it.

    Raises:
        DataError: There are too few images, or one cannot be read.
        ConfigError: The partition or the clients do not fit the data set.
    """
    dealt = deal(collection, case.federation, seeds)
    clients = participants(case.user, dealt, seeds)
    count = case.user.num_data_points
    drawn = [draw_records(collection, dealt.clients[k], count, k, seeds) for k in clients]
    truth = [i for indices in drawn for i in indices]
    look_alikes = draw_decoys(collection, dealt, truth, decoys, seeds)
    known = collection.images(limit_public(dealt.public, collection.spec, public))
    labels = [torch.tensor([dealt.labels[i] or 0 for i in indices]) for indices in drawn]
    return Sample(
        spec=with_normalisation(collection.spec, known, case.federation),
        classes=dealt.classes,
        batches=tuple(
            Batch(collection.images(indices), y) for indices, y in zip(drawn, labels, strict=True)
        ),
        clients=clients,
        groups=torch.tensor([dealt.groups[i] for i in truth]),
        decoys=collection.images(look_alikes),
        decoy_groups=torch.tensor([dealt.groups[i] for i in look_alikes]),
        public=known,
        affines=tuple(collection.entries[i].affine for i in truth),
    )


def participants(user: User, dealt: Deal, seeds: Seeds) -> tuple[int, ...]:
    """Return the numbers of the clients that take part in the round.

    Raises:
        ConfigError: There are not so many clients.
    """
    there = len(dealt.clients)
    if user.user_type == "multiuser_aggregate":
        first, last = user.user_range
        if last > there:
            raise ConfigError(
                f"case.user.user_range ends at {last}, but case.data.default_clients gives {there} "
                "clients"
            )
        return tuple(range(first, last))
    if user.user_idx is None:
        return (int(torch.randint(there, (1,), generator=seeds.stream("client"))),)
    if not 0 <= user.user_idx < there:
        raise ConfigError(
            f"case.user.user_idx is {user.user_idx}, but case.data.default_clients gives clients "
            f"0 to {there - 1}"
        )
    return (user.user_idx,)


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
        ModelError: The network does not fit the images.
    """
    honest = honest_network(case, sample, seeds)
    public = sample.public if case.server.has_external_data else sample.public[:0]
    train = trainer(case, defenses)
    rounds: list[list[Round]] = []
    for query in range(case.server.num_queries):
        sent, secret = case.server.plant(
            copy.deepcopy(honest), sample.spec, public, seeds.stream(f"plant/{query}")
        )
        for defense in defenses:
            defense.vet(sent, sample.spec)
        training = not case.server.provide_public_buffers
        updates = [
            train(_task(case, sample, k, sent, training, seeds, query, device))
            for k in range(len(sample.clients))
        ]
        for defense in defenses:
            updates = _aggregated(defense, updates, sent)
            if not updates:
                raise ContractError(f"{defense.name} left no update to aggregate")
        sent = sent.to(device, case.dtype).train(training)
        rounds.append([Round(sent, u, training, secret) for u in visible(updates, case.user)])
    return tuple(
        Exchange(sample.spec, sample.classes, case.model.loss(), tuple(seen), public)
        for seen in zip(*rounds, strict=True)
    )


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


def trainer(case: Case, defenses: Sequence[Defense]) -> LocalTraining:
    """Return local training with every defense around it, the first one innermost."""
    train: LocalTraining = LocalTrainer(case.user.local_diff_privacy)
    for defense in defenses:
        train = _checked(defense, defense.wrap(train))
    return train


def visible(updates: Sequence[Update], user: User) -> list[Update]:
    """Return what the server sees of the clients' updates: each one, or their exact mean."""
    if user.user_type != "multiuser_aggregate" or user.aggregation == "plain":
        return [_reveal(update, user) for update in updates]
    return [_reveal(mean_update(updates), user)]


def mean_update(updates: Sequence[Update]) -> Update:
    """Return the exact mean of updates, as a secure aggregation hands it to the server.

    Labels are pooled, counts added. Integer buffers (BatchNorm's counter) are rounded.
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
        clients=len(updates),
    )


def _mean(tensors: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {
        name: _as(first, torch.stack([t[name].double() for t in tensors]).mean(0))
        for name, first in tensors[0].items()
    }


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
    sent: nn.Module,
    training: bool,
    seeds: Seeds,
    query: int,
    device: torch.device,
) -> ClientTask:
    batch = sample.batches[k]
    return ClientTask(
        model=copy.deepcopy(sent).to(device, case.dtype),
        batch=Batch(
            batch.images.to(device, case.dtype, copy=True), batch.labels.clone().to(device)
        ),
        spec=sample.spec,
        classes=sample.classes,
        loss=case.model.loss(),
        recipe=case.user.recipe,
        training=training,
        rng=seeds.stream(f"client/{sample.clients[k]}/{query}"),
    )


def _checked(defense: Defense, train: LocalTraining) -> LocalTraining:
    """Return local training that refuses a defense's update if it is not one."""

    def checked(task: ClientTask) -> Update:
        return _sound(defense, train(task), task.model)

    return checked


def _aggregated(defense: Defense, updates: Sequence[Update], model: nn.Module) -> list[Update]:
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
    if not all(g.isfinite().all() for g in update.change.values()):
        raise ContractError(f"{defense.name} returned an update that is not finite")
    return update
