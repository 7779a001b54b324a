"""breaching's networks."""

from omegaconf import OmegaConf
from torch import nn

from medbreach.breaching_bridge import library
from medbreach.errors import ModelError
from medbreach.types import ImageSpec


def construct(name: str, spec: ImageSpec, classes: int) -> nn.Module:
    """Return a network of breaching's, out of its container.

    Raises:
        ModelError: breaching cannot build it for such images.
    """
    words = OmegaConf.create({"name": "medbreach", "shape": list(spec.shape), "classes": classes})
    try:
        with library.quiet():
            container = library.networks._construct_vision_model(name, words, pretrained=False)
    except (ValueError, RuntimeError, KeyError) as error:
        raise ModelError(f"breaching cannot build {name}: {error}") from error
    network: nn.Module = container.model
    return network
