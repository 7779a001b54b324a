"""What LOKI and Robbing the Fed read of many clients' local training through secure aggregation.

Clients train on records of their own, the server sees the exact mean of their changes of weights.
Records and public images are of different patients (or places). A record counts as recovered if
a claim of its own has a PSNR of at least 30 dB to it, one to one over all.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from medbreach.attacks.imprint_readout import ImprintReadout
from medbreach.case import Case, Sample
from medbreach.components import Dataset
from medbreach.datasets.brain_mr import BrainMR
from medbreach.datasets.dermoscopy import Dermoscopy
from medbreach.datasets.image_folder import ImageFolder
from medbreach.datasets.nifti_folder import NiftiFolder
from medbreach.federation import Federation
from medbreach.measure import measured
from medbreach.models.small_cnn import SmallCNN
from medbreach.population import with_normalisation
from medbreach.protocol import User
from medbreach.randomness import Seeds
from medbreach.recovery import recovery
from medbreach.round import play
from medbreach.servers.imprint import MaliciousModelServer, Modification
from medbreach.types import Batch

CPU = torch.device("cpu")
RECOVERED = 30.0  # dB
PUBLIC = 1000


@dataclass(frozen=True)
class Training:
    """How each client trains.

    Attributes:
        clients: Number of clients.
        steps: Local steps.
        per_step: Records in each.
    """

    clients: int
    steps: int
    per_step: int

    @property
    def each(self) -> int:
        """Records of a client."""
        return self.steps * self.per_step

    @property
    def user(self) -> User:
        """The same in a case's words."""
        return User(
            user_type="multiuser_aggregate",
            user_range=(0, self.clients),
            num_data_points=self.each,
            num_local_updates=self.steps,
            num_data_per_local_update_step=self.per_step,
        )


class Outcome(NamedTuple):
    """What one attack achieved.

    Attributes:
        share: Share of the records that are recovered.
        false: Claims that recover none.
        psnr: Lowest PSNR among the best nine tenths of the recovered, in dB.
    """

    share: float
    false: int
    psnr: float


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--images", type=Path, help="folder of pictures, one subfolder a class")
    arguments.add_argument("--volumes", type=Path, help="folder of NIfTI volumes, cut into blocks")
    arguments.add_argument("--side", type=int, default=64, help="side of pictures, or of blocks")
    arguments.add_argument("--clients", type=int, default=10)
    arguments.add_argument("--steps", type=int, default=8)
    arguments.add_argument("--per-step", type=int, default=8)
    arguments.add_argument("--seeds", type=int, default=3)
    asked = arguments.parse_args()
    training = Training(asked.clients, asked.steps, asked.per_step)
    side = asked.side
    if asked.images:
        report(ImageFolder(asked.images, size=(side, side)), training, asked.seeds)
    elif asked.volumes:
        blocks = NiftiFolder(
            path=asked.volumes, form="blocks", space=(side,) * 3,
            labels="arbitrary", one_subject=True,
        )  # fmt: skip
        report(blocks, training, asked.seeds)
    else:
        report(Dermoscopy(), training, asked.seeds)
        report(BrainMR((8, 8, 8)), replace(training, per_step=4), asked.seeds)


def report(dataset: Dataset, training: Training, seeds: int) -> None:
    """Print a table for one data set."""
    samples = [drawn(dataset, training, Seeds(k)) for k in range(seeds)]
    rows, clients = 4 * training.each, training.clients
    size = " x ".join(map(str, samples[0].spec.space))
    print(
        f"\n{dataset.name}, {size}: {clients} clients, {training.steps} local steps of "
        f"{training.per_step} records, {len(samples[0].public)} public images, {seeds} seeds"
    )
    print(f"{'':42}{'rows':>6}{'recovered':>11}{'false':>7}{'dB':>7}{'round s':>9}{'read s':>8}"
          f"{'MiB':>7}")  # fmt: skip
    one_step = replace(training, steps=1, per_step=training.each)
    loki = Modification(type="LOKI", num_bins=rows, num_clients=clients, measurements=1)
    fed = Modification(num_bins=rows, calibrate=True, connection="addition", linfunc="avg")
    wide = replace(fed, num_bins=rows * clients)
    show("LOKI", loki, training, samples)
    show("LOKI, 3 measurements", replace(loki, measurements=3), training, samples)
    show("LOKI, scaling 1", replace(loki, scaling=1.0), training, samples)
    show("LOKI, one step", loki, one_step, samples)
    show("Robbing the Fed, as many rows", fed, training, samples)
    show("Robbing the Fed, as many weights", wide, training, samples)
    show("Robbing the Fed, as many rows, one step", fed, one_step, samples)
    show("Robbing the Fed, as many weights, one step", wide, one_step, samples)


