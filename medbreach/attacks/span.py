"""The space that a gradient's rows span: it has as many axes as the batch has records."""

from typing import Final, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from medbreach.errors import NotApplicable
from medbreach.types import Exchange

RESOLUTION: Final = 1e-6  # singular values below this share of the greatest are rounding
CLEAR: Final = 100.0  # ratio of neighbouring singular values that tells the rank
COLUMNS: Final = 65_536  # at a time: a copy in double of a large gradient may not fit into memory


class Span(NamedTuple):
    """The singular values of a matrix above rounding, and their vectors.

    Attributes:
        left: Orthonormal columns.
        values: Singular values, falling.
        right: Orthonormal rows.
    """

    left: Float[Tensor, "rows rank"]
    values: Float[Tensor, " rank"]
    right: Float[Tensor, "rank columns"]

    def leading(self, rank: int) -> "Span":
        """Return the part with the greatest singular values."""
        return Span(self.left[:, :rank], self.values[:rank], self.right[:rank])

    def clear_rank(self) -> int | None:
        """Return how many singular values stand out, or None if there is no clear gap."""
        if not len(self.values):
            return None
        full = len(self.values) == min(len(self.left), self.right.shape[1])
        end = self.values[-1:] if full else RESOLUTION * self.values[:1]
        ratios = self.values / torch.cat([self.values[1:], end])
        gap = int(ratios.argmax())
        return gap + 1 if float(ratios[gap]) >= CLEAR else None


def records_of(exchange: Exchange, span: Span, attack: str) -> int:
    """Return the number of records: as they say, else as the singular values tell.

    Args:
        exchange: What the server saw.
        span: The span of a gradient's rows.
        attack: Name of the attack that needs it.

    Raises:
        NotApplicable: It is withheld, and they do not tell.
    """
    count = exchange.update.count or span.clear_rank()
    if count is None:
        raise NotApplicable(
            f"{attack} needs the number of records, which the client withholds and the gradient's "
            "singular values do not tell"
        )
    return count


def span_of(matrix: Float[Tensor, "rows columns"]) -> Span:
    """Return the singular values above rounding and their vectors, in the matrix's precision."""
    if matrix.shape[0] > matrix.shape[1]:
        left, values, right = span_of(matrix.T)
        return Span(right.T, values, left.T)
    products = matrix.new_zeros(len(matrix), len(matrix), dtype=torch.float64)
    for part in torch.split(matrix, COLUMNS, dim=1):
        exact = part.double()
        products += exact @ exact.T
    squares, vectors = torch.linalg.eigh(products)
    values = squares.clamp_min(0).sqrt().flip(0)
    rank = int((values > RESOLUTION * values[:1]).sum())
    left = vectors.flip(1)[:, :rank].to(matrix.dtype)
    values = values[:rank].to(matrix.dtype)
    return Span(left, values, left.T @ matrix / values[:, None])
