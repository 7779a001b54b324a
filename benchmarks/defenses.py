"""Every defense against three attacks, before and after the attacker knows it, and what it costs.

Prints one table, on real dermoscopy images: inverting gradients at an honest server, Robbing the
Fed, and peeling, each as if it knew nothing of the defense (plain) and as one that knows all of it
(adaptive); the accuracy that a training with the defense costs, and its seconds a round over those
without defense in the same run. The network is trained once for all three attacks.

Everything is kept in a folder, where the same command goes on; the table is written there as
defenses.csv (a line an attack) and defenses.md.
"""

import argparse
import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from medbreach.plan import ADAPTIVE, UNDEFENDED
from medbreach.report import phrasing, write_reports
from medbreach.report.summary import summarise
from medbreach.session import carry_out
from medbreach.tradeoff.line import Line
from medbreach.tradeoff.points import Leak, Point, points
from medbreach.tradeoff.predictions import Interval
from medbreach.tradeoff.prepare import prepare_tradeoff
from medbreach.tradeoff.run import Tradeoff
from medbreach.types import Verdict

DEFENSES = (
    "none", "dp_sgd", "dp_sgd_weak", "update_clipping", "gaussian_noise", "gaussian_noise_weak",
    "laplace_noise", "flower_local_dp", "flower_flip", "nvflare_percentile", "nvflare_svt",
    "gradient_pruning", "gradient_pruning_99", "top_k", "quantisation", "quantisation_int8",
    "soteria", "precode", "outpost", "oasis", "mixup", "bido", "bido_coco",
    "learnable_perturbation", "learnable_perturbation_fixed", "model_inspection",
)  # fmt: skip
UNTRAINED = {
    "soteria": "no training: it takes a backward pass for each of 2,048 features in every step, "
    "more than a minute a round"
}
FEW = ("none", "dp_sgd_weak", "gradient_pruning")
WORDS = {Verdict.NO_LEAK: "none found"}
NOTHING = "-"


class Scene(NamedTuple):
    """A server and the attack that fits it.

    Attributes:
        title: Of its column.
        attack: The attack's name.
        settings: What chooses them.
    """

    title: str
    attack: str
    settings: tuple[str, ...]


class Parts(NamedTuple):
    """What is carried out.

    Attributes:
        training: The training.
        audits: An audit for each scene.
    """

    training: Tradeoff
    audits: dict[Scene, Tradeoff]


class Result(NamedTuple):
    """What the three attacks and the training came to.

    Attributes:
        attacks: For each scene, what was read behind each defense.
        costs: What each defense costs.
    """

    attacks: dict[Scene, dict[str, Point]]
    costs: dict[str, Point]


