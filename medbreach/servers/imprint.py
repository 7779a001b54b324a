"""The server that plants a layer which records imprint themselves on."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medbreach.components import Planted, Server
from medbreach.errors import NotApplicable
from medbreach.randomness import lend_global
from medbreach.servers.loki import LokiSecret, loki_block, open_for_client
from medbreach.types import ImageSpec

SETTINGS_OF = {
    "ImprintBlock": ("connection", "gain", "linfunc", "mode"),
    "SparseImprintBlock": ("connection", "gain", "linfunc", "mode"),
    "OneShotBlock": ("connection", "gain", "linfunc", "mode", "target_val"),
    "CuriousAbandonHonesty": ("connection", "mu", "sigma", "scale_factor"),
}


class ImprintSecret(NamedTuple):
    """What the server remembers of a planted layer.

    Attributes:
        weight: Name of the layer's weight parameter.
        bias: Name of its bias parameter.
        structure: ``cumulative``: each row sees the records of the rows before it too; ``sparse``:
            each row sees its own.
    """

    weight: str
    bias: str
    structure: str


@dataclass(frozen=True)
class Modification:
    """The planted block, in breaching's keys. A key counts for the types that have it.

    Attributes:
        type: Name of the block.
        num_bins: Number of rows.
        connection: How the block leads back to the image: ``linear`` or ``addition``.
        gain: Factor of the rows.
        linfunc: The measurement: ``avg``, ``fourier``, ``randn`` or ``rand``.
        mode: Frequency of the ``fourier`` measurement.
        target_val: Measurement of the record that a ``OneShotBlock`` is after.
        mu: Bias of ``CuriousAbandonHonesty``'s rows.
        sigma: Deviation of their weights.
        scale_factor: Ratio of their positive to their negative weights.
        num_clients: Number of ``LOKI``'s kernel sets: a client beyond them shares one with another.
        scaling: Factor of ``LOKI``'s kernels. A large one closes a row for later local steps once
            a record came through it.
        measurements: Number of measurements that ``LOKI``'s rows are divided over: mean intensity,
            then random ones.
        calibrate: Put an ``ImprintBlock``'s bins at the quantiles of public images, where
            breaching assumes a distribution, and scale its output to theirs.
        position: Module to plant before, which must take images of the data's shape; null: before
            the network.
        handle_preceding_layers: Not used: nothing but the image's own shape may precede the block.
    """

    type: Literal[
        "ImprintBlock", "SparseImprintBlock", "OneShotBlock", "CuriousAbandonHonesty", "LOKI"
    ] = "ImprintBlock"
    num_bins: int = 64
    connection: Literal["linear", "addition"] = "linear"
    gain: float = 1.0
    linfunc: Literal["avg", "fourier", "randn", "rand"] = "fourier"
    mode: int = 32
    target_val: float = 0.0
    mu: float = 0.0
    sigma: float = 0.5
    scale_factor: float = 0.95
    num_clients: int = 4
    scaling: float = 1e6
    measurements: int = 1
    calibrate: bool = False
    position: str | None = None
    handle_preceding_layers: str | None = None

    def __post_init__(self) -> None:
        if self.num_bins < 2:
            raise ValueError(f"num_bins must be at least 2, got {self.num_bins}")
        if self.num_clients < 1:
            raise ValueError(f"num_clients must be at least 1, got {self.num_clients}")
        if self.scaling <= 0:
            raise ValueError(f"scaling must be positive, got {self.scaling}")
        if not 1 <= self.measurements <= self.num_bins // 2:
            raise ValueError(
                f"measurements must be at least 1 and leave each 2 of {self.num_bins} rows, got "
                f"{self.measurements}"
            )


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
        "Fowl et al. 2022, arXiv:2110.13057; LOKI: Zhao et al. 2024, arXiv:2303.12233"
    )
    differs: ClassVar[str] = (
        "The block is planted before the whole network (or a named module), so it works for any "
        "network in 2D and 3D; its bins and output can be calibrated on public images. LOKI's rows "
        "take a constant and the image's energy beside each client's channels, so that a client's "
        "weights alone tell its bias gradient and whether records are mixed; its kernels are not "
        "trained, and the mean of its rows is added to the image."
    )
    malicious: ClassVar[bool] = True

    model_modification: Modification = field(default_factory=Modification)
    model_gain: float = 1.0
    normalize_rounds: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model_gain != 1 or self.normalize_rounds != 0:
            raise ValueError("model_gain and normalize_rounds other than 1 and 0 are not supported")

    def plant(
        self,
        model: nn.Module,
        spec: ImageSpec,
        public: Float[Tensor, "public channels *space"],
        rng: torch.Generator,
    ) -> Planted:
        """Return the network with the block in it, and where its rows are.

        Raises:
            NotApplicable: The named module is not there, or there are too few public images.
        """
        chosen = self.model_modification
        if chosen.position is not None:
            _check_place(model, spec, chosen.position)
        build = loki_block if chosen.type == "LOKI" else _breachings_block
        block, make_secret = build(chosen, spec, public, rng)
        if chosen.position is None:
            model = nn.Sequential(block, model)
        else:
            model.set_submodule(
                chosen.position, nn.Sequential(block, model.get_submodule(chosen.position))
            )
        name = next(name for name, module in model.named_modules() if module is block)
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


def _breachings_block(
    chosen: Modification,
    spec: ImageSpec,
    public: Float[Tensor, "public channels *space"],
    rng: torch.Generator,
) -> tuple[nn.Module, Callable[[str], ImprintSecret]]:
    from medbreach.breaching_bridge.blocks import imprint_block

    if chosen.type == "CuriousAbandonHonesty" and math.prod(spec.shape) % 2:
        raise NotApplicable(
            "CuriousAbandonHonesty gives half of the pixels each sign, so it needs an even "
            f"number of them, not {math.prod(spec.shape)}"
        )
    settings = {k: getattr(chosen, k) for k in SETTINGS_OF[chosen.type]}
    block: Any
    with lend_global(rng):
        block = imprint_block(chosen.type, spec.shape, chosen.num_bins, settings)
    if chosen.calibrate and chosen.type == "ImprintBlock":
        calibrate(block, spec.normalise(public))
    structure: str = block.structure
    return block, lambda name: ImprintSecret(
        f"{name}.linear0.weight", f"{name}.linear0.bias", structure
    )


@torch.no_grad()
def calibrate(block: Any, public: Float[Tensor, "public channels *space"]) -> None:
    """Fit an imprint block to public images.

    Its bins go to the quantiles of their measurements, with one bin well below and one well above
    them all: the readout takes differences of rows, so it misses a record above the highest bin.
    The block's output gets mean 0 and deviation 1 over them. Otherwise it can be so large that the
    network is sure of a record's class, whose gradient is then zero.

    Args:
        block: The block; changed in place.
        public: Normalised public images.

    Raises:
        NotApplicable: There are fewer public images than two bins need.
    """
    if len(public) < 2:
        raise NotApplicable(
            "calibrating the imprint needs public images: set case.server.has_external_data=true, "
            "or case.server.model_modification.calibrate=false"
        )
    measured = public.flatten(1) @ block.linear0.weight[0]
    rows = len(block.linear0.bias)
    edges = torch.quantile(measured.double(), torch.linspace(0, 1, rows).double())
    spread = max(float(edges[-1] - edges[0]), 1e-6)
    bins = torch.cat([edges[:1] - spread, edges[1:-1], edges[-1:] + spread]).to(measured)
    block.linear0.bias.copy_(-bins)
    if hasattr(block, "linear2"):
        total = (measured[:, None] - bins).relu().sum(1)
        deviation, mean = torch.std_mean(total)
        deviation = deviation.clamp_min(1e-6 * spread)
        block.linear2.weight.fill_(1 / float(deviation))
        block.linear2.bias.fill_(-float(mean / deviation))


def _check_place(model: nn.Module, spec: ImageSpec, position: str) -> None:
    """Check that a module takes what the network takes.

    Raises:
        NotApplicable: It does not, or is not there, or is not run.
    """
    modules = dict(model.named_modules())
    if position not in modules:
        raise NotApplicable(f"the network has no module {position!r} to plant before")
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
