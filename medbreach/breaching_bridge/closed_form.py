"""breaching's attackers that solve equations instead of descending."""

from typing import Any

import torch
from torch import Tensor, nn

from medbreach.breaching_bridge import library
from medbreach.breaching_bridge.descent import AnyImage
from medbreach.errors import NotApplicable

PASSIVE = (nn.Sequential, nn.Flatten, nn.Linear, nn.ReLU, nn.Identity, nn.Sigmoid, nn.Tanh)


def layers(model: nn.Module) -> list[nn.Module]:
    """Return a network's layers, in order, without their containers."""
    return [m for m in model.modules() if not list(m.children())]


class Analytic(AnyImage, library.analytic.AnalyticAttacker):  # type: ignore[misc]
    """breaching's inversion of fully connected networks."""

    def reconstruct(self, server_payload: Any, shared_data: Any, *rest: Any) -> Any:
        """Check that the network is one, then do as breaching does.

        Raises:
            NotApplicable: The network is not a sequence of linear layers.
        """
        found = layers(self.exchange.model)
        if not found or not isinstance(found[0], nn.Flatten):
            raise NotApplicable("analytic needs a network that starts with nn.Flatten")
        strange = next((m for m in found if not isinstance(m, PASSIVE)), None)
        if strange is not None:
            raise NotApplicable(
                f"analytic needs a sequence of linear layers, the network has a "
                f"{type(strange).__name__}"
            )
        if any(m.bias is None for m in found if isinstance(m, nn.Linear)):
            raise NotApplicable("analytic needs a bias in every linear layer")
        return super().reconstruct(server_payload, shared_data, *rest)

    def invert_fc_layer(self, weight_grad: Tensor, bias_grad: Tensor, positions: Any) -> Tensor:
        """Divide as breaching does; where its row numbers, the labels, run out, start again."""
        usable = int((bias_grad != 0).sum())
        if usable == 0:
            raise NotApplicable("the update of a linear layer's bias is zero everywhere")
        if len(positions) > 1:
            positions = positions % usable
        inverted: Tensor = super().invert_fc_layer(weight_grad, bias_grad, positions)
        return inverted


class ImprintReadout(AnyImage, library.analytic.ImprintAttacker):  # type: ignore[misc]
    """breaching's reading of a planted layer, for images of any number of axes."""


class April(AnyImage, library.analytic.AprilAttacker):  # type: ignore[misc]
    """breaching's inversion of a vision transformer's first block."""

    def reconstruct(self, server_payload: Any, shared_data: Any, *rest: Any) -> Any:
        """Check that the network is such a transformer, then do as breaching does.

        Raises:
            NotApplicable: It is not.
        """
        model = self.exchange.model
        blocks = getattr(model, "blocks", None)
        names = list(self.exchange.update.change)[:5]
        wanted = ["pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"]
        if blocks is None or [n for n in wanted if n not in names] or "attn.qkv" not in names[-1]:
            raise NotApplicable(
                "april_analytic needs a vision transformer with learned positions whose first "
                "block has attention without normalisation, such as case.model=vit_april"
            )
        return super().reconstruct(server_payload, shared_data, *rest)


class Recursive(AnyImage, library.recursive.RecursiveAttacker):  # type: ignore[misc]
    """breaching's port of R-GAP."""

    def reconstruct(self, server_payload: Any, shared_data: Any, *rest: Any) -> Any:
        """Check that the network is a chain that R-GAP can go back along, then go.

        Raises:
            NotApplicable: It is not, or there is more than one record.
        """
        if self.exchange.update.count != 1:
            raise NotApplicable("rgap reconstructs one record, not a batch")
        chain = [m for m in layers(self.exchange.model) if not isinstance(m, nn.Flatten)]
        *body, last = chain
        alternates = all(
            isinstance(m, (nn.Conv2d, nn.Linear) if i % 2 == 0 else (nn.LeakyReLU,))
            for i, m in enumerate(body)
        )
        if not isinstance(last, nn.Linear) or not alternates or len(body) % 2:
            raise NotApplicable(
                "rgap needs convolutions and leaky ReLUs in turn, then one linear layer, such as "
                "case.model=rgap_cnn"
            )
        if any(m.bias is not None for m in body if isinstance(m, (nn.Conv2d, nn.Linear))):
            raise NotApplicable("rgap needs convolutions without bias")
        return super().reconstruct(server_payload, shared_data, *rest)
