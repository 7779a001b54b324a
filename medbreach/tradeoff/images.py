"""Everybody's images in the federation of one seed."""

import functools
import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from medbreach.case import Case, Sample, draw
from medbreach.collection import Collection
from medbreach.errors import DataError
from medbreach.population import Deal, deal
from medbreach.randomness import Seeds
from medbreach.tradeoff.predictions import at_a_time
from medbreach.types import Batch

KEPT_BYTES = 2 * 2**30  # of images that are kept in memory, those for testing included


class DealtImages:
    """What clients train on and networks are tested on; few enough images are read only once.

    Attributes:
        collection: All images.
        dealt: Who has which.
        sample: What is known of them.
    """

    def __init__(
        self, case: Case, collection: Collection, seeds: Seeds, decoys: int, public: int
    ) -> None:
        """Deal and draw as an audit with this seed does.

        Raises:
            DataError: There are too few images, or one cannot be read.
            ConfigError: The partition or the clients do not fit the data set.
        """
        self.collection = collection
        self.dealt: Deal = deal(collection, case.federation, seeds)
        check_everybody_has_some(self.dealt)
        self.sample: Sample = draw(case, collection, seeds, decoys, public)
        images = sum(map(len, self.dealt.clients)) + len(self._tested)
        self._few = 4 * images * math.prod(collection.spec.shape) < KEPT_BYTES
        self._records: dict[int, Batch] = {}
        self._parts: list[Tensor] = []

    def records(self, client: int) -> Batch:
        """Return all records of a client."""
        if client in self._records:
            return self._records[client]
        batch = self.dealt.batch(self.collection, self.dealt.clients[client])
        if self._few:
            self._records[client] = batch
        return batch

    def tested(self) -> Iterable[Tensor]:
        """Return the public's labelled images, some at a time."""
        if self._few and not self._parts:
            self._parts = list(self._read())
        return self._parts or self._read()

    @functools.cached_property
    def labels(self) -> Tensor:
        """Class of each image that is tested."""
        return torch.tensor([self.dealt.labels[i] for i in self._tested], dtype=torch.long)

    @functools.cached_property
    def patients(self) -> Tensor:
        """Number of each tested image's patient, the same whatever the seed."""
        entries = self.collection.entries
        numbers = {name: k for k, name in enumerate(sorted({e.patient for e in entries}))}
        return torch.tensor([numbers[entries[i].patient] for i in self._tested], dtype=torch.long)

    @functools.cached_property
    def _tested(self) -> tuple[int, ...]:
        return tuple(i for i in self.dealt.public if self.dealt.labels[i] is not None)

    def _read(self) -> Iterator[Tensor]:
        size = at_a_time(self.collection.spec)
        for start in range(0, len(self._tested), size):
            yield self.collection.images(self._tested[start : start + size])


def check_everybody_has_some(dealt: Deal) -> None:
    """Check that all clients can train.

    Raises:
        DataError: One has no patient.
    """
    without = [k for k, records in enumerate(dealt.clients) if not records]
    if without:
        raise DataError(
            f"{len(without)} of {len(dealt.clients)} clients would have no patients (client "
            f"{without[0]} is the first): take fewer clients, a smaller case.data.public_share, or "
            "another partition"
        )