def main() -> None:
    """Measure, print and write."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="few defenses, few iterations")
    arguments.add_argument("--only", nargs="+", metavar="NAME", help="defenses; none is added")
    arguments.add_argument("--seeds", type=int, help="of the attacks, four records each (8)")
    arguments.add_argument("--trainings", type=int, help="seeds of the training (2)")
    arguments.add_argument("--rounds", type=int, help="of each training (30)")
    arguments.add_argument("--iterations", type=int, help="of gradient matching (300)")
    arguments.add_argument("--report", action="store_true", help="measure nothing more")
    arguments.add_argument("--out", type=Path, default=Path("runs/defenses"))
    asked = arguments.parse_args()
    usual = (FEW, 1, 1, 3, 20) if asked.quick else (DEFENSES, 8, 2, 30, 300)
    named, seeds, trainings, rounds, iterations = usual
    named = tuple(dict.fromkeys(("none", *(asked.only or named))))
    parts = prepared(
        (named, asked.rounds or rounds, asked.seeds or seeds, asked.trainings or trainings),
        scenes(asked.iterations or iterations),
        asked.out,
    )
    if not asked.report:
        measure(parts)
    result = read(parts)
    text = "\n".join(page(result))
    print(text)
    (asked.out / "defenses.md").write_text(f"{text}\n")
    write_csv(result, asked.out / "defenses.csv")


def scenes(iterations: int) -> tuple[Scene, ...]:
    """Return the servers and attacks."""
    steps = f"attack.optim.max_iterations={iterations}"
    return (
        Scene("inverting gradients", "invertinggradients", (steps,)),
        Scene("Robbing the Fed", "imprint", ("case/server=malicious-model-rtf",)),
        Scene("peeling", "peeling", ("case/server=malicious-model-peeling",)),
    )


def prepared(
    asked: tuple[Sequence[str], int, int, int], chosen: Sequence[Scene], folder: Path
) -> Parts:
    """Return a training and an audit for each scene, new or to go on with.

    Args:
        asked: Defenses, rounds of the training, seeds of the attacks and of the training.
        chosen: The scenes.
        folder: Where each part has a folder of its own.
    """
    named, rounds, seeds, trainings = asked

    def part(name: str, stacks: Iterable[str], count: int, own: Iterable[str]) -> Tradeoff:
        wanted = (
            f"defense=[{','.join(stacks)}]",
            f"training.rounds={rounds}",
            f"audit.seeds={count}",
            *own,
        )
        made = prepare_tradeoff(wanted, torch.device("cpu"), folder / name)
        made.open()
        return made

    audits = {s: part(s.attack, named, seeds, (f"attack={s.attack}", *s.settings)) for s in chosen}
    trained = [name for name in named if name not in UNTRAINED]
    return Parts(part("training", trained, trainings, ("attack=imprint",)), audits)


def measure(parts: Parts) -> None:
    """Train and attack, as far as the folders lack it."""
    for line in parts.training.train(lambda *_: None):
        print(f"trained {line.stack}, seed {line.seed}: {line.problem or line.curve[-1]}")
    for made in reversed(parts.audits.values()):
        record = made.run_record()
        for finding in carry_out(made.session, record):
            behind = " + ".join((finding.attack, *finding.defenses))
            print(f"{behind}, seed {finding.seed}: {finding.verdict}, {finding.seconds:.1f} s")
        write_reports(record)


def read(parts: Parts) -> Result:
    """Return what the folders hold."""
    lines = list(parts.training.lines().values())
    audits = {s: summarise(made.run_record()).conclusion for s, made in parts.audits.items()}
    costs = points(lines, parts.training.predictions(), next(iter(audits.values())), UNDEFENDED)
    lines += [Line(name, 0, problem=reason) for name, reason in UNTRAINED.items()]
    leaks = {s: points(lines, {}, said, UNDEFENDED) for s, said in audits.items()}
    order = next(iter(parts.audits.values())).session.plan.stacks
    found = {s: {p.stack: p for p in own if p.stack in order} for s, own in leaks.items()}
    first = next(iter(found.values()))
    return Result(
        {s: {name: own[name] for name in order if name in own} for s, own in found.items()},
        first | {point.stack: point for point in costs},
    )


def page(result: Result) -> Iterator[str]:
    """Yield the table in Markdown, and what did not work."""
    first = next(iter(result.attacks.values()))
    titles = ["defense", "attacker", *(s.title for s in result.attacks), "accuracy lost", "time"]
    rows = [titles, *(row for name in first for row in rows_of(name, result))]
    widths = [max(len(row[k]) for row in rows) for k in range(len(titles))]
    rows.insert(1, ["-" * width for width in widths])
    for row in rows:
        yield f"| {' | '.join(c.ljust(w) for c, w in zip(row, widths, strict=True))} |"
    yield ""
    base = result.costs[UNDEFENDED]
    yield (
        f"Undefended: accuracy {spread(base.utility.get('accuracy'))}, AUC "
        f"{spread(base.utility.get('auc'))}, {base.seconds or 0:.2f} s a round."
    )
    everywhere = [*result.attacks.values(), result.costs]
    for name in first:
        told = [problem for found in everywhere for problem in found[name].problems]
        yield from (f"- {name}: {problem}" for problem in dict.fromkeys(told))


def rows_of(name: str, result: Result) -> Iterator[list[str]]:
    """Yield a defense's row of attackers who know nothing, and that of those who know it."""
    for attacker, ending in (("plain", ""), ("adaptive", ADAPTIVE)):
        if name == UNDEFENDED and ending:
            continue
        cells = [
            cell(leak_of(found[name], f"{scene.attack}{ending}"))
            for scene, found in result.attacks.items()
        ]
        lost = price(result.costs[name]) if not ending else ["", ""]
        yield [name, attacker, *cells, *lost]


def leak_of(point: Point, attack: str) -> Leak | None:
    """Return what an attack of this name read, if it tried."""
    return next((leak for leak in point.leaks if leak.attack == attack), None)


def cell(leak: Leak | None) -> str:
    """Return what one attack read, in a line."""
    if leak is None:
        return NOTHING
    verdict = WORDS.get(leak.verdict, str(leak.verdict))
    rate = leak.identified
    if not rate.total:
        return verdict
    decibel = "" if leak.psnr is None else f" {decibels(leak.psnr)} dB,"
    return f"{rate.count} of {rate.total} ({phrasing.interval(rate)}),{decibel} {verdict}"


def decibels(psnr: float) -> str:
    """Return a PSNR; equal images have none that is finite."""
    return "inf" if psnr == float("inf") else f"{psnr:.0f}"


def price(point: Point) -> list[str]:
    """Return the accuracy that a defense costs, in points, and its time over that of none."""
    if not point.utility:
        return ["no training", NOTHING]
    times = NOTHING if point.times is None else f"x {point.times:.1f}"
    if point.stack == UNDEFENDED:
        return [NOTHING, times]
    return [spread(point.cost.get("accuracy"), sign=-1), times]


def spread(value: Interval | None, sign: int = 1) -> str:
    """Return a share in percent with its interval."""
    if value is None:
        return NOTHING
    low, high = sorted((100 * sign * value.low, 100 * sign * value.high))
    middle, low, high = (0.0 + round(share, 1) for share in (100 * sign * value.value, low, high))
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


def write_csv(result: Result, file: Path) -> None:
    """Write a line for each defense and attack."""
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([
            "defense", "attack", "identified", "records", "low", "high", "psnr", "verdict",
            "accuracy_change", "change_low", "change_high", "seconds_per_round", "times",
        ])  # fmt: skip
        for found in result.attacks.values():
            for point in found.values():
                paid = result.costs[point.stack]
                change = paid.cost.get("accuracy", ("", "", ""))
                for leak in point.leaks:
                    rate = leak.identified
                    writer.writerow([
                        point.stack, leak.attack, rate.count, rate.total, rate.low, rate.high,
                        leak.psnr, leak.verdict, *change, paid.seconds, paid.times,
                    ])  # fmt: skip


if __name__ == "__main__":
    main()
