"""The server that plants a layer which records imprint themselves on."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medbreach.components import Planted, Server
from medbreach.errors import NotApplicable
from medbreach.servers.breachings_blocks import breachings_block
from medbreach.servers.loki import LokiSecret, loki_block, open_for_client
from medbreach.servers.modification import Modification
from medbreach.servers.peeling import peeling_block
from medbreach.servers.quantiles import check_images
from medbreach.servers.random_rows import quantile_biases, trap_weights
from medbreach.servers.room import WIDTH, check_room
from medbreach.settings import nearest
from medbreach.types import ImageSpec

if TYPE_CHECKING:
    from medbreach.case import Case

MakeSecret = Callable[[str], Any]
Builder = Callable[[Modification, ImageSpec, Tensor, torch.Generator], tuple[nn.Module, MakeSecret]]

BUILDERS: Final[Mapping[str, Builder]] = {
    "ImprintBlock": breachings_block,
    "SparseImprintBlock": breachings_block,
    "OneShotBlock": breachings_block,
    "CuriousAbandonHonesty": trap_weights,
    "QBI": quantile_biases,
    "LOKI": loki_block,
    "PeelingBlock": peeling_block,
}
"""What makes each type of block, and of its name in the network the server's secret."""


@dataclass(frozen=True)
class MaliciousModelServer(Server):
    """Plant a wide linear layer whose rows each let few records through.

    Attributes:
        model_modification: The planted block.
        model_gain: Factor of the network's throughput; 1 leaves it alone.
        normalize_rounds: Rounds of normalising the throughput; 0 leaves it alone.
    """

    name: ClassVar[str] = "malicious_model"
    source: ClassVar[str] = (
        "Fowl et al. 2022, arXiv:2110.13057; CuriousAbandonHonesty: Boenisch et al. 2021, "
        "arXiv:2112.02918; QBI and PAIRS: Nowak et al. 2024, arXiv:2406.18745; LOKI: Zhao et al. "
        "2024, arXiv:2303.12233; PeelingBlock: medbreach"
    )
    differs: ClassVar[str] = (
        "The block is planted before the whole network (or a named module), so it works for any "
        "network in 2D and 3D; its bins and output can be calibrated on public images, and so "
        "can the scale of trap weights, which the source sets by hand, and QBI's biases, which "
        "it takes from a normal distribution. For PAIRS, rows are chosen one after the other "
        "from a pool, each time the one that isolates the most further records of simulated "
        "rounds. LOKI's rows take a constant and the image's energy beside each client's "
        "channels, so that a client's weights alone tell its bias gradient and whether records "
        "are mixed; its kernels are not trained, and the mean of its rows is added to the "
        "image."
    )
    malicious: ClassVar[bool] = True

    model_modification: Modification = field(default_factory=Modification)
    model_gain: float = 1.0
    normalize_rounds: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model_gain != 1 or self.normalize_rounds != 0:
            raise ValueError("model_gain and normalize_rounds other than 1 and 0 are not supported")

    def for_single_records(self) -> "MaliciousModelServer":
        """Return the server that expects next to no company of a record."""
        fitted = replace(self.model_modification, expected_records=2)
        return replace(self, model_modification=fitted)

    def plant(
        self,
        model: nn.Module,
        spec: ImageSpec,
        public: Float[Tensor, "public channels *space"],
        rng: torch.Generator,
    ) -> Planted:
        """Return the network with the block in it, and where its rows are.

        Raises:
            NotApplicable: The named module is not there, or public images are few or do not fit.
        """
        check_images(spec, public)
        chosen = self.model_modification
        if chosen.position is not None:
            _check_place(model, spec, chosen.position)
        if chosen.type != "LOKI":
            what = f"{chosen.type} with {chosen.num_bins} rows"
            dense = 2 if chosen.connection == "linear" else 1
            register = chosen.num_bins if chosen.type == "PeelingBlock" else 0
            inputs = math.prod(spec.shape) + register
            check_room(what, WIDTH * dense * chosen.num_bins * inputs)
        block, make_secret = BUILDERS[chosen.type](chosen, spec, public, rng)
        if chosen.position is None:
            model = nn.Sequential(block, model)
        else:
            model.set_submodule(
                chosen.position, nn.Sequential(block, model.get_submodule(chosen.position))
            )
        name = next(name for name, m in model.named_modules() if m is block)
        return Planted(model, make_secret(name))

    def send(self, planted: Planted, client: int) -> nn.Module:
        """Return the network as one client of the round receives it.

        Args:
            planted: What `plant` returned.
            client: The client's place in the round, from 0.
        """
        if isinstance(planted.secret, LokiSecret):
            return open_for_client(planted, client)
        return planted.model


def single_record(case: "Case") -> "Case":
    """Return one record of a case, with its own server, whose rows are fitted to single records."""
    server = case.server
    if isinstance(server, MaliciousModelServer):
        server = server.for_single_records()
    return replace(case.solvable(), server=server)


def _check_place(model: nn.Module, spec: ImageSpec, position: str) -> None:
    """Check that a module takes what the network takes.

    Raises:
        NotApplicable: It does not, or is not there, or is not run.
    """
    modules = dict(model.named_modules())
    if position not in modules:
        near = [name for name in modules if name and name.count(".") <= position.count(".")]
        raise NotApplicable(
            f"the network has no module {position!r} to plant before: {nearest(position, near)}"
        )
    seen: list[tuple[Any, ...]] = []
    handle = modules[position].register_forward_pre_hook(
        lambda _, inputs, others: seen.append((*inputs, *others.values())), with_kwargs=True
    )
    with torch.no_grad():
        model.eval()(torch.zeros(2, *spec.shape))
    handle.remove()
    shapes = [tuple(getattr(i, "shape", ())) for inputs in seen for i in inputs]
    if not seen or shapes != [(2, *spec.shape)] * len(seen):
        raise NotApplicable(
            f"the module {position!r} does not take the image, so nothing is planted"
        )
