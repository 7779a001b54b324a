"""What is reproduced, and on what."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Literal, NamedTuple

from medbreach import ConfigError, DataError
from medbreach_feddetect.calibration import Scale as LossScale
from medbreach_feddetect.holdings import opened
from medbreach_feddetect.rules import FedDetect, FedDetectCalibrated
from medbreach_feddetect.setting import Gan, GanFederation, Images, Measuring, Poisoning
from medbreach_federation import FlowerRule, Mean, Rule, Strength

PUBLICATION: Final = "Jin and Li 2023, arXiv:2210.10886, and its released code (arXiv:2207.00762)"
CLIENTS: Final = 4  # as released
MALICIOUS: Final = 0  # as released
RATE: Final = 0.05  # of benign runs in which the calibrated rule may flag anybody
PUBLIC_SHARE: Final = 0.3  # ours

Loss = Literal["bce", "wgan_gp"]


class Scale(NamedTuple):
    """How much is computed.

    Attributes:
        size: Pixels a side; released: 256, which the networks here do not go up to.
        width: Channels of the discriminator's first layer; released: 64.
        rounds: Released: 200.
        warm_up: Released: 11, counted from one.
        local_epochs: Passes over a client's images in a round; released: 1.
        limit: Most images of a client; 0: all.
        samples: Generated images that are measured.
        every: Rounds between measurements.
        seeds: Runs of each kind.
        classifier_epochs: Of the classifier that generated images are added to.
        learning_rate: Of both networks with ``bce``; released: 0.0002. With few rounds generators
            learn nothing at it, and nothing can be spoiled.
        beta1: Of Adam; released: 0.9.
        benign_runs: Of the plain mean without gradient penalty and without attack, at least: 19
            give a threshold of one's own.
        attacked_runs: The same with the attack, and of detection as released under it.
    """

    size: int
    width: int
    rounds: int
    warm_up: int
    local_epochs: int
    limit: int
    samples: int
    every: int
    seeds: int
    classifier_epochs: int
    learning_rate: float = 2e-4
    beta1: float = 0.9
    benign_runs: int = 0
    attacked_runs: int = 0


QUICK: Final = Scale(32, 8, 32, 8, 2, 160, 128, 32, 1, 4, 1e-3, 0.5, 20, 5)
NORMAL: Final = Scale(32, 16, 60, 11, 2, 0, 256, 20, 10, 15, 1e-3, 0.5, 20, 20)
FULL: Final = Scale(128, 64, 200, 11, 1, 0, 1024, 50, 20, 30, benign_runs=20, attacked_runs=20)


class Arm(NamedTuple):
    """One kind of run.

    Attributes:
        attack: Whether a client is malicious.
        loss: ``bce``, or ``wgan_gp``: training with gradient penalty.
        rule: What the server does.
    """

    attack: bool
    loss: Loss
    rule: str

    @property
    def title(self) -> str:
        """What it is called in tables."""
        words = ["attack" if self.attack else "no attack"]
        words += ["gradient penalty"] * (self.loss == "wgan_gp")
        words += [TITLES[self.rule]] * (self.rule != PLAIN)
        return " + ".join(words)

    @property
    def name(self) -> str:
        """What its folders are called."""
        return f"{'attack' if self.attack else 'benign'}-{self.loss}-{self.rule}"


PLAIN: Final = "mean"
RELEASED: Final = "released"
CALIBRATED: Final = "calibrated"
OWN: Final = "own"
TITLES: Final[Mapping[str, str]] = {
    PLAIN: "mean",
    RELEASED: "detection as released",
    CALIBRATED: "detection, calibrated (ours)",
    OWN: "detection, calibrated on these benign runs (ours)",
    "median": "median",
    "krum": "Krum",
}
ROBUST: Final[Mapping[str, Strength]] = {
    "median": Strength(),
    "krum": Strength(malicious=0),
}
"""Flower's robust strategies. Of four values the trimmed mean is the median; Krum, which takes
2 f + 3 clients to withstand f malicious ones, withstands none."""
COMPARED: Final[Mapping[Loss, LossScale]] = {"bce": "logarithmic", "wgan_gp": "plain"}
LOSSES: Final[tuple[Loss, ...]] = ("bce", "wgan_gp")
ARMS: Final[tuple[Arm, ...]] = tuple(
    Arm(attack, loss, rule)
    for loss in LOSSES
    for attack in (False, True)
    for rule in (PLAIN, RELEASED, CALIBRATED)
) + tuple(Arm(True, "bce", rule) for rule in (OWN, *ROBUST))
DETECTIONS: Final[Mapping[str, str]] = {
    RELEASED: "as released",
    CALIBRATED: "calibrated",
    OWN: "calibrated on these benign runs",
}
"""Rules that flag clients, and what claims call them."""
OWN_RUNS: Final = math.ceil(1 / RATE)  # that a threshold is taken from with one left out in turn
BENIGN: Final = Arm(False, "bce", PLAIN)
ATTACKED: Final = Arm(True, "bce", PLAIN)


@dataclass(frozen=True)
class Setting:
    """What to reproduce.

    Attributes:
        data: A folder of pictures, with a subfolder a class if they have labels, or an ``.npz``
            file; empty: the dermoscopy patches that come with medbreach.
        scale: How much is computed.
        seeds: Runs of each kind.
        inception: Weights of Inception v3; None: a stand-in sees the images.
        device: Where to compute.
    """

    data: str = ""
    scale: Scale = NORMAL
    seeds: int = NORMAL.seeds
    inception: Path | None = None
    device: str = "cpu"

    @property
    def images(self) -> Images:
        """The settings of the images.

        Raises:
            DataError: There is no such data.
        """
        share = f"case.data.public_share={PUBLIC_SHARE}"
        limit = self.scale.limit
        if not self.data:
            return Images(("case=dermoscopy_2d", share), limit=limit)
        path = Path(self.data)
        if not path.exists():
            raise DataError(
                f"there is no {self.data}: give a folder of pictures with a subfolder a class, or "
                "an .npz file"
            )
        npz = path.suffix == ".npz"
        kind = "npz" if npz else "image_folder"
        more = ["case.data.examples_from_split=null"] if npz else [f"case.data.size={self._size}"]
        if path.is_dir() and not any(one.is_dir() for one in path.iterdir()):
            more.append("case.data.labels=arbitrary")
        return Images(
            ("case=dermoscopy_2d", f"case/data={kind}", f"case.data.path={path}", share, *more),
            limit=limit,
        )

    @property
    def _size(self) -> str:
        return f"[{self.scale.size},{self.scale.size}]"

    @property
    def measuring(self) -> Measuring:
        """What sees the images."""
        scale = self.scale
        if self.inception is not None:
            return Measuring(scale.every, scale.samples, "inception", self.inception, 8)
        return Measuring(scale.every, scale.samples, grid=8)

    def seeds_of(self, arm: Arm) -> int:
        """Return how many runs there are of a kind: more of those that all others stand beside."""
        if arm.rule == OWN and self.seeds_of(BENIGN) < OWN_RUNS:
            return 0
        more = 0
        if arm.loss == "bce" and arm.attack and arm.rule in (PLAIN, RELEASED):
            more = self.scale.attacked_runs
        elif arm.loss == "bce" and not arm.attack and arm.rule == PLAIN:
            more = self.scale.benign_runs
        return max(self.seeds, more)

    def federation(self, arm: Arm, seed: int) -> GanFederation:
        """Return the settings of a run.

        Raises:
            DataError: The images cannot be opened.
        """
        scale = self.scale
        gan = Gan(
            scale.size, self._channels(), arm.loss, scale.width, local_epochs=scale.local_epochs
        )
        if arm.loss == "bce":
            gan = replace(gan, learning_rate=scale.learning_rate, beta1=scale.beta1)
        return GanFederation(
            gan,
            Poisoning((MALICIOUS,) if arm.attack else ()),
            self.images,
            self.measuring,
            CLIENTS,
            scale.rounds,
            seed,
            self.device,
        )

    @property
    def identity(self) -> object:
        """What a folder is for: all but how many runs there are, and on what they were computed."""
        data = self.data and str(Path(self.data).resolve())
        scale = self.scale._replace(seeds=0, benign_runs=0, attacked_runs=0)
        return asdict(replace(self, data=data, scale=scale, seeds=0, device=""))

    def conditional(self, attack: bool, seed: int) -> GanFederation | None:
        """Return the settings of a run with a conditional GAN; None where images have no labels."""
        classes = len(opened(self.images, CLIENTS).collection.classes or ())
        if classes < 2:
            return None
        plain = self.federation(Arm(attack, "bce", PLAIN), seed)
        return replace(plain, gan=replace(plain.gan, classes=classes))

    def rule(self, name: str, loss: Loss = "bce", lead: float | None = None) -> Rule:
        """Return a fresh rule for clients that train with a loss.

        Args:
            name: Of the rule.
            loss: What clients train with.
            lead: The threshold from benign runs, for the rule that is calibrated on these.

        Raises:
            ConfigError: There is none of that name.
        """
        if name in DETECTIONS:
            return self.detection(name, loss, lead)
        if name == PLAIN:
            return Mean(by_records=False)
        if name in ROBUST:
            return FlowerRule(name, ROBUST[name])
        raise ConfigError(f"there is no rule {name}")

    def detection(self, name: str, loss: Loss, lead: float | None = None) -> FedDetect:
        """Return a fresh rule that flags clients; its arguments are those of `rule`."""
        warm_up, rounds = self.scale.warm_up, self.scale.rounds
        if name == RELEASED:
            return FedDetect(CLIENTS, warm_up)
        if name == OWN:
            return FedDetectCalibrated(CLIENTS, warm_up, rate=RATE, lead=lead)
        scale = COMPARED[loss]
        return FedDetectCalibrated(CLIENTS, warm_up, rate=RATE, rounds=rounds, scale=scale)

    def _channels(self) -> int:
        return opened(self.images, CLIENTS).collection.spec.channels
