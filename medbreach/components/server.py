"""The party that sends the network out."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medbreach.components.component import Component
from medbreach.types import ImageSpec


class Planted(NamedTuple):
    """What a server sends, and what it remembers.

    Attributes:
        model: The network that the clients receive.
        secret: What the attack will need to read the update; None from an honest server.
    """

    model: nn.Module
    secret: Any = None


@dataclass(frozen=True)
class Server(Component):
    """The party that sends the network out. A malicious one changes it first, in `plant`.

    Attributes:
        pretrained: Start from published weights where the model has them, else from the seed's.
        model_state: ``default`` and ``trained`` leave the weights alone; ``untrained`` resets
            them; ``orthogonal`` and ``linearized`` initialise them as breaching does.
        provide_public_buffers: Send running statistics, so that clients run in evaluation mode;
            otherwise they train with the statistics of their own batch.
        has_external_data: The attacker holds public images of other people.
        num_queries: Rounds over the same records.
    """

    pretrained: bool = False
    model_state: Literal["default", "trained", "untrained", "orthogonal", "linearized"] = "default"
    provide_public_buffers: bool = True
    has_external_data: bool = True
    num_queries: int = 1

    malicious: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.num_queries < 1:
            raise ValueError(f"num_queries must be at least 1, got {self.num_queries}")

    def plant(
        self,
        model: nn.Module,
        spec: ImageSpec,
        public: Float[Tensor, "public channels *space"],
        rng: torch.Generator,
    ) -> Planted:
        """Return the network to send; ``model`` may be changed in place.

        Args:
            model: The honest network.
            spec: What is known about the images.
            public: Public images in the spec's unit, for calibration; there may be none.
            rng: The server's own randomness, fresh for each round.

        Raises:
            NotApplicable: The network has no place for what the server would plant.
        """
        del spec, public, rng
        return Planted(model)

    def send(self, planted: Planted, client: int) -> nn.Module:
        """Return the network as one client of the round receives it: by default, all the same.

        Another network must be an object of its own, with the parameters and buffers of
        ``planted.model``; only their values may differ.

        Args:
            planted: What `plant` returned.
            client: The client's place in the round, from 0.
        """
        del client
        return planted.model
