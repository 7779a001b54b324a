"""How often `medbreach check-model` finds planted models, and how often it blames honest ones.

Honest are networks of torchvision's, MONAI's and medbreach's, fresh and after some steps on real
images, in 2D and 3D, among them some whose first layer is dense. Planted are medbreach's own
malicious servers and those that `tests/inspection/planted.py` builds from their publications, plain
and disguised. A planted model counts as found *by itself* if no architecture was agreed on, and *by
its weights* if its dense layer was agreed on too, so that only the weights and what they do can
give it away; with an agreed architecture, whatever is added to it is found besides.

It takes about 20 minutes on one core, and half of it with `--axes 2` or `--axes 3`.
"""

import argparse
import copy
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from honest_networks import Images, honest_networks, real_images, training
from torch import nn

from medbreach.errors import MedbreachError
from medbreach.inspection import Agreed, inspect_model, inspect_sent
from medbreach.inspection.disaggregation import disaggregation_ratio
from medbreach.inspection.history import replaced_layers
from medbreach.inspection.view import look_at

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "inspection"))

import planted as plants
import served

ROWS = 32


def blame_honest(data: Images, asked: argparse.Namespace) -> tuple[int, int]:
    """Inspect every honest network; print and count those that are blamed."""
    blamed = total = 0
    for honest in honest_networks(len(data.spec.space)):
        torch.manual_seed(0)
        try:
            fresh = honest.build(data.spec).eval()
        except MedbreachError as error:
            print(f"  {honest.name}: left out, {error}")
            continue
        for state, network in training(honest, fresh, data, asked.steps, asked.long):
            signs, told = inspect_honest(network, fresh, data)
            print(f"  {honest.name:44} {state:10} {told}", flush=True)
            blamed, total = blamed + bool(signs), total + 1
    return blamed, total


def inspect_honest(network: nn.Module, fresh: nn.Module, data: Images) -> tuple[list[str], str]:
    """Return what an honest network is blamed for, and words about it.

    It is inspected with and without public images, and compared with what it was when fresh.
    """
    begun = time.perf_counter()
    signs = [sign.kind for sign in inspect_model(network, data.spec).signs]
    seconds = time.perf_counter() - begun
    tried = inspect_model(network, data.spec, data.images)
    signs += [f"{sign.kind} with public images" for sign in tried.signs if sign.kind not in signs]
    view = look_at(network, data.spec)
    dense = [name for gate in view.gates for name in gate.weights]
    signs += [s.kind for s in replaced_layers(fresh.state_dict(), network.state_dict(), dense)]
    ratio = disaggregation_ratio(view).ratio
    return signs, f"D-SNR {ratio:6.2f} {seconds:5.1f} s  {', '.join(signs) or 'nothing'}"


# Planted networks.


class Host(NamedTuple):
    """An honest network that something is planted in."""

    name: str
    network: nn.Module
    data: Images


HOSTS = {2: "torchvision resnet18", 3: "MONAI resnet10"}
STRUCTURE = "dense layer before convolutions"
"""What would be agreed on, if the agreed architecture had a dense layer."""


def host(data: Images) -> Host:
    """Return an honest network to plant something in."""
    axes = len(data.spec.space)
    chosen = next(h for h in honest_networks(axes) if h.name == HOSTS[axes])
    torch.manual_seed(0)
    return Host(chosen.name, chosen.build(data.spec).eval(), data)


def built(into: Host) -> Iterator[tuple[str, str, nn.Module]]:
    """Yield what is planted by hand, in the same way."""
    for kind in plants.ROWS:
        for disguise in plants.DISGUISES:
            torch.manual_seed(1)
            network = copy.deepcopy(into.network)
            yield (
                kind,
                disguise,
                plants.plant(kind, network, into.data.spec, into.data.images, disguise, ROWS),
            )
    for kind, fish in plants.FISHING.items():
        for disguise in ("plain", "noisy"):
            torch.manual_seed(1)
            yield kind, disguise, plants.with_noise(fish(into.network), disguise)


def sent_by_servers(into: Host) -> Iterator[tuple[str, str, nn.Module]]:
    """Yield what medbreach's malicious servers send: its name, its disguise, and the network."""
    for name in served.SERVERS:
        for disguise in served.DISGUISES:
            torch.manual_seed(1)
            network, rng = copy.deepcopy(into.network), torch.Generator().manual_seed(0)
            server = served.server(name)
            sent = server.plant(network, into.data.spec, into.data.images, rng)
            if served.disguised(sent, into.network, disguise):
                yield name, disguise, server.send(sent, 0)


