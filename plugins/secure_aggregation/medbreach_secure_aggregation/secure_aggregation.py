"""Only the sum of the clients' updates, by masks that cancel."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from medbreach import Defense, NotApplicable, Refused, Update, mean_update
from medbreach_secure_aggregation.masking import masked, set_up, unmasked_sum


@dataclass(frozen=True)
class SecureAggregation(Defense):
    """Let the server see the sum of the clients' updates and no single one.

    Each client clips the entries of its update, rounds them to integers, and adds masks modulo a
    power of two, of which those of each pair cancel in the sum. Where clients drop out after they
    handed out the shares of their secrets, the others' shares let the server take their masks out
    again. The sum of the integers is exact; it is divided by the number of clients that are left.

    It does not hide what is in the sum: attacks on that go on as before, and a server that sends
    each client another network can keep their updates apart in it. Buffers, labels and the number
    of records are pooled as they are, of the clients that are left. The audit goes on counting the
    records of those that dropped out, which nothing can give away.

    An attacker who knows the defense knows the size of the rounding errors, and nothing more.

    Attributes:
        clipping_range: Greatest magnitude of an entry that is sent, in the update's unit. The
            default is Flower's.
        quantization_range: Greatest integer that an entry is rounded to; the least is 0. An even
            number keeps zeros exact. The default is Flower's.
        modulus_bits: Base-2 logarithm of the modulus. The default is Flower's.
        rounding: ``stochastic``, up or down at random such that the mean is the entry, as Flower
            does; or ``nearest``.
        min_clients: Fewest clients whose sum the server may see: as many shares tell a secret. The
            default is ours.
        dropout: Share of the clients that drop out after they handed out the shares of their
            secrets, from 0 to below 1, rounded to whole clients. The default is ours.
        seed: Seed of the keys, of the rounding and of who drops out; the same in each round of a
            case, so the same clients drop out.
    """

    name: ClassVar[str] = "secure_aggregation"
    source: ClassVar[str] = "Bonawitz et al. 2017, doi:10.1145/3133956.3133982; Flower's SecAgg"
    differs: ClassVar[str] = (
        "Simulated in one place, with toy keys and no encryption; updates are not weighted by "
        "records, as clients have equally many; buffers are averaged without masks."
    )

    clipping_range: float = 8.0
    quantization_range: int = 2**22
    modulus_bits: int = 32
    rounding: Literal["stochastic", "nearest"] = "stochastic"
    min_clients: int = 2
    dropout: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.clipping_range < math.inf:
            raise ValueError(
                f"clipping_range must be positive and finite, got {self.clipping_range}"
            )
        if not 8 <= self.modulus_bits <= 48:
            raise ValueError(f"modulus_bits must lie from 8 to 48, got {self.modulus_bits}")
        if not 1 <= self.quantization_range < 2**self.modulus_bits:
            raise ValueError(
                f"quantization_range must lie from 1 to below 2^{self.modulus_bits}, got "
                f"{self.quantization_range}"
            )
        if self.min_clients < 2:
            raise ValueError(f"min_clients must be at least 2, got {self.min_clients}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout}")

    def aggregate(self, updates: Sequence[Update]) -> Sequence[Update]:
        """Return the mean of the updates of the clients that are left, as one update.

        Raises:
            NotApplicable: There is one client, or the sum does not fit into the modulus.
            Refused: Fewer clients are left than shall be.
        """
        self._check_number(len(updates))
        rng = torch.Generator().manual_seed(self.seed)
        setup = set_up(len(updates), self.min_clients, rng)
        left = self._left(len(updates), rng)
        received = {
            k: masked(self._integers(update.change, rng), k, setup, self.modulus_bits)
            for k, update in enumerate(updates)
            if k in left
        }
        total = unmasked_sum(received, setup, self.modulus_bits)
        mean = mean_update([updates[k] for k in left])
        return [replace(mean, change=self._floats(total.double() / len(left), mean.change))]

    def noise(self, seen: Update) -> float:
        """Return the standard deviation of the rounding error of a mean of so many clients.

        It takes entries to be spread evenly between two integers; zeros are exact if
        ``quantization_range`` is even.
        """
        variance = self._step**2 / (6 if self.rounding == "stochastic" else 12)
        return math.sqrt(variance / seen.clients)

    def conflict(self, stack: Sequence[Defense]) -> str:
        """Return that another defense looks at the clients' updates, or aggregates them as well."""
        others = [d.name for d in stack if type(d).aggregate is not Defense.aggregate]
        if len(others) > 1:
            return f"must be the only defense where updates come together, and {others} all are"
        return ""

    @property
    def _step(self) -> float:
        return 2 * self.clipping_range / self.quantization_range

    def _check_number(self, clients: int) -> None:
        if clients < 2:
            raise NotApplicable(
                "secure_aggregation sums the updates of several clients, and there is one: set "
                "case.user.user_type=multiuser_aggregate and case.user.user_range=[0,N]"
            )
        if clients * self.quantization_range >= 2**self.modulus_bits:
            raise NotApplicable(
                f"the sum of {clients} clients' integers up to {self.quantization_range} does not "
                f"fit into {self.modulus_bits} bits: raise defense.modulus_bits or lower "
                "defense.quantization_range"
            )

    def _left(self, clients: int, rng: torch.Generator) -> list[int]:
        """Return the clients that do not drop out, in order."""
        gone = round(self.dropout * clients)
        left = sorted(torch.randperm(clients, generator=rng)[gone:].tolist())
        if len(left) < self.min_clients:
            raise Refused(
                f"{len(left)} of {clients} clients are left, and secure_aggregation asks for "
                f"{self.min_clients}: their sum stays masked"
            )
        return left

    def _integers(self, change: Mapping[str, Tensor], rng: torch.Generator) -> Tensor:
        """Return a client's clipped entries as integers from 0, in one vector on the CPU."""
        entries = torch.cat([tensor.flatten().cpu().double() for tensor in change.values()])
        clipped = entries.clamp(-self.clipping_range, self.clipping_range)
        scaled = (clipped + self.clipping_range) / self._step
        drawn = 0.5 * torch.ones_like(scaled)
        if self.rounding == "stochastic":
            drawn = torch.rand(scaled.shape, generator=rng, dtype=torch.float64)
        return (scaled + drawn).floor().clamp(0, self.quantization_range).long()

    def _floats(self, mean: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a mean of integers as an update's entries."""
        entries = mean * self._step - self.clipping_range
        parts = torch.split(entries, [tensor.numel() for tensor in like.values()])
        return {
            name: part.reshape(tensor.shape).to(tensor)
            for (name, tensor), part in zip(like.items(), parts, strict=True)
        }
