"""Leakage audits of federated models on medical images, in 2D and true 3D.

The names below are the public API; what is imported on first use keeps the program's start fast.
"""

from typing import TYPE_CHECKING

from medbreach.lazy import lazily

if TYPE_CHECKING:
    from medbreach.case import Case as Case
    from medbreach.collection import Collection as Collection
    from medbreach.collection import Entry as Entry
    from medbreach.components import Attack as Attack
    from medbreach.components import ClientTask as ClientTask
    from medbreach.components import Dataset as Dataset
    from medbreach.components import Defense as Defense
    from medbreach.components import Gradient as Gradient
    from medbreach.components import LocalTraining as LocalTraining
    from medbreach.components import Metric as Metric
    from medbreach.components import Model as Model
    from medbreach.components import Planted as Planted
    from medbreach.components import Server as Server
    from medbreach.components import StepGradient as StepGradient
    from medbreach.components import Workload as Workload
    from medbreach.components import mean_gradient as mean_gradient
    from medbreach.components import trainable as trainable
    from medbreach.errors import ConfigError as ConfigError
    from medbreach.errors import DataError as DataError
    from medbreach.errors import MedbreachError as MedbreachError
    from medbreach.errors import ModelError as ModelError
    from medbreach.errors import NotApplicable as NotApplicable
    from medbreach.errors import Refused as Refused
    from medbreach.hookspecs import hookimpl as hookimpl
    from medbreach.randomness import Seeds as Seeds
    from medbreach.randomness import lend_global as lend_global
    from medbreach.round import mean_update as mean_update
    from medbreach.types import Batch as Batch
    from medbreach.types import Change as Change
    from medbreach.types import Exchange as Exchange
    from medbreach.types import Finding as Finding
    from medbreach.types import Guarantee as Guarantee
    from medbreach.types import ImageSpec as ImageSpec
    from medbreach.types import Recipe as Recipe
    from medbreach.types import Reconstruction as Reconstruction
    from medbreach.types import Reveals as Reveals
    from medbreach.types import Round as Round
    from medbreach.types import Update as Update
    from medbreach.types import Verdict as Verdict

_HOMES = {
    "Case": "case",
    "Collection": "collection",
    "Entry": "collection",
    "Attack": "components",
    "ClientTask": "components",
    "Gradient": "components",
    "StepGradient": "components",
    "Workload": "components",
    "mean_gradient": "components",
    "trainable": "components",
    "Dataset": "components",
    "Defense": "components",
    "LocalTraining": "components",
    "Metric": "components",
    "Model": "components",
    "Planted": "components",
    "Server": "components",
    "ConfigError": "errors",
    "DataError": "errors",
    "MedbreachError": "errors",
    "ModelError": "errors",
    "NotApplicable": "errors",
    "Refused": "errors",
    "hookimpl": "hookspecs",
    "Seeds": "randomness",
    "lend_global": "randomness",
    "mean_update": "round",
    "Batch": "types",
    "Change": "types",
    "Exchange": "types",
    "Finding": "types",
    "Guarantee": "types",
    "ImageSpec": "types",
    "Recipe": "types",
    "Reconstruction": "types",
    "Reveals": "types",
    "Round": "types",
    "Update": "types",
    "Verdict": "types",
}

__all__ = list(_HOMES)  # the names above; a test compares them

__getattr__ = lazily("medbreach", _HOMES)
