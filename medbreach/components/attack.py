"""An attacker that runs the server."""

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, final

import torch

from medbreach.components.component import Component, is_finite
from medbreach.errors import ContractError, NotApplicable
from medbreach.types import Exchange, Reconstruction, Reveals

if TYPE_CHECKING:
    from medbreach.case import Case


class Attack(Component):
    """An attacker that runs the server and wants the clients' records. Subclasses write `run`.

    Attributes:
        needs: What the update must reveal.
        dimensions: Numbers of spatial axes that it works on.
        channels: Numbers of channels that it works on; None for any.
        blind: True for a negative control, which ignores the update.
    """

    needs: ClassVar[frozenset[Reveals]] = frozenset()
    dimensions: ClassVar[frozenset[int]] = frozenset({2, 3})
    channels: ClassVar[frozenset[int] | None] = None
    blind: ClassVar[bool] = False

    @abstractmethod
    def run(self, exchange: Exchange, rng: torch.Generator) -> Reconstruction:
        """Return the records that the exchange gives away.

        Raises:
            NotApplicable: The exchange lacks something that the attack needs.
        """

    def control(self, case: "Case") -> "Case | None":
        """Return a case like ``case`` that the attack must solve, or None if it is a control.

        The default is one record of one client, everything revealed, and a small network.
        """
        return None if self.blind else case.solvable()

    @final
    def __call__(self, exchange: Exchange, rng: torch.Generator) -> Reconstruction:
        """Check what the attack needs, run it, and check what it returns.

        Raises:
            NotApplicable: The update withholds something in `needs` or is not finite, or the images
                do not fit.
            ContractError: The claims have the wrong shape, or are not finite.
        """
        self._check_needs(exchange)
        claim = self.run(exchange, rng)
        if not isinstance(claim, Reconstruction):
            raise ContractError(f"{self.name} returned a {type(claim).__name__}, no Reconstruction")
        images = claim.images.detach().to("cpu", torch.float32)
        if tuple(images.shape[1:]) != exchange.spec.shape:
            raise ContractError(
                f"{self.name} returned images of shape {tuple(images.shape[1:])}, "
                f"not {exchange.spec.shape}"
            )
        if not is_finite(images):
            raise ContractError(f"{self.name} returned intensities that are not finite")
        for what in (claim.labels, claim.confidence):
            if what is not None and len(what) != len(images):
                raise ContractError(f"{self.name} returned {len(images)} images, {len(what)} marks")
        labels = None if claim.labels is None else claim.labels.detach().cpu()
        confidence = None if claim.confidence is None else claim.confidence.detach().cpu()
        low, high = exchange.spec.bounds
        if images.numel() and (images.min() < low or images.max() > high):  # else without a copy
            images = images.clamp(low, high)
        return Reconstruction(images, labels, confidence)

    def _check_needs(self, exchange: Exchange) -> None:
        spec = exchange.spec
        missing = sorted(need for need in self.needs if getattr(exchange.update, need) is None)
        if missing:
            raise NotApplicable(
                f"{self.name} needs {', '.join(missing)}, which the client withholds"
            )
        for name, change in exchange.update.change.items():
            if not self.blind and not is_finite(change):
                raise NotApplicable(
                    f"the update's {name} is not finite: the client's training diverged"
                )
        if len(spec.space) not in self.dimensions:
            raise NotApplicable(f"{self.name} does not work on {len(spec.space)}D images")
        if self.channels is not None and spec.channels not in self.channels:
            able = " or ".join(map(str, sorted(self.channels)))
            raise NotApplicable(
                f"{self.name} needs {able} channels, the images have {spec.channels}"
            )
