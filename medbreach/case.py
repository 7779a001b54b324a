"""A case: who has which records, which network, how it is trained, and what is revealed."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from medbreach.captured import Captured
from medbreach.collection import Affine, Collection
from medbreach.components import Dataset, Model, Server
from medbreach.errors import ConfigError
from medbreach.federation import Federation
from medbreach.models.small_cnn import SmallCNN
from medbreach.population import (
    Deal,
    deal,
    draw_decoys,
    draw_records,
    limit_public,
    with_normalisation,
)
from medbreach.protocol import User
from medbreach.randomness import Seeds
from medbreach.servers.honest_but_curious import HonestServer
from medbreach.statistics import Pool
from medbreach.types import Batch, ImageSpec


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
        captured: The round of a federation that is audited; None to play one.
    """

    name: str
    dataset: Dataset
    model: Model
    server: Server = HonestServer()
    user: User = User()
    federation: Federation = Federation()
    dtype: torch.dtype = torch.float32
    weights: str | None = None
    captured: Captured | None = None

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
            captured=None,
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
        decoys: Images of other patients of the same classes, which took no part.
        decoy_groups: Class of each decoy, in the same numbers.
        public: Images of other people.
        affines: Position of each record, clients in order.
        others: For each participating client, what returns up to so many of its further records.
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
    others: tuple[Callable[[int], Batch], ...] = ()

    @property
    def truth(self) -> Batch:
        """All records of the round, clients in order."""
        return Batch(
            torch.cat([b.images for b in self.batches]), torch.cat([b.labels for b in self.batches])
        )

    @property
    def rivals(self) -> Bool[Tensor, "records decoys"]:
        """Which decoys are of each record's class: those that it is told apart from."""
        return self.groups[:, None] == self.decoy_groups[None, :]

    @property
    def pools(self) -> tuple[Pool, ...]:
        """Records and decoys of each class."""
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
    """Draw the records, decoys and public images of one attempt.

    Neither the attack nor the defense nor the server has a say in it.

    Raises:
        DataError: There are too few images, or one cannot be read.
        ConfigError: The partition or the clients do not fit the data set.
    """
    dealt = dealt_of(case, collection, seeds)
    clients = participants(case.user, dealt, seeds)
    count = case.user.num_data_points
    owned = case.captured.entries if case.captured else dealt.clients.__getitem__
    drawn = [draw_records(collection, owned(k), count, k, seeds) for k in clients]
    truth = [i for indices in drawn for i in indices]
    others = draw_decoys(collection, dealt, truth, decoys, seeds)
    known = collection.images(limit_public(dealt.public, collection.spec, public))
    return Sample(
        spec=with_normalisation(collection.spec, known, case.federation),
        classes=dealt.classes,
        batches=tuple(dealt.batch(collection, indices) for indices in drawn),
        clients=clients,
        groups=torch.tensor([dealt.groups[i] for i in truth]),
        decoys=collection.images(others),
        decoy_groups=torch.tensor([dealt.groups[i] for i in others]),
        public=known,
        affines=tuple(collection.entries[i].affine for i in truth),
        others=tuple(
            _further(collection, dealt, k, indices)
            for k, indices in zip(clients, drawn, strict=True)
        ),
    )


def dealt_of(case: Case, collection: Collection, seeds: Seeds) -> Deal:
    """Return who has which images: those of a captured federation, or dealt by the seed.

    Raises:
        DataError: There are too few images, or the federation was trained on others.
        ConfigError: The partition does not fit the data set.
    """
    if case.captured is None:
        return deal(collection, case.federation, seeds)
    case.captured.check(collection)
    return deal(collection, case.federation, Seeds(case.captured.seed))


def _further(
    collection: Collection, dealt: Deal, client: int, drawn: tuple[int, ...]
) -> Callable[[int], Batch]:
    """Return what reads a client's records that take no part in the round."""
    rest = tuple(i for i in dealt.clients[client] if i not in set(drawn))

    def read(most: int) -> Batch:
        return dealt.batch(collection, rest[:most])

    return read


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
