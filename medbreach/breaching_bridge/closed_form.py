"""breaching's attackers that solve equations instead of descending."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from medbreach.breaching_bridge import library
from medbreach.breaching_bridge.chains import chain_for_rgap
from medbreach.breaching_bridge.images import WithLabels
from medbreach.breaching_bridge.values import Container
from medbreach.errors import NotApplicable


class ImprintReadout(WithLabels, library.analytic.ImprintAttacker):  # type: ignore[misc]
    """breaching's reading of a planted layer, for images of any number of axes and channels."""

    needs_labels = False

    def reconstruct(self, server_payload: Any, shared_data: Any, secrets: Any, *rest: Any) -> Any:
        """Undo a shuffling of rows where the layer is, then do as breaching does."""
        if self.cfg.sort_by_bias:  # breaching looks for the layer's bias in a fixed place
            place = secrets["ImprintBlock"]
            order = place["bias"].argsort(descending=True)
            gradients = shared_data[0]["gradients"]
            for k in (place["weight_idx"], place["bias_idx"]):
                gradients[k] = gradients[k][order]
            self.cfg.sort_by_bias = False
        return super().reconstruct(server_payload, shared_data, secrets, *rest)

    def reduce_hits(
        self, layer_inputs: Tensor, weight_grad: Tensor, bias_grad: Tensor, shared_data: Any
    ) -> Tensor:
        """Reduce as breaching does; without the number of records, not at all."""
        if self.exchange.update.count is None:
            return layer_inputs
        kept: Tensor = super().reduce_hits(layer_inputs, weight_grad, bias_grad, shared_data)
        return kept

    def reformat_data(self, layer_inputs: Tensor, *_: Any) -> Tensor:
        """Reshape and clamp as breaching does, which leaves channels after the third out."""
        images = layer_inputs.reshape(len(layer_inputs), *self.exchange.spec.shape)
        return torch.max(torch.min(images, (1 - self.dm) / self.ds), -self.dm / self.ds)


class April(WithLabels, library.analytic.AprilAttacker):  # type: ignore[misc]
    """breaching's inversion of a vision transformer's first block.

    Differs from breaching: blank images for the other records of a batch are not claimed.
    """

    needs_labels = False

    def reconstruct(self, server_payload: Any, shared_data: Any, *rest: Any) -> Any:
        """Check that the network is such a transformer, then do as breaching does.

        Raises:
            NotApplicable: It is not.
        """
        names = list(self.exchange.update.change)
        wanted = {
            1: "pos_embed",
            2: "patch_embed.proj.weight",
            3: "patch_embed.proj.bias",
            4: "blocks.0.attn.qkv.weight",
        }
        if any(names[k : k + 1] != [name] for k, name in wanted.items()):
            raise NotApplicable(
                "april_analytic needs a vision transformer with learned positions whose first "
                "block has attention without normalisation, such as case.model=vit_april"
            )
        shared_data[0]["metadata"]["num_data_points"] = 1  # it sets the number of blank images
        found, statistics = super().reconstruct(server_payload, shared_data, *rest)
        return found, statistics


class Recursive(WithLabels, library.recursive.RecursiveAttacker):  # type: ignore[misc]
    """breaching's port of R-GAP."""

    needs_labels = False

    def reconstruct(self, server_payload: Any, shared_data: Any, *rest: Any) -> Any:
        """Check that the network is a chain that R-GAP can go back along, then go.

        Raises:
            NotApplicable: It is not, or there is more than one record.
        """
        if self.exchange.update.count != 1:
            raise NotApplicable("rgap reconstructs one record, not a batch")
        self.model_template = Container(chain_for_rgap(self.exchange))
        self.setup = {**self.setup, "device": torch.device("cpu")}
        for shared in shared_data:
            shared["gradients"] = [g.cpu() for g in shared["gradients"]]
        try:
            found, statistics = super().reconstruct(server_payload, shared_data, *rest)
        except np.linalg.LinAlgError:  # the update is not that of one record any more
            return {"data": self._nothing(), "labels": None}, {}
        if not found["data"].isfinite().all():
            found["data"] = self._nothing()
        return found, statistics

    def _nothing(self) -> Tensor:
        return torch.zeros(0, *self.data_shape, **self.setup)
