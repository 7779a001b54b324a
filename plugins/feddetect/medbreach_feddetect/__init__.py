"""Backdoored federated GANs, and FedDetect, which looks for who poisons them."""

from typing import TYPE_CHECKING

from medbreach import hookimpl
from medbreach.lazy import lazily

if TYPE_CHECKING:
    import click

    from medbreach_feddetect.learner import GanLearner as GanLearner
    from medbreach_feddetect.learner import build as build
    from medbreach_feddetect.learner import write_setting as write_setting
    from medbreach_feddetect.rules import FedDetect as FedDetect
    from medbreach_feddetect.rules import FedDetectCalibrated as FedDetectCalibrated
    from medbreach_feddetect.setting import Gan as Gan
    from medbreach_feddetect.setting import GanFederation as GanFederation
    from medbreach_feddetect.setting import Images as Images
    from medbreach_feddetect.setting import Measuring as Measuring
    from medbreach_feddetect.setting import Poisoning as Poisoning

_HOMES = {
    "GanLearner": "learner",
    "build": "learner",
    "write_setting": "learner",
    "FedDetect": "rules",
    "FedDetectCalibrated": "rules",
    "Gan": "setting",
    "GanFederation": "setting",
    "Images": "setting",
    "Measuring": "setting",
    "Poisoning": "setting",
}

__all__ = list(_HOMES)

__getattr__ = lazily("medbreach_feddetect", _HOMES)


@hookimpl
def medbreach_reproductions() -> "list[click.Command]":
    """Return the claims of the source."""
    from medbreach_feddetect.reproduction.command import reproduce_command

    return [reproduce_command]