class Found(NamedTuple):
    """Whether a planted model was found, and how.

    Attributes:
        kind: What was planted.
        disguise: How it was disguised.
        axes: Of the images.
        ways: Whether it was found in each of `WAYS`.
    """

    kind: str
    disguise: str
    axes: int
    ways: Mapping[str, bool]


def find_planted(into: Host) -> Iterator[Found]:
    """Inspect every planted network; print and yield what is found."""
    spec = into.data.spec
    for kind, disguise, network in (*sent_by_servers(into), *built(into)):
        begun = time.perf_counter()
        alone = {sign.kind for sign in inspect_model(network, spec).signs}
        seconds = time.perf_counter() - begun
        agreed = Agreed(copy.deepcopy(into.network), into.name, spec)
        against = {sign.kind for sign in inspect_sent(network.state_dict(), agreed).signs}
        signs = {"agreed": against, "itself": alone, "weights": alone - {STRUCTURE}}
        ways = {way: bool(kinds) for way, kinds in signs.items()}
        told = ", ".join(f"{way} {'yes' if found else 'NO '}" for way, found in ways.items())
        print(
            f"  {kind:26} {disguise:9} {told}  {seconds:4.1f} s  {', '.join(sorted(alone))}",
            flush=True,
        )
        yield Found(kind, disguise, len(spec.space), ways)


def bear_noise(into: Host) -> None:
    """Print from which noise on planted rows are no longer found by their weights."""
    for level in (0.01, 0.05, 0.1, 0.2, 0.4):
        missed = []
        for kind, rows in plants.ROWS.items():
            torch.manual_seed(1)
            images = into.data.spec.normalise(into.data.images)
            noisy = plants.noisy(rows(images, ROWS), level)
            network = plants.planted(kind, noisy, copy.deepcopy(into.network), into.data.spec)
            signs = inspect_model(network, into.data.spec).signs
            missed += [kind] if not {sign.kind for sign in signs} - {STRUCTURE} else []
        print(f"  noise {level:4.0%} of the weights: missed {', '.join(missed) or 'nothing'}")


def table(planted: Sequence[Found]) -> Iterator[str]:
    """Yield the lines of a table in Markdown: what was found of each kind, plain and disguised."""
    columns = [
        (axes, plain) for axes in sorted({f.axes for f in planted}) for plain in (True, False)
    ]
    titles = [f"{axes}D {'plain' if plain else 'disguised'}" for axes, plain in columns]
    yield f"| planted | {' | '.join(titles)} |"
    yield f"|---|{'---|' * len(titles)}"
    for kind in dict.fromkeys(found.kind for found in planted):
        cells = [
            counted([f for f in planted if f.kind == kind and (f.axes, f.disguise == "plain") == c])
            for c in columns
        ]
        yield f"| {kind} | {' | '.join(cells)} |"


def counted(founds: Sequence[Found]) -> str:
    """Return how many planted models were found in each way, and how many there are."""
    counts = [sum(found.ways[way] for found in founds) for way in WAYS]
    return f"{', '.join(map(str, counts))} of {len(founds)}"


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--steps", type=int, default=30, help="of training honest networks")
    arguments.add_argument(
        "--long", type=int, default=300, help="the same of those quickly trained"
    )
    arguments.add_argument("--side", type=int, default=64, help="of 2D images; half of it in 3D")
    arguments.add_argument("--axes", type=int, nargs="+", default=[2, 3], choices=[2, 3])
    asked = arguments.parse_args()
    planted: list[Found] = []
    blamed = total = 0
    for axes in asked.axes:
        data = real_images(axes, {2: asked.side, 3: asked.side // 2}[axes])
        shape = " x ".join(map(str, data.spec.shape))
        into = host(data)
        print(f"planted into {into.name}, {shape}, {ROWS} rows by hand, the servers' own otherwise")
        planted += find_planted(into)
        print("found by their weights alone, the more noise the less")
        bear_noise(into)
        print(f"honest networks, {shape}")
        wrong, looked = blame_honest(data, asked)
        blamed, total = blamed + wrong, total + looked
    print("found against the agreed architecture, by itself, and by its weights alone")
    print("\n".join(table(planted)))
    for plain in (True, False):
        chosen = [found for found in planted if (found.disguise == "plain") == plain]
        for way, words in WAYS.items():
            count, every = sum(found.ways[way] for found in chosen), len(chosen)
            which = "plain" if plain else "disguised"
            print(f"{which} planted models found {words}: {count} of {every} ({count / every:.1%})")
    print(f"honest models blamed: {blamed} of {total}")


WAYS = {
    "agreed": "against the agreed architecture",
    "itself": "by themselves",
    "weights": "by their weights alone",
}

if __name__ == "__main__":
    main()
