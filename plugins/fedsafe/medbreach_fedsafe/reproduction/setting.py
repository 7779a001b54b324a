"""What is reproduced, on what, and at which size."""

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from medbreach import DataError
from medbreach.datasets.nifti import NIFTI
from medbreach.datasets.pictures import PICTURE
from medbreach_fedsafe.evasion import Evasion
from medbreach_fedsafe.settings import FedSafe, Retraining, Setup

CLIENTS: Final = 3  # published
SIGMA: Final = 0.01  # published
PLAIN: Final = "plain"
NOISE: Final = "noise"
ADVERSARIAL: Final = "adversarial"
BOTH: Final = "noise + adversarial"
ARMS: Final = (PLAIN, NOISE, ADVERSARIAL, BOTH)
UPLINK: Final = "uplink noise"
POOL_SHARE: Final = 0.5  # of the public's patients, whose images the server may retrain on; ours
CLIPPED_TO: Final = 1.0  # L2 norm of the change of weights in the clipped arm; ours
EXAMPLES: Final = 4  # images that are shown


class Scale(NamedTuple):
    """How much is computed.

    Attributes:
        rounds: Of training; published 100, of pathology 50.
        seeds: Trainings of each arm.
        side: Height and width that pictures get; published 100.
        space: Depth, height and width that volumes get.
        network: Settings of the case's network.
        batch_size: Records in each of a client's steps, and of the server's; published 100.
        images: Images for evaluation, at most; those of every patient in turn.
        sigmas: Of the noise sweep.
        shares: Shares p of the pool, of the retraining sweep.
        pixels: Balls of the grid in pixels: shares of the image's range.
        normalised: Balls of the grid in normalised space.
        draws: Draws of the noise that an adaptive attacker averages over.
    """

    rounds: int
    seeds: int
    side: int
    space: tuple[int, int, int]
    network: tuple[str, ...]
    batch_size: int
    images: int
    sigmas: tuple[float, ...]
    shares: tuple[float, ...]
    pixels: tuple[float, ...]
    normalised: tuple[float, ...]
    draws: int


SMALL: Final = ("case.model=small_cnn", "case.model.width=16")
SHARES: Final = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)  # published
EPS: Final = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07)  # published
QUICK: Final = Scale(
    10, 2, 32, (8, 32, 32), SMALL, 20, 90, (0.003, 0.01, 0.03), (0.1, 0.3, 1.0),
    (0.01, 0.02, 0.03, 0.06), (0.01, 0.02, 0.04, 0.07), 8,
)  # fmt: skip
NORMAL: Final = Scale(
    30, 3, 64, (16, 48, 48), ("case.model=small_cnn",), 20, 600, (0.003, 0.01, 0.02, 0.03, 0.1),
    SHARES, (0.005, 0.01, 0.02, 0.03, 0.06), EPS, 16,
)  # fmt: skip
FULL: Final = Scale(
    100, 5, 100, (32, 100, 100), ("case.model=fedsafe_cnn",), 100, 2000,
    (0.003, 0.01, 0.02, 0.03, 0.1, 0.3), SHARES, (0.005, 0.01, 0.02, 0.03, 0.06), EPS, 16,
)  # fmt: skip


class Arm(NamedTuple):
    """One federation of the tables.

    Attributes:
        name: What it is called.
        group: ``arms``, ``sigma``, ``share`` or ``clipped``: the table that it is for.
        fedsafe: What clients and server do.
    """

    name: str
    group: str
    fedsafe: FedSafe


