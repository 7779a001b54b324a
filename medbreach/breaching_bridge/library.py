"""The one import of breaching, with what it prints and warns kept away from the user."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

from PIL import ImageFile

log = logging.getLogger(__name__)

_strict = ImageFile.LOAD_TRUNCATED_IMAGES
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch.jit is deprecated; breaching 0.1.2 scripts its losses
    import breaching.attacks as attacks
    import breaching.attacks.analytic_attack as analytic
    import breaching.attacks.auxiliaries.objectives as objectives
    import breaching.attacks.auxiliaries.regularizers as regularizers
    import breaching.attacks.multiscale_optimization_attack as multiscale
    import breaching.attacks.optimization_based_attack as optimization
    import breaching.attacks.optimization_with_label_attack as joint
    import breaching.attacks.recursive_attack as recursive
    import breaching.cases.malicious_modifications as modifications
    import breaching.cases.models.model_preparation as networks
ImageFile.LOAD_TRUNCATED_IMAGES = _strict  # breaching lets truncated images pass, for everybody

__all__ = [
    "analytic",
    "attacks",
    "joint",
    "modifications",
    "multiscale",
    "networks",
    "objectives",
    "optimization",
    "quiet",
    "recursive",
    "regularizers",
]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Send what breaching prints to the log, and drop its deprecation warnings."""
    printed = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(printed):
        warnings.simplefilter("ignore")
        yield
    for line in printed.getvalue().splitlines():
        log.debug("breaching: %s", line)
