"""What `analytic` and `cpa` read off an honest, fully connected network, by number of records.

One client's gradient of one batch; for each seed other records, weights and clients. Printed are
the records identified among decoys (the headline of an audit), those that a claim shows at 60 dB or
better, the claims that the attack itself confirms (confidence 1), those that no record is
identified by, the median PSNR and the seconds of the attack.
The source's own objective for CPA, on intensities, is there for comparison (fewer steps than
published).
"""

import argparse
import statistics
import time
from collections.abc import Iterator

import torch

from medbreach.assembly import assemble
from medbreach.case import draw
from medbreach.collection import Collection
from medbreach.config import load
from medbreach.plan import Plan
from medbreach.randomness import Seeds
from medbreach.round import play
from medbreach.scoring import Scorer

PUBLISHED = [
    "attack=cpa",
    "attack.differences=false",
    "attack.contrast=1",
    "attack.temperature=12.4",
    "attack.weight.total_variation=3.1",
    "attack.weight.decorrelation=1.47",
]
ATTACKS = {
    "analytic": ["attack=analytic"],
    "cpa": ["attack=cpa"],
    "cpa on intensities": PUBLISHED,
}
CASES = {
    "dermoscopy_2d": ([], (4, 8, 16, 32)),
    "brain_mr_3d": (["case.data.default_clients=1"], (4, 8, 16)),
}
HEAD = (
    "images", "records", "decoys", "attack",
    "identified", ">= 60 dB", "confirmed", "false", "median dB", "seconds",
)  # fmt: skip


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seeds", type=int, default=2)
    arguments.add_argument("--width", type=int, help="rows of the layer, if not the default")
    arguments.add_argument("--folder", help="your own images instead, one subfolder a class")
    arguments.add_argument("--side", type=int, default=64, help="pixels along each of their sides")
    asked = arguments.parse_args()
    cases = CASES
    if asked.folder:
        side = f"case.data.size=[{asked.side},{asked.side}]"
        where = [f"case.data.path={asked.folder}", side, "case.data.channels=1"]
        cases = {"my_folder": (where, (4, 8, 16, 32, 64))}
    print("{:14} {:>7} {:>6}  {:18} {:>12} {:>9} {:>10} {:>6} {:>10} {:>8}".format(*HEAD))
    for case, (settings, counts) in cases.items():
        for count in counts:
            for name, attack in ATTACKS.items():
                chosen = [f"case={case}", "case.model=mlp", "case.data.default_clients=2"]
                chosen += [f"case.user.num_data_points={count}", "audit.metrics=[psnr]"]
                chosen += [f"case.model.width={asked.width}"] if asked.width else []
                print(row(case, count, name, assemble(load([*chosen, *settings, *attack])), asked))


def row(case: str, count: int, name: str, plan: Plan, asked: argparse.Namespace) -> str:
    """Return one line of the table."""
    identified, claims, sure, values, seconds = 0, 0, 0, list[float](), list[float]()
    decoys = set[int]()
    for among, found, made, certain, psnr, took in runs(
        plan, plan.case.dataset.open(), asked.seeds
    ):
        identified, claims, sure = identified + found, claims + made, sure + certain
        values += psnr
        seconds.append(took)
        decoys.add(among)
    total = count * asked.seeds
    return (
        f"{case:14} {count:7} {min(decoys):6}  {name:18} {identified:5} of {total:3} "
        f"{sum(value >= 60 for value in values):9} {sure:10} {claims - identified:6} "
        f"{statistics.median(values):10.1f} {statistics.mean(seconds):8.1f}"
    )


def runs(
    plan: Plan, collection: Collection, seeds: int
) -> Iterator[tuple[int, int, int, int, list[float], float]]:
    """Yield for each seed the decoys of a record, records identified, claims, PSNR, seconds.

    Before the PSNR comes the number of claims with a confidence of 1.
    """
    (attack,) = (a for name, a in plan.attacks.items() if name in ("analytic", "cpa"))
    for seed in range(seeds):
        sample = draw(plan.case, collection, Seeds(seed), 99, 1000)
        (exchange,) = play(plan.case, sample, (), Seeds(seed), torch.device("cpu"))
        scorer = Scorer.fit(sample, plan.metrics, 0.99)
        started = time.perf_counter()
        claims = attack(exchange, Seeds(seed).stream("attack"))
        took = time.perf_counter() - started
        score = scorer.score(claims)
        psnr = [min(value, 200.0) for value in score.scores["psnr"] if value is not None]
        among = min(pool.decoys for pool in sample.pools)
        sure = 0 if claims.confidence is None else int((claims.confidence == 1).sum())
        found = sum(score.identification.identified)
        yield among, found, len(claims.images), sure, psnr, took


if __name__ == "__main__":
    main()
