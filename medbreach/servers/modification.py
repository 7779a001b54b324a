"""What a malicious server plants, in breaching's keys."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

BINS: Final = frozenset({"num_bins", "connection", "gain", "linfunc", "mode", "calibrate"})
PLACE: Final = frozenset({"type", "position", "handle_preceding_layers"})
KEYS_OF: Mapping[str, frozenset[str]] = {
    "ImprintBlock": BINS | PLACE,
    "SparseImprintBlock": BINS | PLACE,
    "OneShotBlock": BINS | PLACE | {"target_val"},
    "CuriousAbandonHonesty": PLACE
    | {"num_bins", "connection", "gain", "mu", "sigma", "scale_factor", "expected_records"}
    | {"legacy_dkfz"},
    "QBI": PLACE
    | {"num_bins", "connection", "gain", "sigma", "calibrate", "expected_records", "pairs"},
    "LOKI": PLACE | {"num_bins", "gain", "measurements", "num_clients", "scaling"},
    "PeelingBlock": PLACE | {"num_bins", "gain", "measurements", "parts", "expected_records"},
}
"""The keys that count for each type of block."""


@dataclass(frozen=True)
class Modification:
    """The planted block, in breaching's keys. A key counts for the types that have it.

    Attributes:
        type: Name of the block.
        num_bins: Number of rows.
        connection: How the block leads back to the image: ``addition`` of the rows' mean, or
            ``linear``, a second dense layer as large as the first.
        gain: Factor of the rows of breaching's blocks; of the others, and of calibrated ones, size
            (deviation, or mean if larger) of what is added to the normalised image.
        linfunc: The measurement: ``avg``, ``fourier``, ``randn`` or ``rand``.
        mode: Frequency of the ``fourier`` measurement.
        target_val: Measurement of the record that a ``OneShotBlock`` is after.
        calibrate: Put the bins at quantiles of public images, where breaching and ``QBI`` assume a
            distribution.
        mu: Bias of ``CuriousAbandonHonesty``'s rows.
        sigma: Deviation of random weights.
        scale_factor: Ratio of ``CuriousAbandonHonesty``'s positive to its negative weights; null:
            such that a row lets one of ``expected_records`` public images through, with ``mu``.
        legacy_dkfz: Give ``CuriousAbandonHonesty`` the weights of a fork of breaching whose
            negative half is not negative. They are not fitted: a null ``scale_factor`` then means
            0.01, as in the fork.
        expected_records: Number of records in a round that rows are fitted to. Of more than 0.85 a
            row, a ``PeelingBlock`` lets 0.75 a row in, others each round.
        pairs: For each row of ``QBI``, this many are drawn, and those kept that isolate the most
            records of rounds simulated with public images; 1: none is left out.
        measurements: Number of measurements that the rows of a ``PeelingBlock`` or of ``LOKI`` are
            divided over.
        parts: Number of parts of the image whose energy is a ``PeelingBlock``'s checksum.
        num_clients: Number of ``LOKI``'s kernel sets: a client beyond them shares one with another.
        scaling: Factor of ``LOKI``'s kernels. A large one closes a row for later local steps once
            a record came through it.
        position: Module to plant before, which must take images of the data's shape; null: before
            the network.
        handle_preceding_layers: Not used: nothing but the image's own shape may precede the block.
    """

    type: Literal[
        "ImprintBlock",
        "SparseImprintBlock",
        "OneShotBlock",
        "CuriousAbandonHonesty",
        "QBI",
        "LOKI",
        "PeelingBlock",
    ] = "ImprintBlock"
    num_bins: int = 64
    connection: Literal["addition", "linear"] = "addition"
    gain: float = 1.0
    linfunc: Literal["avg", "fourier", "randn", "rand"] = "fourier"
    mode: int = 32
    target_val: float = 0.0
    calibrate: bool = False
    mu: float = 0.0
    sigma: float = 0.5
    scale_factor: float | None = 0.95
    legacy_dkfz: bool = False
    expected_records: int = 16
    pairs: int = 1
    measurements: int = 4
    parts: int = 8
    num_clients: int = 4
    scaling: float = 1e6
    position: str | None = None
    handle_preceding_layers: str | None = None

    def __post_init__(self) -> None:
        least = {
            "num_bins": 2,
            "expected_records": 2,
            "pairs": 1,
            "measurements": 1,
            "parts": 1,
            "num_clients": 1,
        }
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"{name} must be at least {bound}, got {getattr(self, name)}")
        for name in ("gain", "sigma", "scaling"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.type in ("LOKI", "PeelingBlock") and self.num_bins < 2 * self.measurements:
            raise ValueError(
                f"num_bins must be at least {2 * self.measurements}, two a measurement, got "
                f"{self.num_bins}"
            )
