"""One line of a reproduction's table."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """One line of the table: one method in one setting, over all seeds.

    Attributes:
        form: Whether images are pictures, slices or volumes.
        method: What was planted.
        clients: Number of clients.
        dataset: Name of the data set.
        size: Size of an image, in words.
        network: Name of the network.
        about: What a reader has to know about the images.
        records: Records of all clients and seeds together.
        each: Records of each client in a round.
        rows: Rows that were planted.
        seeds: Seeds that gave a result.
        published: The percentage that was published for this setting, if any.
        rule: Records that the notebooks' rule accepts a claim for.
        rule_black: Records that it would accept a black image for.
        rule_mean: Records that it would accept the mean public image for.
        identified: Records identified among decoys.
        decoys: Decoys of a record, at least.
        shown: Records shown at 30 dB or more, each by a claim of its own.
        claims: Number of claims.
        false: Claims that are below 30 dB to every record.
        seconds: Time to read the update, mean over seeds.
        peak_memory_mb: Peak memory meanwhile, in MiB, of the whole process.
        controls: What the controls showed, if it was not as it should be.
        notes: Why seeds gave no result, each reason once.
        pictures: Pairs of a record and its nearest claim, as data URIs.
    """

    form: str
    method: str
    clients: int
    dataset: str = ""
    size: str = ""
    network: str = ""
    about: str = ""
    records: int = 0
    each: int = 0
    rows: int = 0
    seeds: int = 0
    published: str = ""
    rule: int = 0
    rule_black: int = 0
    rule_mean: int = 0
    identified: int = 0
    decoys: int = 0
    shown: int = 0
    claims: int = 0
    false: int = 0
    seconds: float = 0.0
    peak_memory_mb: float = 0.0
    controls: str = ""
    notes: tuple[str, ...] = ()
    pictures: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells it from other lines."""
        return (self.form, self.method, self.clients)

    @property
    def title(self) -> str:
        """What tells it from other lines, in words."""
        return f"{self.form}, {self.clients} clients, {self.method}"

    @property
    def load(self) -> float:
        """Records in a round for each planted row; LOKI plants its rows once for every client."""
        return (
            self.each * self.clients / (self.rows * (self.clients if self.method == "LOKI" else 1))
        )

    @property
    def reasons(self) -> str:
        """Why seeds gave no result, in words."""
        return "; ".join(self.notes) or "no seed gave a reason"
