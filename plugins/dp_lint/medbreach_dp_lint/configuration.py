"""What a configuration says, in the one form that all formats are read into."""

import math
from dataclasses import dataclass, field
from typing import Final, Literal

Unit = Literal["record", "patient", "client"]
Adjacency = Literal["add_or_remove", "replace_one"]
Amount = Literal["round", "training"]

PARAMETERS: Final = 1_000_000  # of a network of which nothing is known (ours)
DELTA: Final = 1e-5  # where none is given (ours)


@dataclass(frozen=True)
class Noise:
    """What is drawn and added.

    Attributes:
        kind: Its distribution.
        scale: Its standard deviation, or the scale of Laplace noise, in the unit of what it is
            added to; None where nothing says it.
        multiplier: The scale over the sensitivity that the configuration counts with.
        calibration: ``classic``: scale = sensitivity * sqrt(2 ln(1.25 / delta)) / epsilon;
            ``accountant``: found by an accountant; ``given``: a number of the configuration.
        bare: Trained layers that get none.
        added_by: Whose the noise is.
    """

    kind: Literal["gaussian", "laplace"] = "gaussian"
    scale: float | None = None
    multiplier: float | None = None
    calibration: Literal["given", "classic", "accountant"] = "given"
    bare: tuple[str, ...] = ()
    added_by: Literal["client", "server"] = "client"


@dataclass(frozen=True)
class Clipping:
    """What bounds the contribution of one record or client.

    Attributes:
        norm: The bound; None if there is none.
        order: Its norm.
        of: What is clipped: every example's gradient, the batch's gradient or a client's update.
        sensitivity: What the configuration takes the sensitivity to be; None: it follows the bound.
        weight: The largest share of one clipped contribution in what the noise is added to.
        typical: Norm that is usual before clipping, if known.
    """

    norm: float | None = None
    order: Literal["l2", "l1"] = "l2"
    of: Literal["example", "batch", "update"] = "example"
    sensitivity: float | None = None
    weight: float = 1.0
    typical: float | None = None


@dataclass(frozen=True)
class Sampling:
    """Who takes part in a step.

    Attributes:
        rate: Share of the records or clients.
        method: ``poisson``: each by a coin of its own; ``shuffle``: batches of a shuffled epoch;
            ``fixed_size``: that many, drawn anew.
        amplified: The configuration counts on amplification by sampling.
        population: Number of records or clients; None if unknown.
    """

    rate: float = 1.0
    method: Literal["poisson", "shuffle", "fixed_size"] = "poisson"
    amplified: bool = True
    population: int | None = None


@dataclass(frozen=True)
class Schedule:
    """How often something is released.

    Attributes:
        rounds: Rounds of the training.
        steps: Noisy steps of one round.
        accounted: Steps that the accountant is told, over the training; None: all.
    """

    rounds: int = 1
    steps: int = 1
    accounted: int | None = None

    @property
    def total(self) -> int:
        """Return the steps of the training."""
        return self.rounds * self.steps


@dataclass(frozen=True)
class Claim:
    """What the configuration says of itself.

    Attributes:
        epsilon: The epsilon that it states; None if it states none.
        by: The key that states it.
        recurs: That epsilon is spent in every round, by what the mechanism is.
        covers: What the epsilon is said to cover; None if nothing says it.
        delta: The delta; None if it is missing.
        unit: Whom it says that it protects; None if it does not.
        adjacency: Between which data sets; None if it does not say.
        against_server: It says that it protects against the server.
    """

    epsilon: float | None = None
    by: str = "epsilon"
    recurs: bool = False
    covers: Amount | None = None
    delta: float | None = None
    unit: Unit | None = None
    adjacency: Adjacency | None = None
    against_server: bool = False


@dataclass(frozen=True)
class Network:
    """What the configuration says of the network.

    Attributes:
        parameters: Number of values of an update; None if unknown.
        batch_norm: It has BatchNorm layers.
        buffers_sent: Their buffers leave the client.
    """

    parameters: int | None = None
    batch_norm: bool = False
    buffers_sent: bool = True


@dataclass(frozen=True)
class SparseVector:
    """NVFlare's SVTPrivacy.

    Attributes:
        fraction: Share of the values that are uploaded.
        selection: Epsilon that choosing them takes.
        noise_var: Epsilon that the release of one value takes.
        release: Epsilon that the release of all takes; None: noise_var times their number.
        gamma: Bound of each value.
    """

    fraction: float = 0.1
    selection: float = 0.1
    noise_var: float = 0.1
    release: float | None = None
    gamma: float = 1e-5

    def uploaded(self, parameters: int) -> int:
        """Return how many values are uploaded."""
        return min(math.ceil(parameters * self.fraction), parameters)

    def released(self, parameters: int) -> float:
        """Return the epsilon that their release takes."""
        if self.release is not None:
            return self.release
        return self.uploaded(parameters) * self.noise_var


@dataclass(frozen=True)
class Filter:
    """An outgoing filter that adds no accountable noise.

    Attributes:
        name: Its class.
        kind: ``heuristic`` looks like privacy; ``neutral`` has nothing to do with it;
            ``encryption`` hides the update; ``unknown`` is not known here.
    """

    name: str
    kind: Literal["heuristic", "neutral", "encryption", "unknown"]


@dataclass(frozen=True)
class Configuration:
    """One configuration.

    Attributes:
        source: The file that it comes from.
        framework: Whose configuration it is, and which class of it.
        mechanism: What protects: noise, the sparse vector technique or nothing.
        unit: Whom the mechanism protects, whatever is claimed.
        accountant: The accountant that the configuration names.
        secure_mode: Whether noise is drawn securely; None where there is no such setting.
        equal_weights: Whether clients count alike in the mean; None if unknown or meaningless.
        count_std: Noise on the count of clipped contributions, in adaptive clipping.
        assumed: What had to be assumed, one sentence each.
    """

    source: str
    framework: str
    mechanism: Literal["noise", "svt", "none"] = "noise"
    unit: Literal["record", "client"] = "record"
    noise: Noise = Noise()
    clipping: Clipping = Clipping()
    sampling: Sampling = Sampling()
    schedule: Schedule = Schedule()
    claim: Claim = Claim()
    network: Network = Network()
    svt: SparseVector = SparseVector()
    filters: tuple[Filter, ...] = ()
    accountant: Literal["prv", "rdp", "gdp"] | None = None
    secure_mode: bool | None = None
    equal_weights: bool | None = None
    count_std: float | None = None
    assumed: tuple[str, ...] = field(default=())

    @property
    def delta(self) -> float:
        """Return the delta to count with."""
        return self.claim.delta or DELTA

    @property
    def adjacency(self) -> Adjacency:
        """Return the adjacency to count with: the claimed one, or the mechanism's own."""
        if self.claim.adjacency is not None:
            return self.claim.adjacency
        return "replace_one" if self.mechanism == "svt" else "add_or_remove"

    @property
    def parameters(self) -> int:
        """Return the number of values of an update to count with."""
        return self.network.parameters or PARAMETERS
