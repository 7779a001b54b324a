"""The networks that come with medbreach."""

from medbreach.components import Model
from medbreach.hookspecs import hookimpl
from medbreach.models import breaching_networks, monai_networks, torchvision_networks
from medbreach.models.mlp import MLP, Linear
from medbreach.models.rgap_cnn import RGAPNetwork
from medbreach.models.small_cnn import SmallCNN
from medbreach.models.vit_april import AprilTransformer


@hookimpl
def medbreach_models() -> list[type[Model]]:
    """Return the networks in this package."""
    return [
        AprilTransformer,
        Linear,
        MLP,
        RGAPNetwork,
        SmallCNN,
        *breaching_networks.networks(),
        *monai_networks.networks(),
        *torchvision_networks.networks(),
    ]
