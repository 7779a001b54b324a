"""What a reader of the reproduced DKFZ table has to know."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from medbreach.reproductions.dkfz import METHODS
from medbreach.reproductions.dkfz_setting import NOTEBOOKS, RECORDS, Setting
from medbreach.reproductions.line import Line

MEANINGS: Final[Mapping[str, str]] = {
    "published": "The percentage in the publication's abstract, beside the fork's weights; that "
    "its first number is of 2D is our reading.",
    "seeds": "Repetitions with other records and weights that gave a result. Percentages are over "
    "all their records.",
    "rule": "Records that the notebooks' own rule counts as reconstructed. It chooses by the "
    "private image and accepts a mean squared error below 0.1.",
    "black, mean": "Records for which that rule would accept a black image, and the mean public "
    "image. Where these are as high as the rule's own figure, it tells nothing about a leak.",
    "identified": "Records whose claim is nearer to them than to every decoy, an image that took "
    "no part. Chance: the share that a guess identifies, at most.",
    ">= 30 dB": "Records that a claim of their own shows at a PSNR of 30 dB or more, close to "
    "what the eye cannot tell apart. In brackets, as for identified: 95 % Wilson interval.",
    "false claims": "Claims that are below 30 dB to every record.",
    "records a row": "Records in a round for each planted row; LOKI plants its rows once for every "
    "client.",
    "seconds, MiB": "Time to read one update, and the peak memory of the whole process meanwhile.",
}
"""What each column means."""

SUBJECT: Final = (
    "A malicious server plants a layer in the network that it sends out, and reads clients' images "
    "out of the updates that come back. The table shows how many of them, for each kind of layer."
)

GENERAL: Final = (
    "The published percentages cannot be reproduced: their protocol is not published, and the "
    "code that goes with them computes none.",
    "All clients' records are the truth; claims are fixed before they are compared with it. The "
    "server sees only the mean of all clients' updates.",
)


def in_short(lines: Sequence[Line]) -> Iterator[str]:
    """Yield a sentence about each form and number of clients."""
    for form, clients in dict.fromkeys((line.form, line.clients) for line in lines):
        there = [li for li in lines if (li.form, li.clients) == (form, clients) and li.seeds]
        if not there:
            yield f"{form}, {clients} clients: no result."
            continue
        most = max(line.shown / line.records for line in there)
        best = [line for line in there if line.shown / line.records == most]
        fork = [line for line in there if line.method == "fork" and line not in best]
        names = [line.method for line in best]
        both = f"{', '.join(names[:-1])} and {names[-1]} show" if names[1:] else f"{names[0]} shows"
        yield (
            f"{form}, {clients} clients: {both} the most, {share(best[0].shown, best[0])} of the "
            "records at 30 dB or more"
            + "".join(f"; the fork {share(line.shown, line)}" for line in fork)
            + ". The notebooks' rule would accept the mean public image for "
            f"{share(best[0].rule_mean, best[0])} of the records, a black one for "
            f"{share(best[0].rule_black, best[0])}."
        )


def share(count: int, line: Line) -> str:
    """Return a number of a line's records as a percentage."""
    return f"{100 * count / line.records:.0f} %"


def measured_on(setting: Setting, lines: Sequence[Line]) -> list[dict[str, str]]:
    """Return what each form was measured on, by the words for it."""
    found = []
    for form in dict.fromkeys(line.form for line in lines):
        there = [line for line in lines if line.form == form]
        rounds = dict.fromkeys((line.clients, line.each) for line in there if line.each)
        first = there[0]
        found.append(
            {
                "form": form,
                "data set": first.dataset + (f" ({setting.folder})" if setting.folder else ""),
                "image size": first.size,
                "network": first.network,
                "clients x records": ", ".join(f"{clients} x {each}" for clients, each in rounds),
                "rows": str(setting.rows),
                "seeds": str(setting.seeds),
                "about": first.about,
            }
        )
    return found


def differences(setting: Setting, lines: Sequence[Line]) -> str:
    """Return in what the measurement differs from the notebooks, in a paragraph."""
    notebooks = NOTEBOOKS[setting.name]
    sizes = dict.fromkeys(line.size for line in lines if not line.size.startswith("224 x 224 "))
    fewer = dict.fromkeys(line.each for line in lines if 0 < line.each != RECORDS)
    networks = dict.fromkeys(
        line.network for line in lines if line.network != "torchvision_resnet18"
    )
    found = [
        f"packaged or fetched images instead of {notebooks.images}" * (setting.folder is None),
        f"{' and '.join(sizes)} instead of 224 x 224 pixels" * bool(sizes),
        f"{' and '.join(map(str, fewer))} records a client instead of {RECORDS}, for want of "
        "patients" * bool(fewer),
        f"{' and '.join(networks)} beside ResNet18" * bool(networks),
        "no setting with 12 clients" * setting.quick,
        f"all clients take part ({notebooks.clients})",
        "networks start from random weights, where the notebooks ask for pretrained ones",
    ]
    return (
        f"The notebooks have {notebooks.images} at 224 x 224 pixels, {RECORDS} records a client, "
        f"{notebooks.rows} rows and ResNet18. Different here: {'; '.join(filter(None, found))}."
    )


def methods(lines: Sequence[Line]) -> dict[str, str]:
    """Return what each method of the table is, and what differs from its publication."""
    return {line.method: METHODS[line.method].words for line in lines}


def remarks(setting: Setting, lines: Sequence[Line]) -> list[str]:
    """Return everything else that a reader has to know, a paragraph each."""
    strange = [f"{line.title}: {line.controls}." for line in lines if line.controls]
    lost = [
        f"{line.title}: {line.seeds} of {setting.seeds} seeds gave a result; {line.reasons}."
        for line in lines
        if line.notes
    ]
    return [
        *GENERAL,
        differences(setting, lines),
        *(["Seeds without a result do not count in percentages. " + " ".join(lost)] * bool(lost)),
        *(["Controls that were not as they should be: " + " ".join(strange)] * bool(strange)),
    ]