@dataclass(frozen=True)
class Setting:
    """What to reproduce.

    Attributes:
        data: A folder of pictures or of NIfTI volumes with a subfolder a class, or an ``.npz`` file
            in MedMNIST's layout; empty: melanoma against common nevus on the packaged dermoscopy
            patches.
        patients: Regular expression whose group is the patient, in each file's path.
        scale: How much is computed.
    """

    data: str = ""
    patients: str = ""
    scale: Scale = NORMAL

    @property
    def eps(self) -> float:
        """The ball of the main tables, in pixels: the published 0.03 of retraining."""
        return 0.03

    @property
    def case(self) -> tuple[str, ...]:
        """The settings of the case.

        Raises:
            DataError: There is no such folder or file.
        """
        some = (*self.scale.network, f"case.data.default_clients={CLIENTS}")
        if not self.data:
            if self.patients:
                raise DataError("--patients is for a folder of images: give --data too")
            return ("case=dermoscopy_melanoma", *some)
        path = Path(self.data).resolve()
        if path.suffix == ".npz" and path.is_file():
            if self.patients:
                raise DataError(f"{self.data} has no patients: leave --patients out")
            whole = ("case/data=npz", "case.data.examples_from_split=null")
            return ("case=my_folder", *whole, f"case.data.path={path}", *some)
        if not path.is_dir():
            raise DataError(
                f"there is no folder {self.data}: give one with a subfolder of images a class, or "
                "an .npz file in MedMNIST's layout"
            )
        return ("case=my_folder", *self._images(path), f"case.data.path={path}", *some)

    def _images(self, folder: Path) -> tuple[str, ...]:
        files = list(_below(folder))
        scale = self.scale
        whose = (f"case.data.patients={self.patients}",) if self.patients else ()
        if any(map(NIFTI.fits, files)):
            space = ",".join(map(str, scale.space))
            return ("case/data=nifti_folder", f"case.data.space=[{space}]", *whose)
        if not any(map(PICTURE.fits, files)):
            raise DataError(f"{self.data} holds no images, neither pictures nor NIfTI volumes")
        return (f"case.data.size=[{scale.side},{scale.side}]", *whose)

    @property
    def arms(self) -> list[Arm]:
        """Every federation, the plain one first; none twice."""
        known: dict[FedSafe, Arm] = {}
        for arm in (*self._four(), *self._sigmas(), *self._shares(), *self._clipped()):
            known.setdefault(arm.fedsafe, arm)
        return list(known.values())

    def fedsafe(
        self, name: str, *, uplink: bool = False, sigma: float = SIGMA, share: float = 1.0
    ) -> FedSafe:
        """Return what clients and server do in an arm."""
        retrained = name in (ADVERSARIAL, BOTH)
        silent = name in (PLAIN, ADVERSARIAL)
        return FedSafe(
            sigma=sigma if uplink or not silent else 0.0,
            downlink=not silent,
            uplink=uplink,
            retraining=Retraining(
                share=share if retrained else 0.0, batch_size=self.scale.batch_size
            ),
            batch_size=self.scale.batch_size,
        )

    def setup(self, arm: Arm, seed: int, device: str, images: str = "") -> Setup:
        """Return what the processes of an arm's federation read."""
        return Setup(self.case, seed, POOL_SHARE, device, arm.fedsafe, images)

    def _four(self) -> Iterator[Arm]:
        for uplink in (False, True):
            for name in ARMS:
                told = f"{name}, {UPLINK}" if uplink else name
                yield Arm(told, "arms", self.fedsafe(name, uplink=uplink))

    def _sigmas(self) -> Iterator[Arm]:
        for sigma in self.scale.sigmas:
            yield Arm(f"{NOISE}, sigma {sigma:g}", "sigma", self.fedsafe(NOISE, sigma=sigma))

    def _shares(self) -> Iterator[Arm]:
        for name in (ADVERSARIAL, BOTH):
            for share in self.scale.shares:
                yield Arm(f"{name}, p {share:g}", "share", self.fedsafe(name, share=share))

    def _clipped(self) -> Iterator[Arm]:
        clipped = dataclasses.replace(self.fedsafe(NOISE, uplink=True), max_update_norm=CLIPPED_TO)
        yield Arm(f"{NOISE}, {UPLINK}, updates clipped to {CLIPPED_TO:g}", "clipped", clipped)


def _below(folder: Path) -> Iterator[Path]:
    """Yield every file below a folder, behind links too."""
    for place, _, names in os.walk(folder, followlinks=True):
        yield from (Path(place) / name for name in names if not name.startswith("."))


def pgd(eps: float) -> Evasion:
    """Return PGD in pixels with steps enough: 20 of a quarter of the ball (ours)."""
    return Evasion("pgd", eps=eps, step=eps / 4, iterations=20)


def published_pgd(eps: float) -> Evasion:
    """Return PGD as published: in normalised space, 6 steps of a sixth of the ball.

    From a random start they bring half of the pixels to the ball's edge at most, so that the attack
    is often weaker than FGSM: for nothing but the published comparison.
    """
    return Evasion("pgd", eps=eps, step=eps / 6, iterations=6, space="normalised")
