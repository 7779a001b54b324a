"""What a plugin can offer: the six kinds of component.

A component is a frozen dataclass. Its fields are its settings: the same names appear in the YAML
under ``cases/``, in ``medbreach show`` and in the reference. The base class checks what goes in and
what comes out; the subclass computes.
"""

from medbreach.components.attack import Attack as Attack
from medbreach.components.client import ClientTask as ClientTask
from medbreach.components.client import Gradient as Gradient
from medbreach.components.client import LocalTraining as LocalTraining
from medbreach.components.client import StepGradient as StepGradient
from medbreach.components.client import Workload as Workload
from medbreach.components.client import mean_gradient as mean_gradient
from medbreach.components.client import no_others as no_others
from medbreach.components.client import trainable as trainable
from medbreach.components.component import Component as Component
from medbreach.components.component import is_finite as is_finite
from medbreach.components.dataset import Dataset as Dataset
from medbreach.components.defense import Defense as Defense
from medbreach.components.metric import Metric as Metric
from medbreach.components.model import Model as Model
from medbreach.components.server import Planted as Planted
from medbreach.components.server import Server as Server
