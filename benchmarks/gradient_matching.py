"""How long gradient matching takes here and with breaching called directly, on one exchange.

Both run inverting gradients on the same update of four dermoscopy records; the ratio of seconds a
step is printed for each of several repetitions, in turn, and their median.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from omegaconf import OmegaConf

from medbreach.assembly import assemble
from medbreach.breaching_bridge import library
from medbreach.breaching_bridge.values import server_payload, shared_data
from medbreach.case import draw
from medbreach.config import load, read_choice
from medbreach.randomness import Seeds
from medbreach.round import play


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--steps", type=int, default=200)
    arguments.add_argument("--repeat", type=int, default=5)
    arguments.add_argument("--model", default="small_cnn")
    asked = arguments.parse_args()
    chosen = ["case=dermoscopy_2d", f"case.model={asked.model}", "attack=invertinggradients"]
    plan = assemble(load([*chosen, f"attack.optim.max_iterations={asked.steps}"]))
    sample = draw(plan.case, plan.case.dataset.open(), Seeds(0), 99, 1000)
    (exchange,) = play(plan.case, sample, (), Seeds(0), torch.device("cpu"))
    settings = read_choice("attack", "invertinggradients")
    settings["optim"] |= {"max_iterations": asked.steps, "callback": asked.steps}

    def ours() -> None:
        plan.attacks["invertinggradients"](exchange, torch.Generator().manual_seed(0))

    def directly() -> None:
        setup = {"device": torch.device("cpu"), "dtype": torch.float32}
        network = copy.deepcopy(exchange.model)
        network.name = asked.model
        with library.quiet():
            attacker = library.attacks.prepare_attack(
                network, exchange.loss, OmegaConf.create(settings), setup
            )
            attacker.reconstruct(server_payload(exchange), shared_data(exchange), {})

    ratios = []
    for _ in range(asked.repeat):
        theirs, mine = timed(directly), timed(ours)
        ratios.append(mine / theirs)
        print(
            f"breaching {1000 * theirs / asked.steps:.2f} ms a step, "
            f"medbreach {1000 * mine / asked.steps:.2f} ms, ratio {ratios[-1]:.2f}"
        )
    print(f"median ratio medbreach / breaching: {statistics.median(ratios):.2f}")


def timed(run: Callable[[], None]) -> float:
    """Return how many seconds a call takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
