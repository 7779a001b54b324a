"""The malicious-server attack on 2D and 3D images (Parampottupadam et al. 2024) made again.

The published percentages (35.19, 37.21 and 62.92 % of "reconstructed" records) come without a
protocol, and the code that goes with them computes none. So the setting is taken from its notebooks
and everything is measured by rules of our own, beside the notebooks' one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from medbreach.assembly import assemble
from medbreach.audit import Outcome, audit
from medbreach.case import Sample
from medbreach.collection import Collection
from medbreach.config import load
from medbreach.datasets.totalsegmentator import CHEST_CT, missing
from medbreach.errors import DataError
from medbreach.plan import Plan
from medbreach.recovery import psnr_table, recovery
from medbreach.report.pictures import pictures_of
from medbreach.reproductions.dkfz_rule import rule_score
from medbreach.types import Role, Verdict

RECORDS: Final = 16  # of each client, as in the notebooks
DECOYS: Final = 12  # at least, for identification
PICTURES: Final = 4

METHODS: Final[Mapping[str, tuple[str, ...]]] = {
    "fork": (
        "case/server=malicious-model-cah",
        "case.server.model_modification.legacy_dkfz=true",
        "case.server.model_modification.scale_factor=0.01",
        "case.data.normalize=false",
        "attack=imprint",
    ),
    "trap weights (CAH), corrected": ("case/server=malicious-model-cah", "attack=imprint"),
    "QBI": ("case/server=malicious-model-qbi", "attack=imprint"),
    "Robbing the Fed": ("case/server=malicious-model-rtf", "attack=imprint"),
    "LOKI": ("case/server=malicious-model-loki", "attack=imprint"),
    "peeling": ("case/server=malicious-model-peeling", "attack=peeling"),
}
"""What each row of the table plants, and how it is read."""

PUBLISHED: Final[Mapping[tuple[str, int], str]] = {
    ("dkfz_2d", 6): "35.19 %",
    ("dkfz_2d", 12): "37.21 %",
    ("dkfz_3d", 12): "62.92 %",
}
"""What the abstract says; which number belongs to which setting is our reading."""


@dataclass(frozen=True)
class Setting:
    """What to reproduce, and on what.

    Attributes:
        name: ``dkfz_2d`` or ``dkfz_3d``.
        folder: The user's images; None for packaged ones.
        seeds: Number of seeds.
        quick: Six clients only, and small images and networks.
    """

    name: str
    folder: str | None = None
    seeds: int = 3
    quick: bool = False

    @property
    def clients(self) -> tuple[int, ...]:
        """Numbers of clients."""
        return (6,) if self.quick else (6, 12)

    @property
    def bins(self) -> int:
        """Number of rows, as in the notebooks."""
        return 128 if self.name == "dkfz_2d" else 500

    @property
    def forms(self) -> Mapping[str, tuple[str, ...]]:
        """The images in each form that they are tried in: settings of a case by the form's name."""
        if self.name == "dkfz_2d":
            return {"images": self._pictures()}
        return {"slices": self._volumes(flat=True), "volumes": self._volumes(flat=False)}

    def _pictures(self) -> tuple[str, ...]:
        network = "case.model=torchvision_resnet18"
        if self.folder is None:
            return ("case=dermoscopy_2d", network)
        side = 64 if self.quick else 224
        return (
            "case=brain_tumor_2d", f"case.data.path={self.folder}",
            f"case.data.size=[{side},{side}]", network,
        )  # fmt: skip

    def _volumes(self, *, flat: bool) -> tuple[str, ...]:
        network = f"case.model={'torchvision_resnet18' if flat else 'monai_resnet10'}"
        if self.folder is not None:
            slices, volumes = ("64,64", "16,32,32") if self.quick else ("224,224", "32,64,64")
            return (
                "case=brain_mr_3d", "case/data=nifti_folder", f"case.data.path={self.folder}",
                f"case.data.form={'slices' if flat else 'volumes'}",
                f"case.data.space=[{slices if flat else volumes}]", network, *self._mosmed(),
            )  # fmt: skip
        if not missing(CHEST_CT, "chest_ct") and not self.quick:
            space = "[32,32]" if flat else "[16,32,32]"
            return "case=chest_ct_3d", f"case.data.space={space}", network
        return "case=brain_mr_3d", f"case.data.space={'[16,16]' if flat else '[8,16,16]'}", network

    def _mosmed(self) -> tuple[str, ...]:
        assert self.folder is not None
        root = Path(self.folder)
        has_classes = any((root / part / "CT-0").is_dir() for part in ("", "studies"))
        return ("case.data.preset=MosMedData",) if has_classes else ()


