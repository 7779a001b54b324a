"""Inspecting what the server sent, and refusing it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from medbreach.components import Defense
from medbreach.errors import Refused
from medbreach.inspection import Sign
from medbreach.inspection.agreement import compare, extra_layers
from medbreach.inspection.battery import run_tests
from medbreach.inspection.view import View, look_at
from medbreach.types import ImageSpec

SHOWN = 3


@dataclass(frozen=True)
class ModelInspection(Defense):
    """Refuse a model that looks as if it was made to read records out of updates.

    It does what ``medbreach check-model`` does, but for what needs a file of the round before or
    public images. The signs that it looks for are those of attacks that are known; a server that
    knows of the inspection may evade it.

    Attributes:
        architecture: Name of the model that was agreed on; layers that it has not are refused.
            Null: the model is judged by itself.
        sure: Refuse at signs of ``medium`` confidence too, or only at those of ``high``.
    """

    name: ClassVar[str] = "model_inspection"
    source: ClassVar[str] = "medbreach; one of its tests is SEER's D-SNR, arXiv:2306.03013"

    architecture: str | None = None
    sure: Literal["medium", "high"] = "medium"

    def vet(self, model: nn.Module, spec: ImageSpec) -> None:
        """Look at the model that the server sent.

        Raises:
            Refused: It shows signs of an attack, or is not the agreed architecture.
            ConfigError: There is no architecture of that name.
            ModelError: It cannot be run.
        """
        view = look_at(model, spec)
        signs = [*self._against_agreed(view), *run_tests(view)]
        reasons = [sign for sign in signs if self.sure == "medium" or sign.sure == "high"]
        if reasons:
            more = f"; and {len(reasons) - SHOWN} more signs" if len(reasons) > SHOWN else ""
            told = "; ".join(_told(sign) for sign in reasons[:SHOWN])
            raise Refused(f"the model was refused: {told}{more}")

    def _against_agreed(self, view: View) -> Iterator[Sign]:
        if self.architecture is None:
            return
        from medbreach import plugins

        chosen = plugins.pick(plugins.models(), self.architecture, "model")
        agreed = chosen()(view.spec, view.classes, view.rng())
        sent = view.model.state_dict()
        difference = compare(agreed.state_dict(), sent)
        yield from extra_layers(difference, sent, view.spec, f"the agreed {self.architecture}")
        if difference.missing:
            yield Sign(
                "missing layers",
                difference.missing,
                "high",
                f"the agreed {self.architecture} has {difference.missing[0]}; the model has not, "
                "or has it in another shape",
            )


def _told(sign: Sign) -> str:
    where = f" ({', '.join(sign.where[:2])})" if sign.where else ""
    return f"{sign.kind}{where}: {sign.words}"
