"""What breaching's attackers lack for volumes, other channel counts than three and odd networks."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from medbreach.breaching_bridge.heads import head_gradients
from medbreach.breaching_bridge.labels import by_impact, by_share
from medbreach.errors import NotApplicable
from medbreach.types import Change, Exchange

TILED = ("patterned", "wei")
COLOURS = ("red", "green", "blue", "dark", "light")


class AnyImage:
    """Constants and first candidates that fit the images' number of axes and channels."""

    exchange: Exchange
    cfg: Any
    setup: Any
    dm: Tensor
    ds: Tensor
    memory_format: torch.memory_format

    def prepare_attack(self, server_payload: Any, shared_data: Any) -> Any:
        """Prepare as breaching does, with constants that fit the images' number of axes."""
        prepared = super().prepare_attack(server_payload, shared_data)  # type: ignore[misc]
        axes = [1] * len(self.exchange.spec.space)
        self.dm = self.dm.reshape(1, -1, *axes)
        self.ds = self.ds.reshape(1, -1, *axes)
        return prepared

    def _initialize_data(self, shape: Any) -> Tensor:
        """Initialise as breaching does; its patterns for any number of axes and channels."""
        init = self.cfg.init
        if len(shape) == 2 and any(word in init for word in (*TILED, *COLOURS)):  # soft labels
            started = torch.randn(shape, **self.setup)
        elif any(word in init for word in TILED):
            started = self._tiled(shape)
        elif "dark" in init:  # breaching sets the blue channel
            black = torch.zeros(shape, **self.setup)
            started = (black - self.dm) / self.ds if "-true" in init else black
        else:
            started = super()._initialize_data(shape).detach()  # type: ignore[misc]
        started.requires_grad = True
        started.grad = torch.zeros_like(started)
        return started

    def _tiled(self, shape: Any) -> Tensor:
        init = self.cfg.init
        width = int("".join(filter(str.isdigit, init)))
        small = [*shape[:2], *[width] * (len(shape) - 2)]
        if "rand" in init and "randn" not in init:
            tile = torch.rand(small, **self.setup) * 2 - 1
        else:
            tile = torch.randn(small, **self.setup)
        tiled = tile.tile([1, 1, *(math.ceil(side / width) for side in shape[2:])])
        for axis, side in enumerate(shape[2:], start=2):
            tiled = tiled.narrow(axis, 0, int(side))
        return tiled.clone()


class WithLabels(AnyImage):
    """An attacker that infers labels where they are withheld, as far as its settings say so.

    Attributes:
        needs_labels: Whether it cannot do without.
    """

    needs_labels = True

    def prepare_attack(self, server_payload: Any, shared_data: Any) -> Any:
        """Prepare as breaching does, and check that there are labels if they are needed.

        Raises:
            NotApplicable: They are withheld and cannot be inferred.
        """
        prepared = super().prepare_attack(server_payload, shared_data)
        if self.needs_labels and prepared[1] is None:
            raise NotApplicable("labels are withheld, and label_strategy is null: name one")
        return prepared

    def _recover_label_information(self, shared_data: Any, *rest: Any) -> Any:
        """Infer labels as breaching does, from changes of weights and from noisy updates too."""
        strategy = self.cfg.label_strategy
        if strategy is None:
            return None
        count = self.exchange.update.count
        if strategy == "random":
            drawn = torch.randint(self.exchange.classes, (count or 1,), device=self.setup["device"])
            return drawn.sort()[0]
        found = head_gradients(self.exchange, shared_data, strategy)
        if self.exchange.update.kind is Change.DIFFERENCE and _has_recipe(shared_data):
            found = [{**s, "gradients": [-g for g in s["gradients"]]} for s in found]
        ours = self._with_our_strategy(strategy, found, count or 1)
        if ours is not None:
            return ours
        if strategy == "analytic":  # breaching stacks what it finds in each round, of any length
            found = found[:1]
        return super()._recover_label_information(found, *rest)[:count]  # type: ignore[misc]

    def _with_our_strategy(
        self, strategy: str, shared_data: Sequence[Any], count: int
    ) -> Tensor | None:
        """Return labels by our strategy, and where breaching's is wrong or names one class of two.

        Raises:
            NotApplicable: Our strategy lacks something.
        """
        if strategy == "wainakh-simple":
            return by_impact([shared["gradients"][0] for shared in shared_data], count)
        one_of_two = strategy == "bias-corrected" and self.exchange.classes == 2 and count > 1
        if not one_of_two and strategy != "mean-softmax":
            return None
        labels = by_share(self.exchange, [shared["gradients"][1] for shared in shared_data], count)
        if labels is None and strategy == "mean-softmax":
            raise NotApplicable(
                "label_strategy mean-softmax needs public images, cross-entropy and, for a change "
                "of weights, how the client trained"
            )
        return labels


def _has_recipe(shared_data: Any) -> bool:
    return shared_data[0]["metadata"]["local_hyperparams"] is not None
