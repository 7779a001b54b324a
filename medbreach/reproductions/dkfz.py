"""The malicious-server attack on 2D and 3D images made again.

It is that of Parampottupadam et al. 2024, doi:10.1007/978-3-031-79103-1_24. The published
percentages (35.19, 37.21 and 62.92 % of "reconstructed" records) come without a protocol, and the
code that goes with them computes none. So the setting is taken from its notebooks and everything is
measured by rules of our own, beside the notebooks' one.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import torch

from medbreach.assembly import assemble
from medbreach.audit import Outcome, audit
from medbreach.case import Sample
from medbreach.collection import Collection
from medbreach.config import load
from medbreach.errors import DataError
from medbreach.plan import Plan
from medbreach.recovery import psnr_table, recovery
from medbreach.report.pictures import pictures_of
from medbreach.reproductions.dkfz_rule import rule_score
from medbreach.reproductions.dkfz_setting import PUBLISHED, RECORDS, Setting
from medbreach.reproductions.line import Line
from medbreach.types import ImageSpec, Role, Verdict

DECOYS: Final = 12  # at least, for identification
LOKI_ROWS: Final = 4  # a record of each client, as published
PICTURES: Final = 4
ONE_SUBJECT: Final = "places in one subject"  # what patients of one person's scan are


class Method(NamedTuple):
    """What a line of the table plants, and how it is read.

    Attributes:
        settings: Settings of the audit.
        words: What it is, and what differs from its publication.
    """

    settings: tuple[str, ...]
    words: str


METHODS: Final[Mapping[str, Method]] = {
    "fork": Method(
        (
            "case/server=malicious-model-cah",
            "case.server.model_modification.legacy_dkfz=true",
            "case.server.model_modification.scale_factor=0.01",
            "attack=imprint",
        ),
        "The weights of the published code, a fork of breaching: trap weights (CAH, see below) "
        "whose negative half is not negative, with the notebooks' scale of 0.01, on intensities "
        "from 0 to 1.",
    ),
    "trap weights (CAH), corrected": Method(
        ("case/server=malicious-model-cah", "attack=imprint"),
        "When the Curious Abandon Honesty, Boenisch et al. 2021, arXiv:2112.02918. Different here: "
        "the scale is fitted to public images, where the publication sets it by hand.",
    ),
    "QBI": Method(
        ("case/server=malicious-model-qbi", "attack=imprint"),
        "arXiv:2406.18745, with its PAIRS: 4 candidates are drawn for every row. Different here: "
        "biases are quantiles of a kernel density of public images, where the publication assumes "
        "normal voxels.",
    ),
    "Robbing the Fed": Method(
        ("case/server=malicious-model-rtf", "attack=imprint"),
        "Fowl et al. 2022, arXiv:2110.13057. Different here: bins are calibrated on public images, "
        "and the rows' mean is added to the image in place of a second dense layer.",
    ),
    "LOKI": Method(
        ("case/server=malicious-model-loki", "attack=imprint"),
        "Zhao et al. 2024, arXiv:2303.12233: rows of its own for every client, 4 a record, as "
        "published, whatever the number of rows of the others. Different here: 3 "
        "measurements where the publication has 1, bins are calibrated on public images, two more "
        "columns tell mixtures from single records, and no second dense layer.",
    ),
    "peeling": Method(
        ("case/server=malicious-model-peeling", "attack=peeling"),
        "medbreach's own, not published: several measurements, whose bins are solved for the "
        "records. One row tells one record at most; where there are more records, some are let in.",
    ),
}
"""What each line of the table plants, and how it is read."""


def lines_of(setting: Setting) -> list[Line]:
    """Return the lines of the table, still empty, in order."""
    return [
        Line(form, method, clients, published=_published(setting, method, clients))
        for form in setting.forms
        for clients in setting.clients
        for method in METHODS
    ]


def _published(setting: Setting, method: str, clients: int) -> str:
    return PUBLISHED.get((setting.name, clients), "") if method == "fork" else ""


def measure(setting: Setting, wanted: Sequence[Line], device: torch.device) -> Iterator[Line]:
    """Yield lines as soon as they are measured.

    Args:
        setting: What to reproduce, and on what.
        wanted: The lines to measure.
        device: Where to compute.

    Raises:
        InputError: The images or settings do not fit.
    """
    opened: dict[str, Collection] = {}
    for line in wanted:
        base = setting.forms[line.form]
        if line.form not in opened:
            opened[line.form] = assemble(load(base)).case.dataset.open()
        collection = opened[line.form]
        try:
            each = records_each(collection, line.clients)
        except DataError as error:
            if line.clients == min(setting.clients):
                raise
            yield replace(line, notes=(str(error),))  # fewer clients have given results
            continue
        line = replace(line, each=each, rows=_rows(setting, line, each))
        plan = plan_of(setting, line, base, collection.spec)
        line = _described(line, plan, collection)
        yield _measured(line, plan, collection, device)


def _described(line: Line, plan: Plan, collection: Collection) -> Line:
    """Return a line that says what it is measured on."""
    spec, patients = collection.spec, len({entry.patient for entry in collection.entries})
    voxels = "pixels" if len(spec.space) == 2 else "voxels"
    about = [f"{len(collection.entries)} images of {patients} {collection.patients_are}"]
    if collection.patients_are == ONE_SUBJECT:
        parts = "tiles of slices" if len(spec.space) == 2 else "blocks"
        about.append(
            f"all are {parts} of one person's body: private records, decoys and public images alike"
        )
    if collection.note:
        about.append(collection.note)
    channels = f" in {spec.channels} channels" if spec.channels > 1 else ""
    return replace(
        line,
        dataset=plan.case.dataset.name,
        size=f"{' x '.join(map(str, spec.space))} {voxels}{channels}",
        network=plan.case.model.name,
        about="; ".join(about),
    )


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


def _rows(setting: Setting, line: Line, each: int) -> int:
    return max(6, LOKI_ROWS * each) if line.method == "LOKI" else setting.rows


def plan_of(setting: Setting, line: Line, base: Sequence[str], spec: ImageSpec) -> Plan:
    """Return the audit of one line."""
    modification = "case.server.model_modification"
    overrides = [
        *base,
        "case/user=multiuser_aggregate",
        f"case.user.user_range=[0,{line.clients}]",
        f"case.user.num_data_points={line.each}",
        f"case.data.default_clients={line.clients}",
        "case.data.partition=random",
        f"case.data.public_share={1 / 3}",
        *METHODS[line.method].settings,
        *(_from_0_to_1(spec) if line.method == "fork" else ()),
        f"{modification}.num_bins={line.rows}",
        f"audit.seeds={setting.seeds}",
        "audit.metrics=[psnr]",
    ]
    if line.method in ("QBI", "trap weights (CAH), corrected", "peeling"):
        overrides.append(f"{modification}.expected_records={line.each * line.clients}")
    if line.method == "LOKI":
        overrides.append(f"{modification}.num_clients={line.clients}")
    return assemble(load(overrides))


def _from_0_to_1(spec: ImageSpec) -> tuple[str, str]:
    """Return what makes the network see intensities from 0 to 1, as in the notebooks."""
    return (
        f"case.data.mean={[spec.bounds[0]] * spec.channels}",
        f"case.data.std={[spec.range] * spec.channels}",
    )


def _measured(line: Line, plan: Plan, collection: Collection, device: torch.device) -> Line:
    """Return a line with what an audit shows."""
    strange: Counter[str] = Counter()
    for outcome in audit(plan, collection, device):
        finding = outcome.finding
        if finding.role is not Role.ATTACK:
            as_wanted = Verdict.SOLVED if finding.role is Role.SOLVABLE else Verdict.NO_LEAK
            if finding.verdict is not as_wanted:
                strange[f"{finding.role} {finding.attack}: {finding.verdict}"] += 1
        elif outcome.sample is None or outcome.claims is None:
            line = replace(line, notes=tuple(dict.fromkeys((*line.notes, finding.note))))
        else:
            line = _with(line, outcome, outcome.sample)
    if not line.seeds:
        return line  # neither the attack nor its controls had anything to work on
    controls = "; ".join(f"{what} ({count} times)" for what, count in strange.items())
    return replace(line, seconds=line.seconds / line.seeds, controls=controls)


def _with(line: Line, outcome: Outcome, sample: Sample) -> Line:
    """Return a line with one more seed's numbers added."""
    assert outcome.claims is not None
    finding, claims, truth = outcome.finding, outcome.claims.images, sample.truth.images
    psnr = psnr_table(claims, truth, sample.spec)
    found = recovery(psnr, 30.0)
    rule = rule_score(claims, truth, sample.public, sample.spec)
    first = not line.seeds
    added: dict[str, Any] = {
        "seeds": 1,
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
    line = replace(line, **{name: getattr(line, name) + value for name, value in added.items()})
    line = replace(
        line,
        decoys=finding.decoys if first else min(line.decoys, finding.decoys),
        peak_memory_mb=max(line.peak_memory_mb, finding.peak_memory_mb),
    )
    if not first or not len(claims):
        return line
    pairs = [(truth[k], claims[int(psnr[:, k].argmax())]) for k in range(min(PICTURES, len(truth)))]
    shown = [tuple(pictures_of(i, sample.spec, 96)[0].uri for i in pair) for pair in pairs]
    return replace(line, pictures=tuple((a, b) for a, b in shown))
