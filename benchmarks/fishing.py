"""What a fishing server gets of large batches, beside gradient matching against an honest one.

Both attack the same dermoscopy records in each seed. The fishing server asks several times; what
inverting gradients gets is of one round, since an honest server's rounds are all the same. Printed
for each size of the batch: records identified among decoys, claims, those nearer than 30 dB to a
record, the median PSNR of identified records, and seconds.
"""

import argparse
import statistics
import time
from dataclasses import replace
from typing import Any

import torch

from medbreach.assembly import assemble
from medbreach.case import draw
from medbreach.components import Attack, Server
from medbreach.config import load
from medbreach.plan import Plan
from medbreach.randomness import Seeds
from medbreach.round import play
from medbreach.scoring import Scorer
from medbreach.servers.fishing import FishingServer
from medbreach.servers.honest_but_curious import HonestServer

CPU = torch.device("cpu")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--queries", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--honest-steps", type=int, default=1000)
    parser.add_argument("--model", default="small_cnn")
    parser.add_argument("--case", default="dermoscopy_2d")
    parser.add_argument("--settings", nargs="*", default=[], help="further settings of the case")
    asked = parser.parse_args()
    fishing = planned(asked, "clsattack", asked.steps)
    matching = planned(asked, "invertinggradients", asked.honest_steps)
    print(f"{asked.case}, {asked.model}, seeds 0 to {asked.seeds - 1}, added up; one client")
    print(f"{'batch':>5}  {'server, attack':<34}{'identified':>12}{'claims':>8}{'30 dB':>7}"
          f"{'median dB':>11}{'seconds':>9}")  # fmt: skip
    for records in asked.batches:
        row(records, "honest, invertinggradients", matching, HonestServer(), asked.seeds)
        for queries in asked.queries:
            server = FishingServer(num_queries=queries, expected_records=records)
            row(records, f"fishing x {queries}, clsattack", fishing, server, asked.seeds)


def planned(asked: Any, attack: str, steps: int) -> tuple[Plan, Attack]:
    """Return a plan with one attack, and the attack."""
    chosen = [f"case={asked.case}", f"case.model={asked.model}", f"attack={attack}"]
    more = ["case.data.default_clients=1", f"attack.optim.max_iterations={steps}"]
    if attack == "invertinggradients":
        more += ["attack.optim.step_size_decay=cosine-decay"]
        more += ["attack.regularization.total_variation.scale=0.05"]
    plan = assemble(load([*chosen, *more, *asked.settings]))
    return plan, plan.attacks[attack]


def row(records: int, name: str, planned: tuple[Plan, Attack], server: Server, seeds: int) -> None:
    """Attack the same records of each seed, and print a row."""
    plan, attack = planned
    user = replace(plan.case.user, num_data_points=records)
    case = replace(plan.case, user=user, server=server)
    collection = case.dataset.open()
    identified, claims, near, psnr, seconds = 0, 0, 0, [], 0.0
    for seed in range(seeds):
        sample = draw(case, collection, Seeds(seed), 99, 1000)
        (exchange,) = play(case, sample, (), Seeds(seed), CPU)
        started = time.perf_counter()
        found = attack(exchange, Seeds(seed).stream("attack/0"))
        seconds += time.perf_counter() - started
        score = Scorer.fit(sample, plan.metrics, plan.options.whitening).score(found)
        hits = score.identification.identified
        decibels = score.scores.get("psnr", (None,) * records)
        claims += len(found.images)
        identified += sum(hits)
        near += sum(value is not None and value >= 30 for value in decibels)
        psnr += [value for value, hit in zip(decibels, hits, strict=True) if hit and value]
    median = f"{statistics.median(psnr):.1f}" if psnr else "-"
    print(f"{records:>5}  {name:<34}{f'{identified} of {seeds * records}':>12}{claims:>8}{near:>7}"
          f"{median:>11}{seconds:>9.0f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
