"""What a federation on Flower costs beside a plain loop over the same work, from 4 to 100 clients.

    python benchmarks/federation.py [--clients 4 20 100] [--rounds 5] [--epochs 5]

Both train small_cnn on the packaged dermoscopy patches, with the same clients, rounds and seed; the
loop trains one client after the other in this process. The weights have to be the same.
"""

import argparse
import logging
import tempfile
import time
from pathlib import Path

import torch

from medbreach_federation import FlowerRule, Instruction, run_federation
from medbreach_federation.classifier import build
from medbreach_federation.prepare import Federation, prepare_federation

CPU = torch.device("cpu")


def prepared(clients: int, rounds: int, epochs: int, folder: Path) -> Federation:
    """Return a federation of so many clients."""
    return prepare_federation(
        [
            f"federation.clients={clients}",
            f"federation.rounds={rounds}",
            f"federation.local_epochs={epochs}",
            "federation.partition=random",
            "case.data.public_share=0.1",
        ],
        CPU,
        folder,
    )


def loop(made: Federation, rounds: int) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Train without Flower; return the weights and the seconds of each round."""
    learner, rule = made.learner, FlowerRule("fedavg")
    weights, seconds = dict(learner.first()), []
    for number in range(1, rounds + 1):
        began = time.perf_counter()
        results = {
            k: learner.train(Instruction(k, number, weights)) for k in range(learner.clients)
        }
        weights = dict(rule.aggregate(number, weights, results).weights)
        learner.evaluate(number, weights)
        seconds.append(time.perf_counter() - began)
    return weights, seconds


def main() -> None:
    """Print a line for each number of clients."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, nargs="+", default=[4, 20, 100])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    print("clients  start s  round s (Flower)  round s (loop)  ratio  same weights")
    for clients in given.clients:
        with tempfile.TemporaryDirectory() as folder:
            made = prepared(clients, given.rounds, given.epochs, Path(folder) / "run")
            weights, alone = loop(made, given.rounds)
            lines = run_federation(
                made.folder, build, made.rule(), given.rounds, learner=made.learner,
                claim=made.claim,
            )  # fmt: skip
            kept = torch.load(made.folder / "federation.pt", weights_only=True)["weights"]
            same = all(torch.allclose(kept[n], w, atol=1e-6) for n, w in weights.items())
        later = [line.seconds for line in lines[2:]]
        flower, plain = sum(later) / len(later), sum(alone[1:]) / len(alone[1:])
        print(
            f"{clients:7}  {lines[1].seconds - flower:7.1f}  {flower:16.2f}  {plain:14.2f}  "
            f"{flower / plain:5.2f}  {same}",
            flush=True,
        )


if __name__ == "__main__":
    main()