@dataclass(frozen=True)
class Row:
    """One line of the table: one method in one setting, over all seeds.

    Attributes:
        form: Whether images are pictures, slices or volumes.
        method: What was planted.
        clients: Number of clients.
        records: Records of all clients and seeds together.
        each: Records of each client in a round.
        bins: Rows that were planted.
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
        note: Why there is no result, if there is none.
        pictures: Pairs of a record and its nearest claim, as data URIs.
    """

    form: str
    method: str
    clients: int
    records: int = 0
    each: int = 0
    bins: int = 0
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
    note: str = ""
    pictures: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells it from other rows."""
        return (self.form, self.method, self.clients)


def rows_of(setting: Setting) -> list[Row]:
    """Return the rows of the table, still empty, in order."""
    return [
        Row(form, method, clients, published=_published(setting, method, clients))
        for form in setting.forms
        for clients in setting.clients
        for method in METHODS
    ]


def _published(setting: Setting, method: str, clients: int) -> str:
    return PUBLISHED.get((setting.name, clients), "") if method == "fork" else ""


def measure(setting: Setting, wanted: Sequence[Row], device: torch.device) -> Iterator[Row]:
    """Yield rows as soon as they are measured.

    Args:
        setting: What to reproduce, and on what.
        wanted: The rows to measure.
        device: Where to compute.

    Raises:
        InputError: The images or settings do not fit.
    """
    opened: dict[str, Collection] = {}
    for row in wanted:
        base = setting.forms[row.form]
        if row.form not in opened:
            opened[row.form] = assemble(load(base)).case.dataset.open()
        each = records_each(opened[row.form], row.clients)
        plan = plan_of(setting, row, base, each)
        yield _measured(replace(row, each=each, bins=setting.bins), plan, opened[row.form], device)


def records_each(collection: Collection, clients: int) -> int:
    """Return the records of each client: 16, or as many as there are patients for.

    A third of the patients is the public's.

    Raises:
        DataError: There are too few patients.
    """
    patients = len({entry.patient for entry in collection.entries})
    each = min(RECORDS, (patients - patients // 3 - DECOYS) // clients)
    if each < 1:
        raise DataError(
            f"{patients} patients are too few for {clients} clients, {DECOYS} decoys and public "
            f"images: it takes at least {(clients + DECOYS) * 3 // 2 + 1}"
        )
    return each


def plan_of(setting: Setting, row: Row, base: Sequence[str], each: int) -> Plan:
    """Return the audit of one row."""
    modification = "case.server.model_modification"
    overrides = [
        *base,
        "case/user=multiuser_aggregate",
        f"case.user.user_range=[0,{row.clients}]",
        f"case.user.num_data_points={each}",
        f"case.data.default_clients={row.clients}",
        "case.data.partition=random",
        f"case.data.public_share={1 / 3}",
        *METHODS[row.method],
        f"{modification}.num_bins={setting.bins}",
        f"audit.seeds={setting.seeds}",
        "audit.metrics=[psnr]",
    ]
    if row.method in ("QBI", "trap weights (CAH), corrected"):
        overrides.append(f"{modification}.expected_records={each * row.clients}")
    if row.method == "LOKI":
        overrides.append(f"{modification}.num_clients={row.clients}")
    return assemble(load(overrides))


def _measured(row: Row, plan: Plan, collection: Collection, device: torch.device) -> Row:
    """Return a row with what an audit shows."""
    tried, strange = 0, []
    for outcome in audit(plan, collection, device):
        finding = outcome.finding
        if finding.role is not Role.ATTACK:
            as_wanted = Verdict.SOLVED if finding.role is Role.SOLVABLE else Verdict.NO_LEAK
            if finding.verdict is not as_wanted:
                strange.append(f"{finding.role} {finding.attack}: {finding.verdict}")
        elif outcome.sample is None or outcome.claims is None:
            row = replace(row, note=finding.note)
        else:
            row = _with(row, outcome, outcome.sample, tried)
            tried += 1
    if tried:
        row = replace(row, seconds=row.seconds / tried)
    return replace(row, controls="; ".join(strange))


def _with(row: Row, outcome: Outcome, sample: Sample, tried: int) -> Row:
    """Return a row with one more seed's numbers added."""
    assert outcome.claims is not None
    finding, claims, truth = outcome.finding, outcome.claims.images, sample.truth.images
    psnr = psnr_table(claims, truth, sample.spec)
    found = recovery(psnr, 30.0)
    rule = rule_score(claims, truth, sample.public, sample.spec)
    added: dict[str, Any] = {
        "records": found.records,
        "rule": rule.claims,
        "rule_black": rule.black,
        "rule_mean": rule.mean,
        "identified": sum(finding.identified),
        "shown": found.shown,
        "claims": found.claims,
        "false": found.false,
        "seconds": finding.seconds,
    }
    row = replace(row, **{name: getattr(row, name) + value for name, value in added.items()})
    row = replace(
        row,
        decoys=finding.decoys if not tried else min(row.decoys, finding.decoys),
        peak_memory_mb=max(row.peak_memory_mb, finding.peak_memory_mb),
    )
    if tried or not len(claims):
        return row
    pairs = [(truth[k], claims[int(psnr[:, k].argmax())]) for k in range(min(PICTURES, len(truth)))]
    shown = [tuple(pictures_of(i, sample.spec, 96)[0].uri for i in pair) for pair in pairs]
    return replace(row, pictures=tuple((a, b) for a, b in shown))
