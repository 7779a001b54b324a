"""What is reproduced, and on what."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from medbreach import DataError

PUBLICATION: Final = "Jiang, Firouzi and Chakrabarty 2025, arXiv:2503.16542"
EPOCHS: Final = 5  # of local training before the update that is attacked, as published

DP_PSNR: Final[Mapping[str, tuple[float, ...]]] = {
    "cifar10": (16.35, 13.28, 8.05, 6.94, 6.95, 6.86),
    "bloodmnist": (10.43, 7.68, 6.78, 6.71, 6.84, 6.63),
}
"""Published for DP-SGD at six noise levels, which are not given, from the least to the greatest."""

BIDO_PSNR: Final[Mapping[str, Mapping[tuple[float, float], float]]] = {
    "cifar10": {
        (2, 10): 9.18, (1, 10): 8.5, (0.5, 10): 8.64, (0.1, 3): 8.48, (0.5, 20): 9.33,
        (0.1, 5): 8.82,
    },
    "bloodmnist": {
        (1, 5): 9.29, (0.5, 5): 7.73, (0.1, 2): 11.17, (0.1, 3): 7.26, (0.1, 4): 7.31,
        (0.1, 5): 7.0,
    },
}  # fmt: skip
"""Published for BiDO by lambda_x and lambda_y; with which measure of dependence is not said."""

OWN_PSNR: Final[Mapping[str, tuple[float, ...]]] = {
    "cifar10": (6.72, 6.65, 6.43, 6.72, 6.32, 7.79),
    "bloodmnist": (6.02, 6.21, 6.05, 6.26, 6.55, 6.37),
}
"""Published for the two kinds of noise together, in six settings that are not told apart."""

NOISE_MULTIPLIERS: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # ours
MEANS: Final = (0.1, 0.3, 1.0)  # of fixed noise; ours


class Scale(NamedTuple):
    """How much is computed.

    Attributes:
        records: In a batch that is attacked; published: 8.
        width: Of the network's first convolution; published: 64.
        rounds: Of training.
        iterations: Of the attack.
        batches: That are attacked, a seed each.
        trained: Seeds that are trained for.
        dp: How many of DP-SGD's noise levels are tried.
        bido: How many of BiDO's pairs.
        means: How many of the fixed means.
    """

    records: int
    width: int
    rounds: int
    iterations: int
    batches: int
    trained: int
    dp: int
    bido: int
    means: int


QUICK: Final = Scale(2, 8, 20, 300, 4, 1, 1, 1, 1)
NORMAL: Final = Scale(8, 8, 30, 600, 4, 1, 3, 2, 2)
FULL: Final = Scale(8, 64, 400, 24000, 8, 3, 6, 6, 3)


class Variant(NamedTuple):
    """One line of the tables.

    Attributes:
        stack: Its name.
        family: The defense in words.
        members: Settings of its defenses.
        published: PSNR that was published for it, in words.
    """

    stack: str
    family: str
    members: tuple[Mapping[str, Any], ...]
    published: str


@dataclass(frozen=True)
class Setting:
    """What to reproduce.

    Attributes:
        data: ``cifar10``, ``bloodmnist``, a folder of pictures with a subfolder a class, or an
            ``.npz`` file; empty: the dermoscopy patches that come with medbreach.
        scale: How much is computed.
    """

    data: str = ""
    scale: Scale = NORMAL

    @property
    def overrides(self) -> list[str]:
        """The settings of the case, the attack and the training.

        Raises:
            DataError: There is no such data.
        """
        scale = self.scale
        rate = 0.001
        return [
            "case=learnable_perturbation", *self._images(), f"case.model.width={scale.width}",
            f"case.user.num_data_points={scale.records}", f"case.user.num_local_epochs={EPOCHS}",
            f"case.user.num_data_per_local_update_step={scale.records}",
            "attack=invertinggradients", f"attack.optim.max_iterations={scale.iterations}",
            "attack.optim.step_size_decay=cosine-decay",
            "attack.regularization.total_variation.scale=0.05",
            f"audit.seeds={scale.batches}", "audit.metrics=[psnr,mse,mse_normalised,ssim]",
            f"training.rounds={scale.rounds}", f"training.seeds={scale.trained}",
            "training.optimizer=adam", f"training.learning_rate={rate}",
        ]  # fmt: skip

    def _images(self) -> list[str]:
        """Return the settings of the data set."""
        if not self.data:
            return ["case.data.labels=melanoma"]
        if self.data == "cifar10":
            return ["case/data=CIFAR10", "case.data.default_clients=4"]
        if self.data == "bloodmnist":
            return [
                "case/data=medmnist", "case.data.flag=bloodmnist",
                "case.data.examples_from_split=training",
            ]  # fmt: skip
        path = Path(self.data)
        if not path.exists():
            raise DataError(
                f"there is no {self.data}: give cifar10, bloodmnist, a folder of pictures with a "
                "subfolder a class, or an .npz file"
            )
        kind = "npz" if path.suffix == ".npz" else "image_folder"
        size = [] if kind == "npz" else ["case.data.size=[32,32]"]
        return [f"case/data={kind}", f"case.data.path={self.data}", *size]

    @property
    def variants(self) -> list[Variant]:
        """The lines of the tables, the undefended one first."""
        return [
            Variant("none", "no defense", (), "-"),
            *self._dp(),
            *self._bido(),
            *self._fixed(),
            self._learned(),
        ]

    def _dp(self) -> list[Variant]:
        published = DP_PSNR.get(self.data)
        found = []
        for k in _spread(len(NOISE_MULTIPLIERS), self.scale.dp):
            noise = NOISE_MULTIPLIERS[k]
            told = f"{published[k]} (level {k + 1} of 6)" if published else _range(DP_PSNR)
            member = {
                "name": "dp_sgd", "noise_multiplier": noise, "max_grad_norm": 1.0,
                "rounds": self.scale.rounds,
            }  # fmt: skip
            found.append(_variant(f"DP-SGD, noise {noise:g}", "DP-SGD", member, told))
        return found

    def _bido(self) -> list[Variant]:
        pairs = BIDO_PSNR.get(self.data, BIDO_PSNR["bloodmnist"])
        chosen = [list(pairs)[k] for k in _spread(len(pairs), self.scale.bido)]
        found = []
        for x, y in chosen:
            told = f"{pairs[x, y]}" if self.data in BIDO_PSNR else f"{pairs[x, y]} on BloodMNIST"
            member = {"name": "bido", "lambda_x": float(x), "lambda_y": float(y)}
            found.append(_variant(f"BiDO ({x:g}, {y:g})", "BiDO (HSIC)", member, told))
        return found

    def _fixed(self) -> list[Variant]:
        member = {"name": "learnable_perturbation", "kind": "fixed", "std": 0.1}
        return [
            _variant(
                f"fixed noise, mean {mean:g}", "fixed noise", {**member, "mean": mean}, self._own()
            )
            for mean in MEANS[: self.scale.means]
        ]

    def _learned(self) -> Variant:
        member = {"name": "learnable_perturbation", "kind": "learned"}
        return _variant("learned noise", "learned noise", member, self._own())

    def _own(self) -> str:
        if self.data in OWN_PSNR:
            return f"{min(OWN_PSNR[self.data])} to {max(OWN_PSNR[self.data])}"
        return _range(OWN_PSNR)


def _variant(stack: str, family: str, member: Mapping[str, Any], published: str) -> Variant:
    return Variant(stack, family, ({**member, "label": stack},), published)


def _range(published: Mapping[str, tuple[float, ...]]) -> str:
    every = [value for values in published.values() for value in values]
    return f"{min(every)} to {max(every)} on others"


def _spread(count: int, wanted: int) -> list[int]:
    """Return so many of the first numbers, spread evenly; the middle one if it is one.

    >>> _spread(6, 3)
    [0, 2, 5]
    """
    if wanted == 1:
        return [count // 2]
    return [k * (count - 1) // (wanted - 1) for k in range(wanted)]
