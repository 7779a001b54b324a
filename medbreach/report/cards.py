"""Which records the page shows, and what it says of each."""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from torch import Tensor

from medbreach.record import Images, Line, RunRecord
from medbreach.report import phrasing
from medbreach.report.pictures import LARGEST, Picture, explain, liveliest, pictures_of, side_for
from medbreach.statistics import chance, wilson
from medbreach.types import Finding, Role

PER_PAGE: Final = 48
PER_FINDING: Final = 8
SCORES: Final = ("psnr", "ssim")


class View(NamedTuple):
    """One image of a card.

    Attributes:
        kind: ``original``, ``claim`` or ``decoy``.
        title: What it is.
        text: What it is, for those who cannot see it.
        pictures: The image; empty if there is none.
    """

    kind: str
    title: str
    text: str
    pictures: tuple[Picture, ...]


class Likeness(NamedTuple):
    """A whitened correlation.

    Attributes:
        title: Of the claim with what.
        value: The correlation.
        share: Width of its bar, from 0 to 1.
    """

    title: str
    value: str
    share: float


class Card(NamedTuple):
    """One private record and what was claimed of it.

    Attributes:
        title: Its number, and its client where there are several.
        identified: Whether it was identified.
        remark: Why, or why not.
        likenesses: What decides.
        scores: Names and values of what describes.
        views: Original, claim and nearest decoy; empty in a redacted report.
    """

    title: str
    identified: bool
    remark: str
    likenesses: tuple[Likeness, ...]
    scores: tuple[tuple[str, str], ...]
    views: tuple[View, ...]


class Gallery(NamedTuple):
    """The records of one finding, as far as they are shown.

    Attributes:
        title: Attack, defenses and seed.
        verdict: What the finding showed.
        kind: How that is coloured.
        summary: Its numbers in a sentence.
        cards: The records, identified ones first.
    """

    title: str
    verdict: str
    kind: str
    summary: str
    cards: tuple[Card, ...]


class Exhibition(NamedTuple):
    """Every gallery of a page.

    Attributes:
        galleries: One a finding, those with most identified records first.
        remarks: What a reader has to know about them.
    """

    galleries: tuple[Gallery, ...]
    remarks: tuple[str, ...]


def exhibit(record: RunRecord, lines: Sequence[Line], *, redact: bool) -> Exhibition:
    """Return what the page shows of the records that attacks went for.

    At most `PER_FINDING` records of a finding and `PER_PAGE` of the page are shown, so that the
    page stays small however many findings there are.

    Raises:
        RecordError: Recorded images are missing or damaged.
    """
    attacks = [x for x in lines if x.finding.role is Role.ATTACK and x.finding.p_value is not None]
    ranked = sorted(attacks, key=lambda x: -sum(x.finding.identified))
    shown = ranked[:PER_PAGE]
    most = max(1, min(PER_FINDING, PER_PAGE // max(1, len(shown))))
    cards = sum(min(most, line.finding.records) for line in shown)
    galleries, remarks, side = [], [], LARGEST
    for line in shown:
        images = None if redact else record.images(line)
        if images is not None:
            side = side_for(3 * cards, images.spec)
            remarks = list(explain(images.spec, side))
        galleries.append(_gallery(line.finding, images, most, side))
    if any(line.finding.records > most for line in shown):
        remarks.append(f"At most {most} records of each attempt are shown, identified ones first.")
    if len(shown) < len(ranked):
        remarks.append(
            f"Of {len(ranked)} attempts, the {len(shown)} with most identified records are shown."
        )
    return Exhibition(tuple(galleries), tuple(remarks))


def _gallery(finding: Finding, images: Images | None, most: int, side: int) -> Gallery:
    rate = wilson(sum(finding.identified), finding.records)
    behind = f" behind {phrasing.defended(finding.defenses)}" if finding.defenses else ""
    order = sorted(range(finding.records), key=lambda j: _rank(finding, j))
    return Gallery(
        title=f"{finding.attack}{behind}, seed {finding.seed}",
        verdict=phrasing.outcome(finding),
        kind=phrasing.verdict_kind(finding.verdict),
        summary=(
            f"{phrasing.share(rate)} records identified among {finding.decoys} decoys "
            f"(95\u00a0% interval {phrasing.interval(rate)}; chance {chance(finding.decoys):.1%}; "
            f"p\u00a0=\u00a0{phrasing.p_value(finding.p_value)}, a leak at or below "
            f"{phrasing.p_value(finding.level)})."
        ),
        cards=tuple(_card(finding, j, images, side) for j in order[:most]),
    )


def _rank(finding: Finding, record: int) -> tuple[bool, float]:
    similarity = finding.similarity[record]
    return not finding.identified[record], -(-math.inf if similarity is None else similarity)


def _card(finding: Finding, record: int, images: Images | None, side: int) -> Card:
    several = len(set(finding.clients)) > 1
    client = f" of client {finding.clients[record]}" if several else ""
    likenesses = (
        _likeness("claim and original", finding.similarity[record]),
        _likeness("claim and nearest decoy", finding.nearest_decoy[record]),
    )
    return Card(
        title=f"Record {record + 1}{client}",
        identified=finding.identified[record],
        remark=_remark(finding, record),
        likenesses=tuple(x for x in likenesses if x is not None),
        scores=tuple(
            (phrasing.measure(name).title, phrasing.score(name, finding.scores[name][record]))
            for name in SCORES
            if name in finding.scores and finding.scores[name][record] is not None
        ),
        views=() if images is None else _views(finding, record, images, side),
    )


def _likeness(title: str, value: float | None) -> Likeness | None:
    if value is None:
        return None
    return Likeness(title, f"{value:.3f}", min(1.0, max(0.0, value)))


def _remark(finding: Finding, record: int) -> str:
    similarity, nearest = finding.similarity[record], finding.nearest_decoy[record]
    if similarity is None:
        return "No claim was left for this record."
    if nearest is None:
        return "There is no decoy to compare its claim with."
    if finding.identified[record]:
        return "Its claim resembles it more than any claim resembles any decoy."
    if similarity <= nearest:
        return "Its claim resembles a decoy at least as much."
    return "Its claim resembles it most, but another claim resembles a decoy even more."


def _views(finding: Finding, record: int, images: Images, side: int) -> tuple[View, ...]:
    name, spec = f"record {record + 1}", images.spec
    claim, decoy = finding.matched[record], finding.decoy_index[record]
    places = liveliest(images.truth[record]) if len(spec.space) == 3 else None

    def view(kind: str, title: str, text: str, image: Tensor | None) -> View:
        shown = () if image is None else pictures_of(image, spec, side, places)
        return View(kind, title, text, shown)

    return (
        view("original", "Private original", f"Private original, {name}", images.truth[record]),
        view(
            "claim",
            "Attack's claim",
            f"Claim of the attack that was matched to {name}",
            None if claim is None else images.claims[claim],
        ),
        view(
            "decoy",
            "Nearest decoy",
            f"Decoy nearest to the claim that was matched to {name}",
            None if decoy is None else images.decoys[decoy],
        ),
    )