def drawn(dataset: Dataset, training: Training, seeds: Seeds) -> Sample:
    """Return records of every client and public images of other patients.

    Unlike in an audit, a patient may have several records, since there are not so many patients.
    """
    collection = dataset.open()
    patients = sorted({entry.patient for entry in collection.entries})
    order = torch.randperm(len(patients), generator=seeds.stream("patients")).tolist()
    place = {patients[k]: turn for turn, k in enumerate(order)}
    turns = [place[entry.patient] for entry in collection.entries]
    by_patient = sorted(range(len(turns)), key=turns.__getitem__)
    total = training.clients * training.each
    last = turns[by_patient[total - 1]]
    others = [k for k in by_patient if turns[k] > last][:PUBLIC]
    mixed = torch.randperm(total, generator=seeds.stream("records")).tolist()
    private, public = collection.images([by_patient[k] for k in mixed]), collection.images(others)
    labels = torch.randint(2, (total,), generator=seeds.stream("labels"))
    return Sample(
        spec=with_normalisation(collection.spec, public, Federation()),
        classes=2,
        batches=tuple(
            Batch(private[k : k + training.each], labels[k : k + training.each])
            for k in range(0, total, training.each)
        ),
        clients=tuple(range(training.clients)),
        groups=torch.zeros(total, dtype=torch.long),
        decoys=public[:1],
        decoy_groups=torch.zeros(1, dtype=torch.long),
        public=public,
        affines=(None,) * total,
    )


def show(name: str, planted: Modification, training: Training, samples: list[Sample]) -> None:
    """Play a round for each sample, read it, and print the means."""
    found, played, read, peak = [], 0.0, 0.0, 0.0
    server = MaliciousModelServer(model_modification=planted)
    case = Case(name, Dermoscopy(), SmallCNN(), server=server, user=training.user)
    for k, sample in enumerate(samples):
        with measured(CPU) as round_cost:
            (exchange,) = play(case, sample, (), Seeds(k), CPU)
        with measured(CPU) as read_cost:
            claims = ImprintReadout()(exchange, torch.Generator().manual_seed(0)).images
        found.append(judge(claims, sample))
        played, read = played + round_cost.seconds, read + read_cost.seconds
        peak = max(peak, round_cost.peak_memory_mb, read_cost.peak_memory_mb)
    share, false, psnr = (sum(column) / len(found) for column in zip(*found, strict=True))
    print(
        f"{name:42}{planted.num_bins:6d}{share:11.1%}{false:7.0f}{psnr:7.0f}"
        f"{played / len(found):9.1f}{read / len(found):8.1f}{peak:7.0f}",
        flush=True,
    )


def judge(claims: Tensor, sample: Sample) -> Outcome:
    """Count the records that a claim of their own shows, and the claims that show none."""
    a = claims.flatten(1).double() / sample.spec.range
    b = sample.truth.images.flatten(1).double() / sample.spec.range
    squares = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
    psnr = -10 * (squares / a.shape[1]).clamp_min(1e-12).log10()
    found = recovery(psnr, RECOVERED)
    best = psnr.amax(0) if len(a) else psnr.new_zeros(0)
    hits = best[best >= RECOVERED]
    lowest = float(hits.quantile(0.1)) if len(hits) else float("nan")
    return Outcome(found.shown / found.records, found.false, lowest)


if __name__ == "__main__":
    main()
